"""Features by name, as a notebook asks for them: whole views, single features, and what on-demand features read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.definitions.feature import FeatureSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.on_demand import OnDemandSpec


class Chosen(msgspec.Struct, frozen=True):
    """What is asked for.

    Attributes:
        names: full names of the features that are given back, in the order they were asked for; a whole view's by name.
        views: what is read, narrowed to the features that are needed; each keeps its definition version.
        on_demand: what is computed of it.
    """

    names: tuple[str, ...]
    views: dict[str, FeatureViewSpec]
    on_demand: tuple[OnDemandSpec, ...]

    @property
    def keys(self) -> list[str]:
        """Columns that name the entities."""
        return sorted({key for spec in self.views.values() for key in spec.entity.keys})

    @property
    def read(self) -> list[str]:
        """Full names of the features that are read."""
        return [f"{view}.{feature}" for view, spec in self.views.items() for feature in spec.features]

    @property
    def vectors(self) -> dict[str, FeatureViewSpec]:
        """Views of which vectors are read."""
        return {view: spec for view, spec in self.views.items() if spec.models}

    def without_vectors(self, asked: Sequence[str] = ()) -> Chosen:
        """The same without features declared by ``embed``, but for those that are asked for by their full names.

        Raises:
            InvalidInputError: nothing is left.
        """
        out = {f"{view}.{name}" for view, spec in self.views.items() for name in spec.models}.difference(asked)
        if out.issuperset(self.names):
            raise InvalidInputError(
                f"{', '.join(sorted(out))} is a vector: a whole view is looked up without its vectors.",
                where="features",
                next_step="Ask for it by its full name, or for its nearest neighbours.",
            )
        views = {
            view: msgspec.structs.replace(
                spec, features={name: one for name, one in spec.features.items() if f"{view}.{name}" not in out}
            )
            for view, spec in self.views.items()
        }
        names = tuple(name for name in self.names if name not in out)
        return Chosen(names, {view: spec for view, spec in views.items() if spec.features}, self.on_demand)


def choose(
    features: Sequence[str], views: Mapping[str, FeatureViewSpec], on_demand: Mapping[str, OnDemandSpec]
) -> Chosen:
    """The features named, ``view`` or ``view.feature``, of what is applied.

    Raises:
        NotFoundError: there is no such view or feature. InvalidInputError: these are not names.
    """
    if isinstance(features, str) or not features:
        raise InvalidInputError("Name features as a list of texts.", where="features")
    names: dict[str, None] = {}
    computed: dict[str, OnDemandSpec] = {}
    for asked in map(str, features):
        view, _, feature = asked.partition(".")
        known = on_demand[view].features if view in on_demand else views[view].features if view in views else None
        if known is None or (feature and feature not in known):
            there = ", ".join(known if known is not None else sorted({*views, *on_demand})) or "none"
            raise NotFoundError(f"There is no {asked!r}.", where="features", next_step=f"There are: {there}.")
        names |= dict.fromkeys([asked] if feature else [f"{view}.{each}" for each in sorted(known)])
        if view in on_demand:
            computed[view] = on_demand[view]
    needed: dict[str, dict[str, FeatureSpec]] = {}
    for name in [*names, *sorted({read for spec in computed.values() for read in spec.reads()})]:
        view, _, feature = name.partition(".")
        if view in views:
            needed.setdefault(view, {})[feature] = views[view].features[feature]
    narrowed = {view: msgspec.structs.replace(views[view], features=chosen) for view, chosen in needed.items()}
    return Chosen(tuple(names), narrowed, tuple(computed.values()))
