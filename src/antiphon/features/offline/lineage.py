"""Lineage: the source rows behind a served value, and the value recomputed from them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.feature import LATEST
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.expressions.compile_sql import hashed_seq
from antiphon.features.expressions.expression_sql import quoted, text
from antiphon.features.monitoring.skew.report import same
from antiphon.features.offline.batch_values import window_condition
from antiphon.features.offline.compute import ComputeLimits, compute, types_of
from antiphon.features.plan import PlannedFeature, ViewPlan, midnight_before, plan_of
from antiphon.features.ports import LogReader
from antiphon.features.sources.opened import opened
from antiphon.features.sources.source_rows import ROWS, load_rows
from antiphon.features.tiles.finish import finish_of
from antiphon.features.tiles.tile import Tile
from antiphon.features.values import MeasureValue

if TYPE_CHECKING:
    import duckdb


FILE = "antiphon_file"
_MOST_FILES = 50
"""Most files listed with their hashes."""


class SourceRow(msgspec.Struct, frozen=True):
    """One source row in a value.

    ``log_offset`` is its place in the stream, ``None`` for a row of a file; ``measure`` its contribution, in
    fixed-point steps or plain; ``columns`` the row itself; ``file`` the file of a row of files.
    """

    event_time: datetime
    available_at: datetime
    log_offset: int | None
    measure: MeasureValue
    columns: dict[str, Any]
    event_id: str | None = None
    file: str | None = None


class SourceFile(msgspec.Struct, frozen=True):
    """A file as it is now, by the SHA-256 of its content; an object of a store by its version."""

    path: str
    sha256: str


class Trace(msgspec.Struct, frozen=True):
    """A value recomputed from the source.

    Attributes:
        contributing: number of its rows. ``rows`` are the latest of them, up to the limit.
        set_against: for an encoding, the number of rows of all entities that it compares with.
        event_time: the latest row's.
        source: a description of it; ``source_hash`` hashes its present content; ``files`` are those of the listed rows,
            or of a query's tables.
    """

    feature: str
    value: MeasureValue
    contributing: int
    rows: tuple[SourceRow, ...]
    set_against: int | None = None
    event_time: datetime | None = None
    source: str = ""
    source_hash: str = ""
    files: tuple[SourceFile, ...] = ()

    def placeless(self) -> Trace:
        """A copy that names files without their folders."""
        rows = (
            row if row.file is None else msgspec.structs.replace(row, file=Path(row.file).name) for row in self.rows
        )
        files = tuple(SourceFile(Path(file.path).name, file.sha256) for file in self.files)
        return msgspec.structs.replace(self, rows=tuple(rows), files=files, source="")


class Lineage(msgspec.Struct, frozen=True):
    """Origin of a value.

    Attributes:
        value: as served. ``recomputed``: computed from exactly the rows of ``trace``, or for an on-demand feature from
            ``inputs`` and ``reads``.
        same: bit-for-bit equality of both; ``None`` when it cannot be decided, with the reason in ``why``.
        through: last log offset known.
        source_changed: the source differs from what the snapshot was made from.
        reads: for an on-demand feature, the lineage of its inputs.
    """

    feature: str
    definition_version: str
    entity: dict[str, str] | None
    as_of: datetime
    value: MeasureValue
    recomputed: MeasureValue = None
    same: bool | None = None
    why: str = ""
    prediction: str | None = None
    snapshot: str | None = None
    known_by: datetime | None = None
    through: int | None = None
    source_changed: bool | None = None
    trace: Trace | None = None
    inputs: dict[str, Any] | None = None
    reads: tuple[Lineage, ...] = ()

    def placeless(self) -> Lineage:
        """A copy that names files without their folders."""
        return msgspec.structs.replace(
            self,
            trace=None if self.trace is None else self.trace.placeless(),
            reads=tuple(one.placeless() for one in self.reads),
        )


def judged(found: Lineage, served: FeatureReceipt, recomputed: MeasureValue, event_time: datetime | None) -> Lineage:
    """Complete a lineage with the comparison of the served value and the recomputed one."""
    equal: bool | None = same(served.value, recomputed) and served.event_time == event_time
    why = ""
    if served.contract == "masked":
        equal, why = None, "policy hid it"
    elif served.contract == "defaulted":
        equal, why = None, "its freshness contract replaced it"
    elif not equal and found.source_changed:
        equal, why = None, "its source changed since the snapshot"
    return msgspec.structs.replace(found, recomputed=recomputed, same=equal, why=why)


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
    """Find the source rows behind a feature's value as of a moment.

    Args:
        keys: the entity's keys.
        known_by: the snapshot's ``as_of``: rows of the file available later were not in it.
        through: last log offset that was known: the greater of the snapshot's and the value's own.
        limit: at most so many rows are returned, latest first.

    Raises:
        NotFoundError: the view has no such feature.
        SetupError, UnavailableError, InvalidInputError: the source cannot be read.
    """
    plan = plan_of(spec)
    planned = next((item for item in plan.features if item.name == feature), None)
    if planned is None:
        raise NotFoundError(f"The view {spec.name!r} has no feature {feature!r}.", where=spec.key)
    entity = tuple(str(keys[key]) for key in plan.keys)
    instant = microseconds(as_of)
    known = None if known_by is None else microseconds(known_by)
    with compute(limits or ComputeLimits()) as connection:
        loaded = load_rows(
            connection,
            plan,
            scope=scope,
            log=log,
            known_by=known,
            through=through,
            # An encoding is set against all entities together.
            entities=None if planned.fitted else [entity],
        )
        if planned.fitted:
            instant = midnight_before(instant if known is None else min(instant, known))
        found = _contributing(connection, planned, instant, entity)
        tile = _tile(found, planned, plan)
        every = _tile(_contributing(connection, planned, instant), planned, plan) if planned.fitted else tile
        value = finish_of(planned, plan.measures[planned.measure])(tile, every)
        shown = _decisive(planned, value, found)
        rows = _with_columns(connection, plan, scope, log, shown[::-1][:limit], known, entity)
        return Trace(
            f"{spec.name}.{feature}",
            value,
            len(shown),
            rows,
            every.count if planned.fitted else None,
            None if every.latest is None else from_microseconds(every.latest),
            loaded.source,
            loaded.source_hash,
            _files(spec, rows, loaded.files),
        )


def _tile(found: list[_Found], feature: PlannedFeature, plan: ViewPlan) -> Tile:
    tile = Tile()
    tile.add(
        [row[4] for row in found], [row[0] for row in found], [row[2] for row in found], plan.parts[feature.measure]
    )
    return tile


def _files(
    spec: FeatureViewSpec, rows: tuple[SourceRow, ...], read: Sequence[tuple[str, str]]
) -> tuple[SourceFile, ...]:
    """Of a query its tables' files, of other sources those of the rows."""
    known = dict(read)
    paths = list(known) if spec.source.sql is not None else [row.file for row in rows if row.file is not None]
    return tuple(SourceFile(path, known[path]) for path in list(dict.fromkeys(paths))[:_MOST_FILES])


