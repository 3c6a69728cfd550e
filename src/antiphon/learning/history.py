"""The outcome's table from before anything was served, read as candidate examples.

It is read as feature views read their sources (``features.source_rows``): the same rules for zones, conditions,
streams and events that are told twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from antiphon.catalog.datasets import DatasetSpec
from antiphon.core.errors import InvalidInput
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.entity import EntitySpec
from antiphon.definitions.feature import FeatureSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.nodes import Column
from antiphon.definitions.source import SourceSpec
from antiphon.features.compute import ComputeLimits, compute
from antiphon.features.plan import plan_of
from antiphon.features.ports import LogReader
from antiphon.features.source_rows import ROWS, load_rows
from antiphon.learning.arriving import label_text
from antiphon.learning.candidates import Candidate

_FETCH = 10_000


class HistoryRows(msgspec.Struct, frozen=True):
    """Candidates of the table; ``unreadable`` rows lacked a key or an instant."""

    candidates: tuple[Candidate, ...]
    unreadable: int


def read_history(
    spec: DatasetSpec, *, scope: Scope, log: LogReader | None = None, limits: ComputeLimits | None = None
) -> HistoryRows:
    """Every row of ``spec.history`` as a candidate.

    Raises:
        SetupError: the file is missing.
        InvalidInput: it lacks a column, or the spec names no history.
    """
    source = spec.history
    if source is None:
        raise InvalidInput(
            f"The outcome of {spec.application!r} declares no history.",
            where="origins",
            next_step="Declare Outcome(history=Source.table(...)), or build from receipts.",
        )
    plan = plan_of(_as_view(source, spec))
    with compute(limits or ComputeLimits()) as connection:
        loaded = load_rows(connection, plan, scope=scope, log=log)
        keys = [f"k{index}" for index in range(len(spec.entity_keys))]
        cursor = connection.execute(
            f"SELECT {', '.join([*keys, 'event_time', 'available_at', 'seq', 'm0'])} FROM {ROWS}"
        )
        found: list[Candidate] = []
        while fetched := cursor.fetchmany(_FETCH):
            found += _candidates(fetched, len(keys), spec.labels)
    return HistoryRows(tuple(found), loaded.rows_rejected)


def _candidates(rows: list[tuple[object, ...]], width: int, labels: Sequence[str]) -> Iterator[Candidate]:
    for row in rows:
        entity = tuple(str(value) for value in row[:width])
        moment, label_at, seq, label = row[width:]
        assert isinstance(moment, int) and isinstance(label_at, int)  # noqa: PT018
        yield Candidate(
            example=f"ex_{content_hash([entity, moment, seq])[:26]}",
            moment=moment,
            entity=entity,
            label=label_text(label, labels),
            label_at=label_at,
            origin="history",
        )


def _as_view(source: SourceSpec, spec: DatasetSpec) -> FeatureViewSpec:
    label = FeatureSpec(aggregation="last", expression=Column(spec.property), where=None, window=None, scale=None)
    return FeatureViewSpec(
        name="outcome_history",
        entity=EntitySpec("asked", spec.entity_keys),
        source=source,
        features={"label": label},
        refresh=None,
        owner="",
        description="",
        definition_version="0" * 16,
    )
