"""A view's measured events as columns, for the entities that a frame asks about.

A file or a database is read once and straight into columns, where duplicates are looked for only among events that
share entity and instant. Where more is needed (an event log, tiles, everybody's events, the order of events that have
no id), ``load_rows`` reads them by the rules of ``source_rows``; both give the same events.

Needs the table ``entities``: keys ``k0 …`` and ``entity``, their numbers from 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from antiphon.core.scope import Scope
from antiphon.definitions.feature import LATEST
from antiphon.definitions.nodes import Kind
from antiphon.features.expressions.compile_sql import hashed_seq, rows_sql
from antiphon.features.monitoring.quality.row_rules import admitted_relation
from antiphon.features.offline.compute import types_of
from antiphon.features.offline.point_in_time.timeline import Flags, Ints, Timeline
from antiphon.features.offline.point_in_time.window_tiles import TILED
from antiphon.features.plan import DAY, ViewMeasure, ViewPlan
from antiphon.features.ports import LogReader
from antiphon.features.sources.opened import opened
from antiphon.features.sources.source_rows import ROWS, load_rows
from antiphon.features.tiles.finish_columns import array, integers, present

if TYPE_CHECKING:
    import duckdb
    import pyarrow


class Moments(NamedTuple):
    """Range of a query: the number of entities, and the first and last moment (microseconds)."""

    entities: int
    first: int
    last: int

    @classmethod
    def of(cls, entity: Ints, moment: Ints) -> Moments:
        """The range of numbers of entities (−1 for none) and moments."""
        return cls(int(entity.max()) + 1, int(moment.min()), int(moment.max())) if len(moment) else cls(0, 0, 0)


class EventColumns:
    """Events that count, in the order of their :class:`Timeline`; entities that are not asked about share the number
    ``moments.entities``."""

    def __init__(self, plan: ViewPlan, kinds: tuple[Kind, ...], table: pyarrow.Table, timeline: Timeline) -> None:
        self._plan = plan
        self._kinds = kinds
        self._table = table
        self._present: dict[int, Flags | None] = {}
        self._steps: dict[int, Ints] = {}
        self.timeline = timeline

    def present(self, measure: int) -> Flags | None:
        """Flags of the events with the measure; ``None`` when every event has it."""
        if measure not in self._present:
            self._present[measure] = None
            column = None if constant(self._plan.measures[measure]) else self._column(measure)
            if column is not None and (flags := present(column)) is not None:
                self._present[measure] = flags[self.timeline.order]
        return self._present[measure]

    def steps(self, measure: int) -> Ints:
        """A fixed-point measure's values; 0 where it is missing."""
        if measure not in self._steps:
            self._steps[measure] = integers(self._column(measure))[self.timeline.order]
        return self._steps[measure]

    def picked(self, measure: int, places: Ints) -> pyarrow.Array:
        """A plain measure's values at these places of the timeline; null at −1."""
        import pyarrow

        if self._kinds[measure] == "null":
            return pyarrow.nulls(len(places))
        order = self.timeline.order
        rows = order[np.maximum(places, 0)] if len(order) else np.zeros(len(places), np.int64)
        return self._column(measure).take(array(rows, places >= 0))

    def _column(self, measure: int) -> pyarrow.ChunkedArray:
        return self._table.column(f"m{measure}")


def constant(measure: ViewMeasure) -> bool:
    """True for a measure that every event has, contributing one."""
    return measure.mode == "count" and measure.where is None


def event_columns(
    connection: duckdb.DuckDBPyConnection, plan: ViewPlan, moments: Moments, *, scope: Scope, log: LogReader | None
) -> EventColumns:
    """The events that some window may hold at the moments that are asked about.

    Afterwards :data:`ROWS` is filled where a feature needs tiles.

    Raises: as :func:`load_rows`.
    """
    source = plan.spec.source
    streamed = source.kind == "stream" and log is not None and log.end(scope, source.name) > 0
    tiled = any(feature.aggregation in TILED for feature in plan.features)
    if not (streamed or tiled or plan.fitted_windows):
        found = _directly(connection, plan, moments)
        if found is not None:
            return found
    loaded = load_rows(connection, plan, scope=scope, log=log)
    return _from_rows(connection, plan, moments, loaded.kinds)


