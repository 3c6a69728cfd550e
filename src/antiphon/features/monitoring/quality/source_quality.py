"""Quality of a source's rows: profile, results of rules over rows, and the rows to quarantine.

Everything here is a query of DuckDB over the same files that the snapshot is made of, in the same connection. That the
files did not change between two readings is checked by who opens them (``marks_of``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.catalog.features.events import StoredEvent
from antiphon.catalog.features.snapshot_facts import RuleCheck, SourceQuality
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.clock import microseconds
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.quality import (
    AllowedValuesRule,
    ColumnTypesRule,
    NoFutureRule,
    NotNullRule,
    QualitySpec,
    RangeRule,
    ReferenceRule,
    Rule,
    SqlRule,
    StabilityRule,
    UniquenessRule,
)
from antiphon.features.expressions.compile_sql import INSTANT_TYPES, instant_sql
from antiphon.features.expressions.expression_sql import ExpressionSql, column_kind, quoted, text
from antiphon.features.monitoring.quality.row_rules import offends, quarantine_stages, relational, require
from antiphon.features.monitoring.quality.statistics import StatisticsBuilder, TextNames
from antiphon.features.offline.compute import first_line, one_row, types_of
from antiphon.features.ports import LogReader
from antiphon.features.sources.opened import FileMark, marks_of, opened

if TYPE_CHECKING:
    import duckdb

SOURCE = "source"
"""The view that rules read: the source's events as they are, with every column."""

REASON = "antiphon_reason"
"""The column of a quarantined row's rule."""

PROFILED = 200_000
"""At most about so many new rows make the columns' statistics."""

EXACT_DUPLICATES = 2_000_000
"""Up to so many rows duplicates are counted one by one; beyond, among rows whose hash falls into a sample."""

_SKEW = 300_000_000
_LOG_BATCH = 10_000


class Raw(msgspec.Struct, frozen=True):
    """The opened source: its view :data:`SOURCE`, its columns' DuckDB types, and the files behind it."""

    types: dict[str, str]
    marks: tuple[FileMark, ...]


def open_source(
    connection: duckdb.DuckDBPyConnection,
    spec: FeatureViewSpec,
    *,
    scope: Scope,
    log: LogReader | None,
    after: int,
    through: int | None,
    known: Collection[str] = (),
) -> Raw:
    """Make the view :data:`SOURCE`: the table's rows but for those of files that are ``known``, which were looked at
    before, and the events of the log with ``after < offset <= through``. Raises ``SetupError`` when the file is
    missing, ``InvalidInputError`` when it cannot be read, or ``where`` does not fit it."""
    source = spec.source
    marks = marks_of(source, connection)
    rows = opened(connection, source)
    parts = [f"SELECT * FROM {rows.without(known).relation}"] if rows is not None else []
    if source.kind == "stream" and log is not None:
        end = log.end(scope, source.name) if through is None else through
        table = _log_table(spec, log, scope, after, end)
        if table is not None:
            connection.register("log_source", table)
            parts.append("SELECT * FROM log_source")
    if not parts:
        empty = dict.fromkeys([*spec.entity.keys, *spec.columns(), source.event_time], "VARCHAR")
        parts.append(f"SELECT {', '.join(f'NULL::VARCHAR AS {quoted(name)}' for name in empty)} WHERE false")
    together = " UNION ALL BY NAME ".join(parts)
    types = types_of(connection, f"({together})")
    filtered = ""
    if source.where is not None:
        filtered = f" WHERE {ExpressionSql(types, f'source {source.name}').condition(source.where)}"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {SOURCE} AS SELECT * FROM ({together}) AS this_row{filtered}")
    return Raw(types, marks)


