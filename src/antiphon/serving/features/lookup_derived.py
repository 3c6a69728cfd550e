"""Derived features of a lookup: on-demand features and vectors, beside the values that it read.

Invariants: on-demand features are computed of what contracts and policy left, by the closure that answers use, and of
inputs that are checked before anything is read; vectors are of the publication of the values beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.on_demand import InputValue, defaults_of
from antiphon.features.embedding.vector_reader import VectorRows
from antiphon.features.expressions.on_demand import payload, values
from antiphon.features.freshness import rule_of
from antiphon.serving.features.lookup_values import DerivedFeatures, EntityFeatures, Lookup, LookupRequest
from antiphon.serving.features.on_demand import checked_against, input_types
from antiphon.serving.features.row_contract import joined, masked

_LOOKUP = "What is looked up"


def checked_inputs(request: LookupRequest) -> list[dict[str, InputValue]]:
    """The inputs of each entity as their types have them.

    Raises:
        InvalidInputError: one is missing, unknown or of another type, or there are not as many as entities.
    """
    derived = request.plan.derived
    assert derived is not None
    types, given = input_types(derived.on_demand, derived.keys), request.inputs
    defaults = defaults_of(derived.on_demand)
    if isinstance(given, Mapping):
        return [checked_against(types, given, _LOOKUP, defaults=defaults)] * len(request.entities)
    if len(given) != len(request.entities):
        raise InvalidInputError(
            f"{len(request.entities)} entities but {len(given)} inputs.",
            where="inputs",
            next_step="Give one object for all entities, or a list with one for each.",
        )
    return [
        checked_against(types, each, _LOOKUP, f"inputs[{number}]", defaults=defaults)
        for number, each in enumerate(given)
    ]


def require_no_inputs(request: LookupRequest) -> None:
    """Refuse inputs where nothing is computed of them (``InvalidInputError``)."""
    given = [request.inputs] if isinstance(request.inputs, Mapping) else request.inputs
    for one in given:
        checked_against({}, one, _LOOKUP)


def derive(
    request: LookupRequest,
    found: Lookup,
    inputs: Sequence[Mapping[str, InputValue]],
    vectors: VectorRows | None,
    masks: Sequence[Sequence[str]] | None,
) -> Lookup:
    """The lookup with what is made of it, and without what was read for that alone."""
    derived = request.plan.derived
    assert derived is not None
    computed = [f"{view.name}.{name}" for view in derived.on_demand for name in view.features]
    names = (*found.features, *computed, *_vector_names(derived))
    place = {name: index for index, name in enumerate(names)}
    picked = [place[name] for name in derived.names]
    lines = []
    for number, (line, entity) in enumerate(zip(found.entities, request.entities, strict=True)):
        made = _computed(derived, found, line, {**entity, **inputs[number]})
        near = [_vectors(derived, request, vectors, number, found.as_of)] if vectors is not None else []
        whole = joined([line, made, *near])
        if masks is not None and masks[number]:
            whole = masked(names, whole, masks[number])
        lines.append(_picked(whole, picked, derived.names))
    snapshots = dict(found.snapshots)
    if vectors is not None:
        snapshots |= vectors.snapshots
    returned = {name.partition(".")[0] for name in derived.names}
    reads = {name.partition(".")[0] for view in derived.on_demand for name in view.reads()}
    return msgspec.structs.replace(
        found,
        features=derived.names,
        entities=lines,
        snapshots={view: one for view, one in snapshots.items() if view in returned | reads},
        models={
            name: spec.models[name.partition(".")[2]]
            for spec, requested in derived.vectors.values()
            for name in requested
        },
    )


def _vector_names(derived: DerivedFeatures) -> list[str]:
    return [name for _, names in derived.vectors.values() for name in names]


def _computed(derived: DerivedFeatures, found: Lookup, line: EntityFeatures, said: Mapping[str, Any]) -> EntityFeatures:
    read: Any = dict(zip(found.features, line.values, strict=True))
    times = dict(zip(found.features, line.event_times, strict=True))
    known = payload(said, read, from_microseconds(found.as_of))
    results, moments, contracts = [], list[int | None](), []
    for view in derived.on_demand:
        for value, reads in values(view, known).values():
            results.append(value)
            moments.append(max((time for one in reads if (time := times.get(one)) is not None), default=None))
            contracts.append("absent" if value is None else "fresh")
    return EntityFeatures(tuple(results), tuple(moments), tuple(contracts))


def _vectors(
    derived: DerivedFeatures, request: LookupRequest, vectors: VectorRows, number: int, as_of: int
) -> EntityFeatures:
    row = vectors.entities[number]
    results, moments, contracts = [], [], []
    for name in _vector_names(derived):
        one, view = row[name], name.partition(".")[0]
        time = None if one.event_time is None else microseconds(one.event_time)
        rule = rule_of(request.plan.contracts.get(view))
        outcome = rule.outcome(one.value, time, as_of, rule.accepts_source(vectors.quality.get(view)))
        results.append(None if outcome in ("defaulted", "rejected") else one.value)
        moments.append(time)
        contracts.append(outcome)
    return EntityFeatures(tuple(results), tuple(moments), tuple(contracts))


def _picked(line: EntityFeatures, places: Sequence[int], names: Sequence[str]) -> EntityFeatures:
    return EntityFeatures(
        tuple(line.values[place] for place in places),
        tuple(line.event_times[place] for place in places),
        tuple(line.contracts[place] for place in places),
        {name: one for name, one in line.instead.items() if name in names},
    )
