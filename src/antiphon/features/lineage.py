"""Lineage: from a served value back to the source rows that made it, and the value made again from them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import NotFound
from antiphon.core.scope import Scope
from antiphon.definitions.feature import LATEST
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.compile_python import SEQUENCE_DIGITS, MeasureValue
from antiphon.features.compile_sql import quoted, text
from antiphon.features.compute import ComputeLimits, compute
from antiphon.features.finish import finish_of
from antiphon.features.plan import Plan, PlannedFeature, plan_of
from antiphon.features.ports import LogReader
from antiphon.features.source_rows import ROWS, load_rows
from antiphon.features.sources import opened
from antiphon.features.tiles import Tile

if TYPE_CHECKING:
    import duckdb


class SourceRow(msgspec.Struct, frozen=True):
    """One source row in a value.

    ``log_offset`` is its place in the stream, ``None`` for a row of a file; ``measure`` what it contributed, in
    fixed-point steps or plain; ``columns`` the row itself.
    """

    event_time: datetime
    available_at: datetime
    log_offset: int | None
    measure: MeasureValue
    columns: dict[str, Any]


class Trace(msgspec.Struct, frozen=True):
    """A value made again from the source.

    ``rows`` are the latest contributing rows, at most the limit asked for; ``contributing`` is how many there are.
    """

    feature: str
    value: MeasureValue
    contributing: int
    rows: tuple[SourceRow, ...]


def trace(
    spec: FeatureViewSpec,
    feature: str,
    keys: dict[str, str],
    as_of: datetime,
    *,
    scope: Scope,
    log: LogReader | None = None,
    known_by: datetime | None = None,
    through: int | None = None,
    limit: int = 20,
    limits: ComputeLimits | None = None,
) -> Trace:
    """The source rows behind a feature's value as of a moment.

    Args:
        keys: the entity's keys.
        known_by: the snapshot's ``as_of``: rows of the file available later were not in it.
        through: last log offset that was known: the greater of the snapshot's and the value's own.
        limit: at most so many rows are returned, latest first.

    Raises:
        NotFound: the view has no such feature.
    """
    plan = plan_of(spec)
    planned = next((item for item in plan.features if item.name == feature), None)
    if planned is None:
        raise NotFound(f"The view {spec.name!r} has no feature {feature!r}.", where=spec.key)
    entity = tuple(str(keys[key]) for key in plan.keys)
    instant = microseconds(as_of)
    with compute(limits or ComputeLimits()) as connection:
        load_rows(
            connection,
            plan,
            scope=scope,
            log=log,
            known_by=None if known_by is None else microseconds(known_by),
            through=through,
            entities=[entity],
        )
        found = _contributing(connection, planned, instant)
        tile = Tile()
        tile.add(
            [row[4] for row in found],
            [row[0] for row in found],
            [row[2] for row in found],
            plan.parts[planned.measure],
        )
        value = finish_of(planned, plan.measures[planned.measure])(tile)
        shown = _decisive(planned, value, found)
        rows = _with_columns(connection, plan, scope, log, shown[::-1][:limit])
    return Trace(f"{spec.name}.{feature}", value, len(shown), rows)


_Found = tuple[int, int, str, int | None, MeasureValue]


def _contributing(connection: duckdb.DuckDBPyConnection, feature: PlannedFeature, as_of: int) -> list[_Found]:
    m = f"m{feature.measure}"
    since = "" if feature.window is None else f" AND event_time > {as_of - feature.window}"
    return connection.execute(
        f"SELECT event_time, available_at, seq, log_offset, {m} FROM {ROWS} WHERE {m} IS NOT NULL "
        f"AND event_time <= {as_of} AND available_at <= {as_of}{since} ORDER BY event_time, seq"
    ).fetchall()


def _decisive(feature: PlannedFeature, value: MeasureValue, found: list[_Found]) -> list[_Found]:
    """The rows a value rests on: one for ``last`` and ``first``, those at the extreme for ``min`` and ``max``."""
    if not found or value is None:
        return found
    if feature.aggregation in LATEST:
        return found[-1:]
    if feature.aggregation == "first":
        return found[:1]
    if feature.aggregation in ("min", "max"):
        values: list[Any] = [row[4] for row in found]
        extreme = min(values) if feature.aggregation == "min" else max(values)
        return [row for row in found if row[4] == extreme]
    return found


def _with_columns(
    connection: duckdb.DuckDBPyConnection, plan: Plan, scope: Scope, log: LogReader | None, found: list[_Found]
) -> tuple[SourceRow, ...]:
    from_file = _file_columns(connection, plan, [row[2] for row in found if row[3] is None])
    rows: list[SourceRow] = []
    for event_time, available_at, seq, offset, measure in found:
        columns = from_file.get(seq, {})
        if offset is not None and log is not None:
            stored = log.read(scope, plan.spec.source.name, offset - 1, 1)
            if stored:
                columns = {"event_id": stored[0].event.event_id, **stored[0].event.payload}
        rows.append(SourceRow(from_microseconds(event_time), from_microseconds(available_at), offset, measure, columns))
    return tuple(rows)


def _file_columns(connection: duckdb.DuckDBPyConnection, plan: Plan, seqs: list[str]) -> dict[str, dict[str, Any]]:
    source = plan.spec.source
    rows = opened(connection, source) if seqs else None
    if rows is None:
        return {}
    identified = f"this_row.{quoted(source.event_id)}" if source.event_id is not None else "this_row"
    seq = f"left(sha256(CAST({identified} AS VARCHAR)), {SEQUENCE_DIGITS})"
    cursor = connection.execute(
        f"SELECT {seq} AS antiphon_seq, * FROM {rows.relation} AS this_row "
        f"WHERE antiphon_seq IN ({', '.join(text(one) for one in seqs)})"
    )
    names = [column[0] for column in cursor.description]
    return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in cursor.fetchall()}