_Found = tuple[int, int, str, int | None, MeasureValue]


def _contributing(
    connection: duckdb.DuckDBPyConnection, feature: PlannedFeature, as_of: int, entity: tuple[str, ...] | None = None
) -> list[_Found]:
    m = f"m{feature.measure}"
    of = "" if entity is None else "".join(f" AND k{index} = {text(key)}" for index, key in enumerate(entity))
    return connection.execute(
        f"SELECT event_time, available_at, seq, log_offset, {m} FROM {ROWS} WHERE {m} IS NOT NULL "
        f"AND {window_condition(feature.window, as_of)}{of} ORDER BY event_time, seq"
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
    connection: duckdb.DuckDBPyConnection,
    plan: ViewPlan,
    scope: Scope,
    log: LogReader | None,
    found: list[_Found],
    known_by: int | None,
    entity: tuple[str, ...],
) -> tuple[SourceRow, ...]:
    source = plan.spec.source
    from_file = _file_columns(connection, plan, [row[2] for row in found if row[3] is None], known_by, entity)
    rows: list[SourceRow] = []
    for event_time, available_at, seq, offset, measure in found:
        columns = dict(from_file.get(seq, {}))
        file = columns.pop(FILE, None)
        identity = columns.get(source.event_id) if source.event_id is not None else None
        if offset is not None and log is not None:
            stored = log.read(scope, source.name, offset - 1, 1)
            if stored:
                identity = stored[0].event.event_id
                columns = {"event_id": identity, **stored[0].event.payload}
        times = from_microseconds(event_time), from_microseconds(available_at)
        rows.append(SourceRow(*times, offset, measure, columns, None if identity is None else str(identity), file))
    return tuple(rows)


def _file_columns(
    connection: duckdb.DuckDBPyConnection,
    plan: ViewPlan,
    seqs: list[str],
    known_by: int | None,
    entity: tuple[str, ...],
) -> dict[str, dict[str, Any]]:
    """Rows of a file, a database or a query by sequence, with their file."""
    source = plan.spec.source
    rows = opened(connection, source, known_by) if seqs else None
    if rows is None:
        return {}
    # The file's name is no part of a row that is known by its content.
    columns = list(types_of(connection, rows.relation))
    whole = "{" + ", ".join(f"{text(name)}: this_row.{quoted(name)}" for name in columns) + "}"
    identified = f"this_row.{quoted(source.event_id)}" if source.event_id is not None else whole
    seq = hashed_seq(f"CAST({identified} AS VARCHAR)")
    named = rows.files and source.sql is None
    relation = rows.named(FILE) if named else rows.relation
    of = " AND ".join(
        f"CAST(this_row.{quoted(key)} AS VARCHAR) = {text(value)}" for key, value in zip(plan.keys, entity, strict=True)
    )
    cursor = connection.execute(
        f"SELECT {seq} AS antiphon_seq, * FROM {relation} AS this_row "
        f"WHERE antiphon_seq IN ({', '.join(text(one) for one in seqs)}) AND {of}"
    )
    names = [column[0] for column in cursor.description]
    return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in cursor.fetchall()}