def _directly(connection: duckdb.DuckDBPyConnection, plan: ViewPlan, moments: Moments) -> EventColumns | None:
    source = plan.spec.source
    rows = opened(connection, source)
    if rows is None:
        return None
    types = types_of(connection, rows.relation)
    relation = admitted_relation(plan.spec, rows.relation, types)
    identified = source.event_id is not None
    selected, kinds = rows_sql(plan, relation, types, hashed=False)
    names = _names(plan)
    columns = ["event_time", "available_at", *(["seq"] if identified else []), *names]
    table = connection.sql(
        f"SELECT entity, {', '.join(columns)} FROM ({selected}) AS measured "
        f"JOIN entities USING ({', '.join(plan.key_columns)}) "
        f"WHERE {_reachable(plan, moments)}"
    ).to_arrow_table()

    def settle(tied: Ints) -> Ints:
        """Of events with one id the first to be available counts, as in ``load_rows``."""
        among = table.take(array(tied)).append_column("place", array(tied))
        connection.register("tied_events", among)
        order = ", ".join(["available_at", *names])
        found = connection.sql(
            f"SELECT place FROM (SELECT * REPLACE ({hashed_seq('seq')} AS seq) FROM tied_events) QUALIFY row_number() "
            f"OVER (PARTITION BY entity, event_time, seq ORDER BY {order}) = 1 ORDER BY entity, event_time, seq"
        ).to_arrow_table()
        connection.unregister("tied_events")
        return _integers(found, "place")

    timeline = _timeline(table, moments, settle if identified else None)
    ordered = any(feature.aggregation in LATEST for feature in plan.features)
    if timeline.ties and ordered and not identified:
        return None
    return EventColumns(plan, kinds, table, timeline)


def _from_rows(
    connection: duckdb.DuckDBPyConnection, plan: ViewPlan, moments: Moments, kinds: tuple[Kind, ...]
) -> EventColumns:
    columns = ", ".join(["event_time", "available_at", "seq", *_names(plan)])
    table = connection.sql(
        f"SELECT coalesce(entity, {moments.entities}) AS entity, {columns} FROM {ROWS} "
        f"LEFT JOIN entities USING ({', '.join(plan.key_columns)})"
        + ("" if plan.fitted_windows else f" WHERE entity IS NOT NULL AND {_reachable(plan, moments)}")
    ).to_arrow_table()
    seqs = table.column("seq")

    def settle(tied: Ints) -> Ints:
        taken = np.array(seqs.take(array(tied)).fill_null("").to_pylist(), "S")
        order = np.lexsort((taken, _integers(table, "event_time")[tied], _integers(table, "entity")[tied]))
        return tied[order]

    return EventColumns(plan, kinds, table, _timeline(table, moments, settle))


def _timeline(table: pyarrow.Table, moments: Moments, settle: Any) -> Timeline:
    event_time = _integers(table, "event_time")
    visible_at = np.maximum(event_time, _integers(table, "available_at"))
    return Timeline(moments.entities + 1, _integers(table, "entity"), event_time, visible_at, settle)


def _integers(table: pyarrow.Table, name: str) -> Ints:
    return integers(table.column(name))


def _names(plan: ViewPlan) -> list[str]:
    return [f"m{index}" for index, measure in enumerate(plan.measures) if not constant(measure)]


def _reachable(plan: ViewPlan, moments: Moments) -> str:
    """Events that are not visible at the last moment, or left every window before the first, answer nothing."""
    since = "" if plan.unbounded else f" AND event_time > {moments.first - plan.longest - DAY}::HUGEINT"
    return (
        "event_time IS NOT NULL AND available_at IS NOT NULL AND "
        f"greatest(event_time, available_at) <= {moments.last}{since}"
    )
