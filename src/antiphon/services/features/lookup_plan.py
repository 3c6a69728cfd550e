"""What a lookup reads, by the names it was asked for: columns of views, vectors, and what on-demand features need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.suggestions import nearest
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.on_demand import OnDemandSpec
from antiphon.governance.policy.request import PolicyColumn, Resource
from antiphon.serving.features.lookup_values import Derived, LookupPlan

_Names = tuple[str, ...] | None
"""Features of a view; ``None``: all of them that are columns."""


def lookup_plan(
    known: Iterable[FeatureViewSpec],
    on_demand: Iterable[OnDemandSpec],
    asked: Sequence[str],
    purpose: str,
    keys: Collection[str] | None = None,
) -> LookupPlan:
    """The plan of some names.

    Args:
        asked: ``view`` or ``view.feature``; a whole view is its columns, without vectors.
        keys: columns that name entities; those of the views that are read by default.

    Raises:
        NotFoundError: a name is not there; names all that are not.
        InvalidInputError: a view is kept by Feast, or has nothing but vectors.
    """
    views = {view.name: view for view in known}
    computed = {view.name: view for view in on_demand}
    read: dict[str, _Names] = {}
    vectors: dict[str, tuple[str, ...]] = {}
    made: dict[str, OnDemandSpec] = {}
    names: dict[str, None] = {}
    unknown: list[str] = []
    for name in asked:
        view, dot, feature = name.partition(".")
        of_view = views[view].features if view in views else computed[view].features if view in computed else None
        if of_view is None or (dot and feature not in of_view):
            unknown.append(name)
        elif view in computed and view not in views:
            made[view] = computed[view]
            names |= dict.fromkeys([name] if dot else [f"{view}.{each}" for each in of_view])
        elif feature in views[view].models:
            vectors[view] = (*vectors.get(view, ()), name) if name not in vectors.get(view, ()) else vectors[view]
            names[name] = None
        elif dot:
            _also(read, view, feature)
            names[name] = None
        else:
            read[view] = None
            names |= dict.fromkeys(f"{view}.{each}" for each in _columns(views[view]))
    if unknown or not names:
        raise _unknown(unknown, views, computed)
    for one in sorted({one for view in made.values() for one in view.reads()}):
        _also(read, *one.split(".", 1))
    _require_kept_here([*read, *vectors], views)
    columns: list[PolicyColumn] = []
    for view in dict.fromkeys((*read, *vectors)):
        chosen = read.get(view, ())
        used = {*(_columns(views[view]) if chosen is None else chosen)}
        columns += _asked_about(views[view], used | {one.partition(".")[2] for one in vectors.get(view, ())})
    entity_keys = keys if keys is not None else [key for view in (*read, *vectors) for key in views[view].entity.keys]
    derived = Derived(
        tuple(names),
        {view: (views[view], wanted) for view, wanted in vectors.items()},
        tuple(made.values()),
        frozenset(entity_keys),
    )
    return LookupPlan(
        resource=Resource("features", ",".join(sorted({*read, *vectors, *made})), columns=tuple(columns)),
        views={view: views[view].definition_version for view in read},
        features=read,
        purpose=purpose,
        derived=derived if vectors or made else None,
    )


def _also(read: dict[str, _Names], view: str, feature: str) -> None:
    chosen = read.get(view, ())
    if chosen is not None:
        read[view] = tuple(dict.fromkeys((*chosen, feature)))


def _asked_about(view: FeatureViewSpec, used: Collection[str]) -> list[PolicyColumn]:
    """What policy is asked about: what is returned, and what something that is returned is made of."""
    if not view.tags:
        return [PolicyColumn(f"{view.name}.*")]
    return [
        PolicyColumn(f"{view.name}.{one}", tag.sensitivity, tag.purposes)
        for one, tag in sorted(view.tags.items())
        if one in used
    ]


def _columns(view: FeatureViewSpec) -> list[str]:
    columns = sorted(name for name in view.features if name not in view.models)
    if not columns:
        raise InvalidInputError(
            f"Every feature of {view.name} is a vector.",
            where="features",
            next_step=f"Name those that you want: {', '.join(f'{view.name}.{name}' for name in view.models)}.",
        )
    return columns


def _require_kept_here(names: Iterable[str], views: Mapping[str, FeatureViewSpec]) -> None:
    elsewhere = [name for name in dict.fromkeys(names) if name in views and views[name].source.kind == "feast"]
    if elsewhere:
        raise InvalidInputError(
            f"{', '.join(elsewhere)} is kept by Feast.",
            where="features",
            next_step="Ask Feast for it; an application that reads it is answered from it.",
        )


def _unknown(
    names: Sequence[str], views: Mapping[str, FeatureViewSpec], computed: Mapping[str, OnDemandSpec]
) -> NotFoundError:
    if not names:
        return NotFoundError(
            "No feature is named.", where="features", next_step="Name views or VIEW.FEATURE, or an application."
        )
    every: list[FeatureViewSpec | OnDemandSpec] = [*views.values(), *computed.values()]
    known = [*views, *computed, *(f"{view.name}.{feature}" for view in every for feature in view.features)]
    return NotFoundError(
        f"No such feature is applied: {', '.join(names)}.",
        where="features",
        next_step=nearest(names[0], known, "`antiphon features list` shows the views."),
    )
