"""Resolution of feature names: ``view`` or ``view.feature``, over the applied views and on-demand features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.suggestions import nearest
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.on_demand import OnDemandSpec

_LIST = "`antiphon features list` shows the views."


class ResolvedFeatures(msgspec.Struct, frozen=True):
    """Resolved features.

    Attributes:
        names: full names of the returned features, in the order requested; those of a whole view by name.
        views: the views that are read, also for on-demand features, narrowed to the features read; each keeps its
            definition version.
        on_demand: the on-demand views that are computed.
        whole: names of views that were requested as a whole.
    """

    names: tuple[str, ...]
    views: dict[str, FeatureViewSpec]
    on_demand: tuple[OnDemandSpec, ...] = ()
    whole: frozenset[str] = frozenset()

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


def select_features(
    requested: Sequence[str],
    views: Mapping[str, FeatureViewSpec],
    on_demand: Mapping[str, OnDemandSpec],
    *,
    vectors: bool = True,
) -> ResolvedFeatures:
    """Resolve feature names.

    Args:
        vectors: whole views include their features declared by ``embed``; otherwise only full names do.

    Raises:
        NotFoundError: no name is given, or some are unknown; all unknown ones are listed.
        InvalidInputError: a whole view has only vectors, and these are not included.
    """
    names: dict[str, None] = {}
    whole: set[str] = set()
    computed: dict[str, OnDemandSpec] = {}
    unknown: list[str] = []
    for name in requested:
        view, dot, feature = name.partition(".")
        spec = views.get(view) or on_demand.get(view)
        if spec is None or (dot and feature not in spec.features):
            unknown.append(name)
            continue
        if isinstance(spec, OnDemandSpec):
            computed[view] = spec
        if dot:
            names[name] = None
        else:
            whole.add(view)
            names |= dict.fromkeys(f"{view}.{one}" for one in _features_of(spec, vectors))
    if unknown:
        raise _unknown_features(unknown, views, on_demand)
    if not names:
        raise NotFoundError(
            "No feature is named.", where="features", next_step="Name views or VIEW.FEATURE, or an application."
        )
    needed: dict[str, list[str]] = {}
    for name in [*names, *sorted({read for spec in computed.values() for read in spec.reads()})]:
        view, _, feature = name.partition(".")
        if view in views:
            needed.setdefault(view, []).append(feature)
    narrowed = {
        view: msgspec.structs.replace(
            views[view], features={one: views[view].features[one] for one in dict.fromkeys(chosen)}
        )
        for view, chosen in needed.items()
    }
    return ResolvedFeatures(tuple(names), narrowed, tuple(computed.values()), frozenset(whole))


def unknown_views(names: Sequence[str], known: Iterable[str], where: str) -> NotFoundError:
    """The error for names of views that are not applied; without names, that no view is applied."""
    return NotFoundError(
        f"No view named {', '.join(map(repr, names))} is applied." if names else "No view is applied.",
        where=where,
        next_step=nearest(names[0] if names else "", known, f"{_LIST} `antiphon apply` applies definitions."),
    )


def _features_of(spec: FeatureViewSpec | OnDemandSpec, vectors: bool) -> list[str]:
    if isinstance(spec, OnDemandSpec) or vectors:
        return sorted(spec.features)
    columns = sorted(name for name in spec.features if name not in spec.models)
    if not columns:
        raise InvalidInputError(
            f"Every feature of {spec.name} is a vector.",
            where="features",
            next_step=f"Name the vectors: {', '.join(f'{spec.name}.{name}' for name in spec.models)}.",
        )
    return columns


def _unknown_features(
    names: Sequence[str], views: Mapping[str, FeatureViewSpec], on_demand: Mapping[str, OnDemandSpec]
) -> NotFoundError:
    every: list[FeatureViewSpec | OnDemandSpec] = [*views.values(), *on_demand.values()]
    known = [*views, *on_demand, *(f"{view.name}.{feature}" for view in every for feature in view.features)]
    return NotFoundError(
        f"No such feature is applied: {', '.join(names)}.", where="features", next_step=nearest(names[0], known, _LIST)
    )
