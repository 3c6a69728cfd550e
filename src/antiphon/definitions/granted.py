"""Views and models of other tenants, by the names under which their owners grant them: named, not defined."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from antiphon.definitions.entity import Entity
from antiphon.definitions.expression import FeatureName
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.place import CodeLocation, caller, declared

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}/[a-z][a-z0-9_]*\Z")
_TRAINED = re.compile(r"([a-z0-9][a-z0-9-]{0,62})/[^/\sA-Z]+\.v\d+\Z")


class GrantedView:
    """A view of another tenant, for the ``features`` of an application.

    ``Orders.placed`` is the name ``"acme/orders.placed"``. A prompt reads it as ``features.acme_orders.placed``: in
    templates ``/`` and ``-`` are written ``_``. Its definition version is the one that the owner applied when this
    project is applied.

    Args:
        name: ``OWNER/VIEW``.
        entity: the :class:`Entity` of this project with the view's key columns.
        features: names of the features that are used.

    Example::

        Orders = GrantedView("acme/orders", entity=shop, features=["placed", "minutes"])
    """

    def __init__(self, name: str, *, entity: object, features: Sequence[str]) -> None:
        self.place = caller()
        self.name = name
        self.entity = entity
        self.body = dict.fromkeys((features,) if isinstance(features, str) else features)
        self.spec: FeatureViewSpec | None = None
        """The owner's definition, once the catalog was asked."""
        declared(self)

    def __getattr__(self, name: str) -> FeatureName:
        if not name.startswith("_") and name in self.__dict__.get("body", {}):
            return FeatureName(f"{self.name}.{name}")
        raise AttributeError(f"The view {self.__dict__.get('name')!r} names no feature {name!r}.")

    def mistakes(self) -> Iterator[tuple[CodeLocation, str]]:
        """Yields the mistakes of the declaration, a sentence each."""
        label = f"granted view {self.name!r}"
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            yield self.place, f"{label}: a name is OWNER/VIEW, such as 'acme/orders'."
        if not isinstance(self.entity, Entity):
            yield self.place, f"{label}: entity must be an Entity, not {self.entity!r}."
        if not self.body or not all(isinstance(feature, str) for feature in self.body):
            yield self.place, f"{label}: features must name those that are used."

    def differences(self, spec: FeatureViewSpec | None) -> Iterator[tuple[CodeLocation, str]]:
        """Yields what is declared of it and is not so in the owner's definition; ``None``: it is not granted."""
        label = f"granted view {self.name!r}"
        if spec is None:
            yield self.place, f"{label}: there is no such view that is granted to this tenant."
            return
        if isinstance(self.entity, Entity) and tuple(self.entity.keys) != spec.entity.keys:
            yield self.place, f"{label}: its keys are {', '.join(spec.entity.keys)}."
        columns = [name for name in spec.features if name not in spec.models]
        for feature in self.body:
            if feature not in columns:
                yield self.place, f"{label}: it has no feature {feature!r}; it has {', '.join(columns)}."


def owner_of(view: str) -> str | None:
    """The tenant that a granted view's name names; ``None``: the view is the tenant's own."""
    owner, slash, _ = view.partition("/")
    return owner if slash else None


def prompt_name(view: str) -> str:
    """The name of a view in templates: of a granted one with ``_`` in the place of ``/`` and ``-``."""
    return view.replace("/", "_").replace("-", "_") if owner_of(view) is not None else view


def model_owner(model: str) -> str | None:
    """The tenant that the name of a trained model names: engines serve it as ``TENANT/APPLICATION.vN``. ``None``: it is
    no such name."""
    found = _TRAINED.match(model)
    return None if found is None else found[1]
