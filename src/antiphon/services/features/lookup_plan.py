"""Lookup plans: the columns of views, the vectors and the on-demand inputs that a lookup reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.on_demand import OnDemandSpec
from antiphon.features.selection import select_features
from antiphon.governance.policy.request import PolicyColumn, Resource
from antiphon.serving.features.lookup_values import DerivedFeatures, LookupPlan

_Names = tuple[str, ...] | None
"""Features of a view; ``None``: all of them that are columns."""


def lookup_plan(
    known: Iterable[FeatureViewSpec],
    on_demand: Iterable[OnDemandSpec],
    requested: Sequence[str],
    purpose: str,
    keys: Collection[str] | None = None,
) -> LookupPlan:
    """The plan of some names.

    Args:
        requested: ``view`` or ``view.feature``; a whole view is its columns, without vectors.
        keys: columns that name entities; those of the views that are read by default.

    Raises:
        NotFoundError: a name is not there; names all that are not.
        InvalidInputError: a view is kept by Feast, or has nothing but vectors.
    """
    views = {view.name: view for view in known}
    selection = select_features(requested, views, {view.name: view for view in on_demand}, vectors=False)
    read: dict[str, _Names] = {}
    vectors: dict[str, tuple[str, ...]] = {}
    for name in selection.names:
        view, _, feature = name.partition(".")
        if view not in views:
            continue
        if feature in views[view].models:
            vectors[view] = (*vectors.get(view, ()), name)
        elif view in selection.whole:
            read[view] = None
        else:
            _add(read, view, feature)
    for name in sorted({name for view in selection.on_demand for name in view.reads()}):
        _add(read, *name.split(".", 1))
    _require_kept_here([*read, *vectors], views)
    columns: list[PolicyColumn] = []
    for view in dict.fromkeys((*read, *vectors)):
        chosen = read.get(view, ())
        used = set(views[view].features) - set(views[view].models) if chosen is None else {*chosen}
        columns += _policy_columns(views[view], used | {one.partition(".")[2] for one in vectors.get(view, ())})
    entity_keys = keys if keys is not None else [key for view in (*read, *vectors) for key in views[view].entity.keys]
    derived = DerivedFeatures(
        selection.names,
        {view: (views[view], names) for view, names in vectors.items()},
        selection.on_demand,
        frozenset(entity_keys),
    )
    return LookupPlan(
        resource=Resource(
            "features",
            ",".join(sorted({*read, *vectors, *(view.name for view in selection.on_demand)})),
            columns=tuple(columns),
        ),
        views={view: views[view].definition_version for view in read},
        features=read,
        purpose=purpose,
        derived=derived if vectors or selection.on_demand else None,
    )


def _add(read: dict[str, _Names], view: str, feature: str) -> None:
    chosen = read.get(view, ())
    if chosen is not None:
        read[view] = tuple(dict.fromkeys((*chosen, feature)))


def _policy_columns(view: FeatureViewSpec, used: Collection[str]) -> list[PolicyColumn]:
    """Columns for the policy decision: those returned, and the inputs of those returned."""
    if not view.tags:
        return [PolicyColumn(f"{view.name}.*")]
    return [
        PolicyColumn(f"{view.name}.{one}", tag.sensitivity, tag.purposes)
        for one, tag in sorted(view.tags.items())
        if one in used
    ]


def _require_kept_here(names: Iterable[str], views: Mapping[str, FeatureViewSpec]) -> None:
    elsewhere = [name for name in dict.fromkeys(names) if name in views and views[name].source.kind == "feast"]
    if elsewhere:
        raise InvalidInputError(
            f"{', '.join(elsewhere)} is kept by Feast.",
            where="features",
            next_step="Ask Feast for it; an application that reads it is answered from it.",
        )