def _log_table(spec: FeatureViewSpec, log: LogReader, scope: Scope, after: int, end: int) -> Any:
    """New events of the log as an Arrow table with their payloads' columns, the latest ones when there are very
    many."""
    import pyarrow

    stored: list[StoredEvent] = []
    after = max(after, end - PROFILED)
    while after < end:
        page = log.read(scope, spec.source.name, after, min(_LOG_BATCH, end - after))
        if not page:
            break
        stored += page
        after = page[-1].offset
    if not stored:
        return None
    source = spec.source
    names = dict.fromkeys(name for item in stored for name in item.event.payload)
    columns: dict[str, Any] = {name: _column([item.event.payload.get(name) for item in stored]) for name in names}
    instant = pyarrow.timestamp("us", tz="UTC")
    columns[source.event_time] = pyarrow.array([item.event.event_time for item in stored], instant)
    if source.available_at is not None:
        columns[source.available_at] = pyarrow.array([item.event.available_at for item in stored], instant)
    if source.event_id is not None:
        columns[source.event_id] = pyarrow.array([item.event.event_id for item in stored], pyarrow.string())
    return pyarrow.table(columns)


def _column(values: list[Any]) -> Any:
    """An Arrow column; values of several kinds, which no column of a table could hold, become texts."""
    import pyarrow

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return pyarrow.array([None if value is None else float(value) for value in values], pyarrow.float64())
    if kinds == {bool} or kinds == {str}:
        return pyarrow.array(values)
    return pyarrow.array([None if value is None else str(value) for value in values], pyarrow.string())


def kind_of(sql_type: str) -> str:
    """number, text, boolean, time or other."""
    found = column_kind(sql_type)
    if found == "instant" or sql_type == "DATE":
        return "time"
    return found if found != "unknown" else "other"


def columns_read(spec: FeatureViewSpec) -> tuple[str, ...]:
    """Columns that the view's features or its rules read, keys and times aside."""
    names = set(spec.columns())
    for rule in spec.quality.rules if spec.quality is not None else ():
        match rule:
            case ColumnTypesRule(columns=columns):
                names |= columns.keys()
            case RangeRule(over="source", of=column) | AllowedValuesRule(of=column):
                names.add(column)
            case (
                NotNullRule(over="source", of=columns)
                | ReferenceRule(of=columns)
                | StabilityRule(over="source", of=columns)
            ):
                names |= set(columns)
    return tuple(sorted(names - {spec.source.event_time, spec.source.available_at, spec.source.event_id}))


