"""The outcome's table from before anything was served, read as candidate examples.

It is read as feature views read their sources (``features.source_rows``): the same rules for zones, conditions,
streams and events that are told twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from antiphon.catalog.learning.datasets import DatasetSpec
from antiphon.core.clock import from_microseconds
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.entity import EntitySpec
from antiphon.definitions.feature import FeatureSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.nodes import CallNode, ColumnNode, Expression, Kind
from antiphon.definitions.on_demand import InputType, InputValue
from antiphon.definitions.source import SourceSpec
from antiphon.features.offline.compute import ComputeLimits, compute, types_of
from antiphon.features.plan import plan_of
from antiphon.features.ports import LogReader
from antiphon.features.sources.opened import opened
from antiphon.features.sources.source_rows import ROWS, load_rows
from antiphon.learning.datasets.candidates import Candidate, example_id, inputs_of
from antiphon.learning.outcomes.submission import truth_text

_FETCH = 10_000


def read_history(
    spec: DatasetSpec, *, scope: Scope, log: LogReader | None = None, limits: ComputeLimits | None = None
) -> tuple[list[Candidate], int]:
    """Every row of ``spec.history`` as a candidate, and the number of rows that lacked a key or an instant.

    Raises:
        SetupError: the file is missing.
        InvalidInputError: it lacks a column, or the spec names no history.
    """
    source = spec.history
    if source is None:
        raise InvalidInputError(
            f"The outcome of {spec.application!r} declares no history.",
            where="origins",
            next_step="Declare Outcome(history=Source.table(...)), or build from receipts.",
        )
    with compute(limits or ComputeLimits()) as connection:
        opened_source = opened(connection, source, None)
        known = None if opened_source is None else types_of(connection, opened_source.relation)
        beside = [name for name in _beside(spec) if known is None or name in known]
        plan = plan_of(_as_view(source, spec, beside))
        loaded = load_rows(connection, plan, scope=scope, log=log, rows=opened_source)
        keys = [f"k{index}" for index in range(len(spec.entity_keys))]
        places = {feature.name: f"m{feature.measure}" for feature in plan.features}
        inputs = inputs_of(spec)
        _check_kinds(inputs, {name: loaded.kinds[int(places[f"input_{name}"][1:])] for name in inputs}, source.name)
        read = [places["label"], *(places.get(f"beside_{name}", "NULL") for name in _beside(spec))]
        read += [places[f"input_{name}"] for name in inputs]
        cursor = connection.execute(
            f"SELECT {', '.join([*keys, 'event_time', 'available_at', 'seq', *read])} FROM {ROWS}"
        )
        found: list[Candidate] = []
        while fetched := cursor.fetchmany(_FETCH):
            found += _candidates(fetched, len(keys), spec, tuple(inputs.values()))
    return found, loaded.rows_rejected


def _check_kinds(inputs: Mapping[str, InputType], found: Mapping[str, Kind], source: str) -> None:
    for name, declared in inputs.items():
        # An instant is read as its microseconds, so that its column is a number like any other here.
        expected = "number" if declared == "instant" else declared
        if found[name] not in (expected, "null"):
            raise InvalidInputError(
                f"The column {name!r} is a {found[name]}, but the input is declared a {declared}.",
                where=f"source {source}",
                next_step="Cast the column, or declare the input's type otherwise.",
            )


def _candidates(
    rows: list[tuple[object, ...]], width: int, spec: DatasetSpec, inputs: tuple[InputType, ...]
) -> Iterator[Candidate]:
    places = len(_beside(spec))
    for row in rows:
        entity = tuple(str(value) for value in row[:width])
        moment, label_at, seq, label, *given = row[width:]
        beside, given = given[:places], given[places:]
        assert isinstance(moment, int) and isinstance(label_at, int)  # noqa: PT018
        question = beside.pop(0) if spec.question else None
        yield Candidate(
            example=example_id(entity, moment, seq),
            moment=moment,
            entity=entity,
            label=truth_text(label, spec.shape),
            label_at=label_at,
            origin="history",
            inputs=tuple(_input(declared, value) for declared, value in zip(inputs, given, strict=True)),
            question=None if question is None else str(question),
            further=tuple(truth_text(value, shape) for value, shape in zip(beside, spec.further, strict=True)),
        )


def _beside(spec: DatasetSpec) -> list[str]:
    """Columns that the history may have beside the first outcome's."""
    return [*(["question"] if spec.question else []), *(shape.name for shape in spec.further)]


def _input(declared: InputType, value: object) -> InputValue:
    if declared == "instant" and isinstance(value, float):
        return from_microseconds(int(value))
    assert value is None or isinstance(value, (float, bool, str))
    return value


def _as_view(source: SourceSpec, spec: DatasetSpec, beside: Sequence[str]) -> FeatureViewSpec:
    def column(expression: Expression) -> FeatureSpec:
        return FeatureSpec(aggregation="last", expression=expression, where=None, window=None, scale=None)

    features = {"label": column(ColumnNode(spec.shape.name))}
    features |= {f"beside_{name}": column(ColumnNode(name)) for name in beside}
    for name, declared in inputs_of(spec).items():
        read = ColumnNode(name)
        features[f"input_{name}"] = column(CallNode("epoch", (read,)) if declared == "instant" else read)
    return FeatureViewSpec(
        name="outcome_history",
        entity=EntitySpec("asked", spec.entity_keys),
        source=source,
        features=features,
        refresh=None,
        owner="",
        description="",
        definition_version="0" * 16,
    )
