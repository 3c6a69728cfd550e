"""A view's measured rows in DuckDB: from the source's file, and for a stream from the event log as well.

Rules, the same wherever rows are read:
- Of rows that agree in entity, event time and sequence (so of one event id), one counts: the one available
  earliest, from the file before the log, in the log by offset. Rows without event id are never merged.
- A file's row counts once it is available at ``known_by``; a log's event is taken as soon as it is in the log,
  because ``available_at`` hides it from every reading before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.core.clock import microseconds
from antiphon.core.errors import InvalidInput
from antiphon.core.scope import Scope
from antiphon.definitions.expression import Kind, kind_of_value
from antiphon.features.compile_python import compile_measures, key_texts, sequence
from antiphon.features.compile_sql import rows_sql, text
from antiphon.features.compute import files_of, hash_of, one_row, relation_of, types_of
from antiphon.features.plan import Plan
from antiphon.features.ports import LogReader

if TYPE_CHECKING:
    import duckdb

ROWS = "measured_rows"
"""The table that :func:`load_rows` fills: k0 …, event_time, available_at, seq, log_offset, m0 …"""

_BATCH = 10_000
_SQL_TYPES: dict[Kind, str] = {"number": "DOUBLE", "boolean": "BOOLEAN", "text": "VARCHAR", "null": "DOUBLE"}


class LoadedRows(msgspec.Struct, frozen=True):
    """What was loaded.

    ``kinds`` is the kind of each measure (``null`` when no value told), ``stream_offset`` the last offset taken.
    """

    rows_in: int
    rows_rejected: int
    kinds: tuple[Kind, ...]
    source: str
    source_hash: str
    stream_offset: int | None


def load_rows(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    *,
    scope: Scope,
    log: LogReader | None,
    known_by: int | None = None,
    through: int | None = None,
    entity: tuple[str, ...] | None = None,
) -> LoadedRows:
    """Fill the table :data:`ROWS` with every measured row of the view's source.

    Args:
        log: the event log, for a stream.
        known_by: leave out rows of the file that become available later (microseconds).
        through: last offset of the log to take; its end by default.
        entity: only rows of the entity with these keys.

    Raises:
        SetupError: the file is missing.
        InvalidInput: it does not fit the definition, or a stream has neither history nor log.
    """
    source = plan.spec.source
    keys = [f"k{index}" for index in range(len(plan.keys))]
    measures = [f"m{index}" for index in range(len(plan.measures))]
    columns = [*keys, "event_time", "available_at", "seq", "log_offset", *measures]
    kinds: list[Kind] = ["number" if measure.mode != "plain" else "null" for measure in plan.measures]
    described: list[str] = []
    hashed = ""
    rows_in = rejected = 0
    files = files_of(source.path) if source.path is not None else []
    if files:
        relation = relation_of(files)
        wanted = ""
        if entity is not None:
            wanted = " WHERE " + " AND ".join(f"{key} = {text(value)}" for key, value in zip(keys, entity, strict=True))
        selected, file_kinds = rows_sql(plan, relation, types_of(connection, relation))
        kinds = list(file_kinds)
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE loaded AS SELECT *, NULL::BIGINT AS log_offset FROM ({selected}){wanted}"
        )
        missing = " OR ".join(f"{name} IS NULL" for name in [*keys, "event_time", "available_at"])
        rows_in, rejected = one_row(connection, f"SELECT count(*), count(*) FILTER (WHERE {missing}) FROM loaded")
        later = f" OR available_at > {known_by}" if known_by is not None else ""
        connection.execute(f"DELETE FROM loaded WHERE {missing}{later}")
        described.append(f"{len(files)} file(s) {source.path}")
        hashed = hash_of(files)
    offset: int | None = None
    if source.kind == "stream" and log is not None:
        taken = _log_rows(plan, scope, log, through, kinds, entity)
        offset = taken.offset
        rows_in += taken.read
        rejected += taken.rejected
        described.append(f"stream {source.name} through {offset}")
        if not files:
            connection.execute(f"CREATE OR REPLACE TEMP TABLE loaded ({_schema(plan, columns, kinds)})")
        else:
            _widen(connection, kinds, tuple(file_kinds))
        _insert(connection, plan, columns, kinds, taken)
    elif not files:
        raise InvalidInput(f"Source {source.name!r} has neither a file nor an event log to read.", where=source.name)
    picked = ", ".join(columns)
    if source.event_id is None:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {ROWS} AS SELECT {picked} FROM loaded")
    else:
        identity = ", ".join([*keys, "event_time", "seq"])
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {ROWS} AS SELECT {picked} FROM loaded QUALIFY row_number() OVER "
            f"(PARTITION BY {identity} ORDER BY available_at, log_offset NULLS FIRST, {', '.join(measures)}) = 1"
        )
    connection.execute("DROP TABLE loaded")
    return LoadedRows(rows_in, rejected, tuple(kinds), "; ".join(described), hashed, offset)


class _Taken(msgspec.Struct):
    rows: list[tuple[Any, ...]]
    read: int = 0
    rejected: int = 0
    offset: int = 0


def _log_rows(
    plan: Plan, scope: Scope, log: LogReader, through: int | None, kinds: list[Kind], entity: tuple[str, ...] | None
) -> _Taken:
    stream = plan.spec.source.name
    end = log.end(scope, stream) if through is None else through
    measured = compile_measures(plan)
    taken = _Taken([], offset=end)
    after = 0
    while after < end:
        stored = log.read(scope, stream, after, _BATCH)
        if not stored:
            break
        for item in stored:
            after = item.offset
            if item.offset > end:
                break
            taken.read += 1
            event = item.event
            keys = key_texts(plan.keys, event.payload)
            if keys is None:
                taken.rejected += 1
                continue
            if entity is not None and keys != entity:
                continue
            values = measured(event.payload)
            if values is None:
                continue
            for index, value in enumerate(values):
                if kinds[index] == "null" and value is not None:
                    kinds[index] = kind_of_value(value)
            kept = [value if _fits(plan, kinds, index, value) else None for index, value in enumerate(values)]
            taken.rows.append(
                (
                    *keys,
                    microseconds(event.event_time),
                    microseconds(event.available_at),
                    sequence(event.event_id),
                    item.offset,
                    *kept,
                )
            )
    return taken


def _fits(plan: Plan, kinds: list[Kind], index: int, value: Any) -> bool:
    return plan.measures[index].mode != "plain" or value is None or kind_of_value(value) == kinds[index]


def _schema(plan: Plan, columns: list[str], kinds: list[Kind]) -> str:
    parts = []
    for name in columns:
        if name[0] == "m" and name[1:].isdigit():
            parts.append(f"{name} {_measure_type(plan, kinds, int(name[1:]))}")
        else:
            parts.append(f"{name} {'VARCHAR' if name == 'seq' or name[0] == 'k' else 'BIGINT'}")
    return ", ".join(parts)


def _measure_type(plan: Plan, kinds: list[Kind], index: int) -> str:
    return "BIGINT" if plan.measures[index].mode != "plain" else _SQL_TYPES[kinds[index]]


def _widen(connection: duckdb.DuckDBPyConnection, kinds: list[Kind], before: tuple[Kind, ...]) -> None:
    # A literal null in the file's SQL has no kind of its own; the log may give it one.
    for index, (now, then) in enumerate(zip(kinds, before, strict=True)):
        if now != then:
            connection.execute(f"ALTER TABLE loaded ALTER m{index} TYPE {_SQL_TYPES[now]} USING NULL")


def _insert(
    connection: duckdb.DuckDBPyConnection, plan: Plan, columns: list[str], kinds: list[Kind], taken: _Taken
) -> None:
    if not taken.rows:
        return
    import pyarrow

    arrow_types = {"BIGINT": pyarrow.int64(), "DOUBLE": pyarrow.float64(), "BOOLEAN": pyarrow.bool_()}
    declared = dict(part.split(" ") for part in _schema(plan, columns, kinds).split(", "))
    table = pyarrow.table(
        {
            name: pyarrow.array([row[index] for row in taken.rows], arrow_types.get(declared[name], pyarrow.string()))
            for index, name in enumerate(columns)
        }
    )
    connection.register("log_rows", table)
    connection.execute("INSERT INTO loaded BY NAME SELECT * FROM log_rows")
    connection.unregister("log_rows")