def profile(
    connection: duckdb.DuckDBPyConnection,
    spec: FeatureViewSpec,
    raw: Raw,
    *,
    now: int,
    previous: SnapshotManifest | None,
    names: TextNames,
) -> tuple[SourceQuality, dict[str, RuleCheck]]:
    """The source's quality, and what rules over single rows find; one pass over all rows, one over the new ones. What
    is known later than ``now`` (microseconds) is in the future; ``previous``, the snapshot before, tells what is
    new."""
    quality = spec.quality or QualitySpec()
    source, types = spec.source, raw.types
    event = _instant(source.event_time, types)
    known = _instant(source.available_at, types) if source.available_at is not None else event
    read = [name for name in columns_read(spec) if name in types]
    keys = [name for name in spec.entity.keys if name in types]
    since = microseconds(previous.as_of) if previous is not None else None
    bad = _any([f"this_row.{quoted(key)} IS NULL" for key in keys] + [f"{event} IS NULL", f"{known} IS NULL"])
    null = _any([f"this_row.{quoted(name)} IS NULL" for name in read])
    late = f"coalesce({known} - {event} > {quality.late_after}, false)"
    future = f"coalesce({known} > {now + _SKEW}, false)"
    outside = [f"NOT isfinite(this_row.{quoted(name)})" for name in read if types[name] in ("FLOAT", "DOUBLE")]
    predicates: list[tuple[Rule, str]] = []
    checks: dict[str, RuleCheck] = {}
    for rule in quality.rules:
        try:
            predicate = offends(rule, types)
        except InvalidInputError as error:
            checks[rule.name] = RuleCheck(rule.name, error=error.what)
            continue
        if isinstance(rule, NoFutureRule):
            predicate = f"{known} > {now + rule.skew}"
        if isinstance(rule, RangeRule) and predicate is not None:
            outside.append(predicate)
        if predicate is not None:
            predicates.append((rule, predicate))
    out = _any([*outside, future])
    is_new = "true" if since is None else f"coalesce({known} > {since}, false)"
    conditions = [bad, null, late, out, future, _any([bad, null, late, out]), is_new, *(one for _, one in predicates)]
    sums = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in conditions)
    empties = "".join(f", count(this_row.{quoted(name)})" for name in read)
    row = one_row(connection, f"SELECT count(*), max({event}), {sums}{empties} FROM {SOURCE} AS this_row")
    rows, latest, counts = row[0], row[1], row[2:]
    duplicates, estimated = _duplicates(connection, spec, types, rows)
    for (rule, predicate), offenders in zip(predicates, counts[7 : 7 + len(predicates)], strict=True):
        seen = _seen(connection, rule, predicate, names.columns_public) if offenders else ""
        checks[rule.name] = RuleCheck(rule.name, offenders=offenders, of=rows, seen=seen)
    kinds = {name: kind_of(sql_type) for name, sql_type in types.items()}
    for name, present in zip(read, counts[7 + len(predicates) :], strict=True):
        if rows and not present:
            kinds[name] = "empty"
    every = max(1, counts[6] // PROFILED)
    sample = f" AND hash(this_row) % {every} = 0" if every > 1 else ""
    before = previous.source_quality.columns if previous and previous.source_quality else None
    columns = StatisticsBuilder(read, before, names.of_columns(read))
    if read:
        picked = ", ".join(f"this_row.{quoted(name)}" for name in read)
        rows_read = connection.sql(f"SELECT {picked} FROM {SOURCE} AS this_row WHERE {is_new}{sample}")
        for batch in rows_read.to_arrow_reader(50_000):
            columns.add(batch)
    rejected, nulls, lates, outs, futures, defects = (count / rows if rows else 0.0 for count in counts[:6])
    found = SourceQuality(
        rows=rows,
        null_share=nulls,
        late_share=lates,
        duplicate_share=duplicates,
        out_of_range_share=outs,
        rejected_share=rejected,
        future_share=futures,
        score=max(0.0, 1.0 - defects - duplicates),
        new_rows=counts[6],
        new_span_seconds=None if since is None else max(0.0, (now - since) / 1e6),
        latest_event_time=latest,
        kinds=kinds,
        columns=columns.finish(),
        duplicates_estimated=estimated,
    )
    return found, checks


def check_rows(
    connection: duckdb.DuckDBPyConnection, spec: FeatureViewSpec, raw: Raw, rows: int
) -> Iterator[RuleCheck]:
    """Check rules that look at several rows. A rule that cannot be checked yields its error; it is not skipped."""
    for rule in spec.quality.rules if spec.quality is not None else ():
        if not isinstance(rule, (UniquenessRule, ReferenceRule)) and not (
            isinstance(rule, SqlRule) and rule.over == "source"
        ):
            continue
        yield count_offenders(connection, rule, partial(_offenders_sql, rule, raw.types), rows)


def count_offenders(connection: duckdb.DuckDBPyConnection, rule: Rule, query: Callable[[], str], of: int) -> RuleCheck:
    """Count the offenders of a rule by a query; one that cannot be written or fails has checked nothing."""
    try:
        (found,) = one_row(connection, query())
    except AntiphonError as error:
        return RuleCheck(rule.name, error=error.what)
    except Exception as error:  # DuckDB's own; a rule with a mistake must not look like one that holds
        return RuleCheck(rule.name, error=f"{type(error).__name__}: {first_line(error)}")
    return RuleCheck(rule.name, offenders=found, of=of)


def _offenders_sql(rule: Rule, types: Mapping[str, str]) -> str:
    if isinstance(rule, UniquenessRule):
        # Counting needs no window over all rows, as picking the rows does: a fifteenth of the time.
        require(rule.of, types)
        named = ", ".join(f"this_row.{quoted(column)}" for column in rule.of)
        there = " AND ".join(f"this_row.{quoted(column)} IS NOT NULL" for column in rule.of)
        values = named if len(rule.of) == 1 else f"({named})"
        return f"SELECT count(*) - count(DISTINCT {values}) FROM {SOURCE} AS this_row WHERE {there}"
    offenders, _ = relational(rule, f"SELECT * FROM {SOURCE}", types)
    return f"SELECT count(*) FROM ({offenders})"


def quarantine_sql(spec: FeatureViewSpec, raw: Raw) -> str | None:
    """A SELECT of every row that is kept out, with :data:`REASON` first: once for each rule that it offends. ``None``
    when no rule quarantines."""
    columns = ", ".join(quoted(name) for name in raw.types)
    parts = [
        f"SELECT {text(stage.rule.name)} AS {REASON}, {columns} FROM ({stage.offenders})"
        for stage in quarantine_stages(spec, f"SELECT * FROM {SOURCE}", raw.types)
    ]
    return " UNION ALL ".join(parts) if parts else None


def _duplicates(
    connection: duckdb.DuckDBPyConnection, spec: FeatureViewSpec, types: Mapping[str, str], rows: int
) -> tuple[float, bool]:
    """Share of rows that repeat another one. A row and its copy have one hash, so a sample of hashes is unbiased."""
    if not rows:
        return 0.0, False
    identity = spec.source.event_id
    hashed = f"hash(this_row.{quoted(identity)})" if identity is not None and identity in types else "hash(this_row)"
    every = max(1, rows // EXACT_DUPLICATES)
    sampled, distinct = one_row(
        connection,
        f"SELECT count(*), count(DISTINCT h) FROM (SELECT {hashed} AS h FROM {SOURCE} AS this_row) "
        f"WHERE h % {every} = 0",
    )
    return ((sampled - distinct) / sampled if sampled else 0.0), every > 1


def _seen(connection: duckdb.DuckDBPyConnection, rule: Rule, predicate: str, public: bool) -> str:
    """Describe the offending values, by an extra query for a rule that does not hold. Texts that are not public are
    only counted."""
    if isinstance(rule, RangeRule):
        number = f"CAST(this_row.{quoted(rule.of)} AS DOUBLE)"
        # In FILTER and not in WHERE: a Parquet file's statistics leave NaN out, and DuckDB skips row groups by them.
        finite = f"FILTER (WHERE {predicate} AND isfinite({number}))"
        low, high, endless = one_row(
            connection,
            f"SELECT min({number}) {finite}, max({number}) {finite}, "
            f"count(*) FILTER (WHERE {predicate} AND NOT isfinite({number})) FROM {SOURCE} AS this_row",
        )
        parts = [] if low is None else [f"there is {low:g}" if low == high else f"there are {low:g} to {high:g}"]
        return ", ".join([*parts, *([f"{endless} are NaN or infinite"] if endless else [])])
    if isinstance(rule, AllowedValuesRule) and not public:
        (different,) = one_row(
            connection,
            f"SELECT count(DISTINCT CAST(this_row.{quoted(rule.of)} AS VARCHAR)) FROM {SOURCE} AS this_row "
            f"WHERE {predicate}",
        )
        return f"there {'is 1 other' if different == 1 else f'are {different} others'}, withheld"
    if isinstance(rule, AllowedValuesRule):
        rows = connection.execute(
            f"SELECT CAST(this_row.{quoted(rule.of)} AS VARCHAR) AS v, count(*) AS n FROM {SOURCE} AS this_row "
            f"WHERE {predicate} GROUP BY v ORDER BY n DESC, v LIMIT 5"
        ).fetchall()
        listed = ", ".join(repr(value[:40]) for value, _ in rows[:4])
        return f"there are {listed}{' and others' if len(rows) > 4 else ''}"
    return ""


def _instant(column: str, types: Mapping[str, str]) -> str:
    if not types.get(column, "").startswith(INSTANT_TYPES):
        return "NULL::BIGINT"  # reading the rows says what is wrong
    return instant_sql(f"this_row.{quoted(column)}")


def _any(conditions: list[str]) -> str:
    return (
        "(" + " OR ".join(f"coalesce({condition}, false)" for condition in conditions) + ")" if conditions else "false"
    )
