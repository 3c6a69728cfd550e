"""A view's measured rows in DuckDB: from the source's files or database, and for a stream from the event log as well.

Rules, the same wherever rows are read:
- Of rows that agree in entity, event time and sequence (so of one event id), one counts: the one available
  earliest, from the file before the log, in the log by offset. Rows without event id are never merged.
- A file's row counts once it is available at ``known_by``; a log's event is taken as soon as it is in the log,
  because ``available_at`` hides it from every reading before.
- The sequence of a row without event id is the hash of its content, and orders rows of one entity and instant. Where
  only order matters, a row that is alone at its instant has none: hashing a row costs ten times what reading it does.
  Only rows that count decide whether a row is alone, so that the way of reading makes no difference.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.core.clock import microseconds
from antiphon.core.errors import InvalidInputError, UnavailableError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.nodes import Kind, kind_of_value
from antiphon.features.expressions.compile_python import compile_measures, key_texts, sequence
from antiphon.features.expressions.compile_sql import rows_sql
from antiphon.features.monitoring.quality.row_rules import admitted_relation
from antiphon.features.offline.compute import ComputeLimits, compute, one_row, types_of
from antiphon.features.plan import ViewPlan, plan_of
from antiphon.features.ports import LogReader
from antiphon.features.sources.opened import OpenedSource, opened
from antiphon.features.sources.taking_over import EVENTS, TakenOver
from antiphon.features.tiles.row_batches import NO_SEQUENCE

if TYPE_CHECKING:
    import duckdb

ROWS = "measured_rows"
"""The table that :func:`load_rows` fills: k0 …, event_time, available_at, seq, log_offset, m0 …"""

_BATCH = 10_000
_SQL_TYPES: dict[Kind, str] = {"number": "DOUBLE", "boolean": "BOOLEAN", "text": "VARCHAR", "null": "DOUBLE"}


class LoadedRows(msgspec.Struct, frozen=True):
    """Counts and versions of loaded rows.

    ``kinds`` is the kind of each measure (``null`` without a value), ``stream_offset`` the last offset taken. ``read``
    rows were read now, the others taken over; ``withheld`` rows of ``files`` (path and SHA-256) are available later.
    """

    rows_in: int
    rows_rejected: int
    kinds: tuple[Kind, ...]
    source: str
    source_hash: str
    stream_offset: int | None
    read: int = 0
    withheld: int = 0
    files: tuple[tuple[str, str], ...] = ()
    columns: str = ""


def load_rows(
    connection: duckdb.DuckDBPyConnection,
    plan: ViewPlan,
    *,
    scope: Scope,
    log: LogReader | None,
    known_by: int | None = None,
    through: int | None = None,
    entities: Collection[tuple[str, ...]] | None = None,
    merged: bool = True,
    identified: bool = True,
    before: TakenOver | None = None,
    rows: OpenedSource | None = None,
) -> LoadedRows:
    """Fill the table :data:`ROWS` with every measured row of the view's source.

    Args:
        log: the event log, for a stream.
        known_by: leave out rows of the file that become available later (microseconds).
        through: last offset of the log to take; its end by default.
        entities: only rows of the entities with these keys.
        identified: every row has its sequence; otherwise of a table without event ids only rows that share entity and
            instant with another.
        before: rows that stand in the table ``EVENTS`` of :mod:`taking_over` already.
        rows: the source's files when they are opened already.
        merged: leave one of the rows that repeat an event; without it all of them, for :func:`one_of_each`.

    Raises:
        SetupError: the file is missing, or a database refuses access.
        UnavailableError: a database is away, or went away before the last row.
        InvalidInputError: it does not fit the definition, or a stream has neither history nor log.
    """
    source = plan.spec.source
    if source.kind == "feast":
        raise InvalidInputError(
            f"Source {source.name!r} is an online store of Feast, which has no history.",
            where=source.name,
            next_step="Read in batch from the table behind it: `antiphon features import-feast` translates that.",
        )
    keys = plan.key_columns
    kinds: list[Kind] = ["number" if measure.mode != "plain" else "null" for measure in plan.measures]
    described: list[str] = []
    hashed = columns_hash = ""
    rows_in = rejected = withheld = 0
    missing = " OR ".join(f"{name} IS NULL" for name in [*keys, "event_time", "available_at"])
    late = not identified and sequences_late(plan)
    if rows is None and not (before is not None and before.alone):
        rows = opened(connection, source, known_by)
    if rows is not None:
        relation = rows.relation if before is None else rows.without(before.files).relation
        among = "true" if entities is None else _among(connection, keys, entities)
        types = types_of(connection, relation)
        columns_hash = content_hash(list(types.items()))
        selected, file_kinds = rows_sql(plan, admitted_relation(plan.spec, relation, types), types)
        kinds = list(file_kinds)
        from_source = f"FROM (SELECT *, NULL::BIGINT AS log_offset FROM ({selected})) WHERE {among}"
        columns = ["NULL::VARCHAR AS seq" if late and name == "seq" else name for name in _columns(plan, kinds)]
        connection.execute(f"CREATE OR REPLACE TEMP TABLE loaded AS SELECT {', '.join(columns)} {from_source}")
        rows_in, rejected = one_row(connection, f"SELECT count(*), count(*) FILTER (WHERE {missing}) FROM loaded")
        connection.execute(f"DELETE FROM loaded WHERE {missing}")
        if known_by is not None:
            (withheld,) = one_row(connection, f"DELETE FROM loaded WHERE available_at > {known_by}")
        described.append(rows.described)
        rows = rows.hashed()
        hashed = rows.sha256()
    elif before is not None or (source.kind == "stream" and log is not None):
        kinds = kinds if before is None else list(before.kinds)
        schema = ", ".join(f"{name} {sql_type}" for name, sql_type in _columns(plan, kinds).items())
        connection.execute(f"CREATE OR REPLACE TEMP TABLE loaded ({schema})")
    else:
        raise InvalidInputError(
            f"Source {source.name!r} has neither a file nor an event log to read.", where=source.name
        )
    if before is not None:
        kinds = list(before.kinds)
        connection.execute(
            f"INSERT INTO loaded BY NAME SELECT * REPLACE (nullif(seq, {NO_SEQUENCE!r}) AS seq) FROM {EVENTS}"
        )
        described.append(f"events of {before.snapshot.id}")
    if late and rows is not None:
        known = "" if known_by is None else f" AND available_at <= {known_by}"
        _tell_apart(connection, keys, f"SELECT * {from_source} AND NOT ({missing}){known}", source.name)
    offset: int | None = None
    if source.kind == "stream" and log is not None:
        offset = log.end(scope, source.name) if through is None else through
        after = 0 if before is None else before.offset
        for taken, events, unusable in _log_rows(plan, scope, log, after, offset, entities):
            rows_in, rejected = rows_in + events, rejected + unusable
            _insert(connection, plan, kinds, taken)
        described.append(f"stream {source.name} through {offset}")
    if merged and source.event_id is not None:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {ROWS} AS {one_of_each(plan, 'loaded')}")
        connection.execute("DROP TABLE loaded")
    else:
        connection.execute(f"DROP TABLE IF EXISTS {ROWS}")
        connection.execute(f"ALTER TABLE loaded RENAME TO {ROWS}")
    read = rows_in
    if before is not None:
        # Each log entry and each file's row was counted once, in the snapshot that read it.
        rows_in, rejected = rows_in + before.snapshot.rows_in, rejected + before.snapshot.rows_rejected
    contents = () if rows is None else tuple(zip(rows.files, rows.contents(), strict=True))
    return LoadedRows(
        rows_in, rejected, tuple(kinds), "; ".join(described), hashed, offset, read, withheld, contents, columns_hash
    )


def sequences_late(plan: ViewPlan) -> bool:
    """True for a source whose rows need a sequence only when they share entity and instant.

    A query may give other rows when it runs again, and encodings compare all entities, so that their rows need one.
    """
    source = plan.spec.source
    return source.event_id is None and source.sql is None and not plan.fitted_windows


def _tell_apart(connection: duckdb.DuckDBPyConnection, keys: list[str], rows: str, source: str) -> None:
    """Put rows that share entity and instant in place anew, with their sequences.

    Args:
        rows: a SELECT of the rows of the source that count, with sequences.

    Raises:
        UnavailableError: the source is another one than a moment ago.
    """
    place = ", ".join([*keys, "event_time"])
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE tied AS SELECT {place} FROM loaded GROUP BY ALL HAVING count(*) > 1"
    )
    (tied,) = one_row(connection, "SELECT count(*) FROM tied")
    if tied:
        (gone,) = one_row(connection, f"DELETE FROM loaded WHERE seq IS NULL AND ({place}) IN (FROM tied)")
        (come,) = one_row(
            connection, f"INSERT INTO loaded BY NAME SELECT * FROM ({rows}) WHERE ({place}) IN (FROM tied)"
        )
        if come != gone:
            raise UnavailableError(
                "The source changed while it was read.",
                where=f"source {source}",
                next_step="Write a file elsewhere and rename it into place; the refresh is tried again.",
            )
    connection.execute("DROP TABLE tied")


def one_of_each(plan: ViewPlan, rows: str) -> str:
    """A SELECT that leaves one of the rows that repeat an event; ``rows`` is what stands after FROM."""
    keys, measures = plan.key_columns, plan.measure_columns
    picked = f"SELECT {', '.join([*keys, 'event_time', 'available_at', 'seq', 'log_offset', *measures])} FROM {rows}"
    if plan.spec.source.event_id is None:
        return picked
    return (
        f"{picked} QUALIFY row_number() OVER (PARTITION BY {', '.join([*keys, 'event_time', 'seq'])} "
        f"ORDER BY available_at, log_offset NULLS FIRST, {', '.join(measures)}) = 1"
    )


def _among(connection: duckdb.DuckDBPyConnection, keys: list[str], entities: Collection[tuple[str, ...]]) -> str:
    """A condition that a row is of one of some entities."""
    import pyarrow

    columns = {
        f"requested_{key}": pyarrow.array([one[at] for one in entities], pyarrow.string())
        for at, key in enumerate(keys)
    }
    connection.register("requested_entities", pyarrow.table(columns))
    same = " AND ".join(f"requested_{key} = {key}" for key in keys)
    return f"EXISTS (SELECT 1 FROM requested_entities WHERE {same})"


def _log_rows(
    plan: ViewPlan, scope: Scope, log: LogReader, after: int, end: int, entities: Collection[tuple[str, ...]] | None
) -> Iterator[tuple[list[tuple[Any, ...]], int, int]]:
    """The measured rows of the log, a batch at a time, with the number of events read and rejected for them."""
    measured = compile_measures(plan)
    requested = None if entities is None else frozenset(entities)
    while after < end:
        stored = log.read(scope, plan.spec.source.name, after, min(_BATCH, end - after))
        if not stored:
            return
        after = stored[-1].offset
        rows: list[tuple[Any, ...]] = []
        rejected = 0
        for item in stored:
            event = item.event
            keys = key_texts(plan.keys, event.payload)
            if keys is None:
                rejected += 1
                continue
            values = measured(event.payload) if requested is None or keys in requested else None
            if values is None:
                continue
            times = (microseconds(event.event_time), microseconds(event.available_at))
            rows.append((*keys, *times, sequence(event.event_id), item.offset, *values))
        yield rows, len(stored), rejected


def _columns(plan: ViewPlan, kinds: Sequence[Kind]) -> dict[str, str]:
    """Names and DuckDB types of the columns of measured rows."""
    instants = {"event_time": "BIGINT", "available_at": "BIGINT", "seq": "VARCHAR", "log_offset": "BIGINT"}
    measured = zip(plan.measure_columns, plan.measures, kinds, strict=True)
    return {
        **dict.fromkeys(plan.key_columns, "VARCHAR"),
        **instants,
        **{name: _SQL_TYPES[kind] if measure.mode == "plain" else "BIGINT" for name, measure, kind in measured},
    }


def _insert(
    connection: duckdb.DuckDBPyConnection, plan: ViewPlan, kinds: list[Kind], rows: list[tuple[Any, ...]]
) -> None:
    """Append rows of the log. A plain measure that was null so far, so that its column holds only nulls, gets the kind
    of its first value; a value of another kind than the column's is null, here as in the online read."""
    if not rows:
        return
    import pyarrow

    columns = dict(zip(_columns(plan, kinds), zip(*rows, strict=True), strict=True))
    for index, name in enumerate(plan.measure_columns):
        if kinds[index] == "null":
            kinds[index] = next((kind_of_value(value) for value in columns[name] if value is not None), "null")
            if kinds[index] != "null":
                sql_type = _columns(plan, kinds)[name]
                connection.execute(f"ALTER TABLE loaded ALTER {name} TYPE {sql_type} USING NULL")
        if plan.measures[index].mode == "plain":
            columns[name] = tuple(
                value if value is None or kind_of_value(value) == kinds[index] else None for value in columns[name]
            )
    arrow_types = {
        "VARCHAR": pyarrow.string(), "BIGINT": pyarrow.int64(), "DOUBLE": pyarrow.float64(), "BOOLEAN": pyarrow.bool_()
    }  # fmt: skip
    types = _columns(plan, kinds)
    table = {name: pyarrow.array(column, arrow_types[types[name]]) for name, column in columns.items()}
    connection.register("log_rows", pyarrow.table(table))
    connection.execute("INSERT INTO loaded BY NAME SELECT * FROM log_rows")
    connection.unregister("log_rows")


def require_readable(spec: FeatureViewSpec) -> None:
    """Check the columns of the source's files, and their types, against the definition, without reading a row.

    A log has none, a database and documents are checked when they are read, and objects are only listed. A missing file
    is a ``SetupError``, one that does not fit the definition an ``InvalidInputError``.
    """
    if spec.source.path is None or spec.source.documents is not None:
        return
    with compute(ComputeLimits()) as connection:
        rows = opened(connection, spec.source)
        assert rows is not None
        if rows.far:
            return
        rows_sql(plan_of(spec), rows.relation, types_of(connection, rows.relation))
