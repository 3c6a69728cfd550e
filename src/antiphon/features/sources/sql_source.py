"""A source that is a query: prepares its tables, checks that its result does not depend on their order, and runs it.

Invariant: the rows do not depend on the order in which its tables are read, nor on threads. A sample of each table is
queried as it stands and turned round; where the two differ in any bit, the query is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import content_hash
from antiphon.definitions.objects import is_objects
from antiphon.definitions.source import SourceSpec
from antiphon.definitions.sql_query import require_query
from antiphon.features.expressions.compile_sql import instant_sql
from antiphon.features.expressions.expression_sql import ExpressionSql, quoted
from antiphon.features.offline.compute import files_of, one_row, relation_of, types_of
from antiphon.features.sources.object_source import object_source

if TYPE_CHECKING:
    import duckdb

SAMPLE = 5_000
"""Rows of each table that a query is tried on."""
_LINE = re.compile(r"LINE (\d+):")


def query_rows(connection: duckdb.DuckDBPyConnection, source: SourceSpec, known_by: int | None) -> str:
    """The name of a table with the query's rows.

    Args:
        known_by: leave out rows of its tables that become available later (microseconds).

    Raises:
        SetupError: a table's file is missing.
        InvalidInputError: the query is not accepted, does not fit its tables, or gives other rows when these come in
            another order.
    """
    assert source.sql is not None
    result = f"sql_rows_{content_hash([source.sql, known_by])[:16]}"
    # Checked again, because a catalog may have been written by another program.
    require_query(source.sql, [each.name for each in source.over], f"source {source.name}")
    # A session of its own: the query sees its tables and none of what else is being computed.
    session = connection.cursor()
    try:
        session.execute("SET TimeZone = 'UTC'")
        session.execute("SET python_enable_replacements = false")
        wholes = [_table(session, each, known_by) for each in source.over]
        _require_same(session, source, wholes, result)
        for each, whole in zip(source.over, wholes, strict=True):
            session.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(each.name)} AS {whole}")
        _run(session, source, result)
    finally:
        session.close()
    return result


def _table(connection: duckdb.DuckDBPyConnection, source: SourceSpec, known_by: int | None) -> str:
    """A SELECT of the rows of a table that are events and known."""
    assert source.path is not None
    objects = is_objects(source.path)
    relation = object_source(connection, source).relation if objects else relation_of(files_of(source.path))
    compiler = ExpressionSql(types_of(connection, relation), f"source {source.name}")
    known = compiler.column(source.available_at or source.event_time)
    conditions = ["true"] if source.where is None else [compiler.condition(source.where)]
    if known_by is not None:
        conditions.append(f"{instant_sql(known)} <= {known_by}")
    return f"SELECT * FROM {relation} AS this_row WHERE {' AND '.join(conditions)}"


def _require_same(connection: duckdb.DuckDBPyConnection, source: SourceSpec, wholes: list[str], result: str) -> None:
    names = [each.name for each in source.over]
    for place, whole in enumerate(wholes):
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE sampled_{place} AS SELECT *, row_number() OVER () AS sample_row FROM "
            f"({whole} LIMIT {SAMPLE})"
        )
    seen = []
    for order in ("sample_row", "sample_row DESC"):
        for place, name in enumerate(names):
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE ordered_{place} AS SELECT * EXCLUDE (sample_row) FROM sampled_{place} "
                f"ORDER BY {order}"
            )
            connection.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(name)} AS SELECT * FROM ordered_{place}")
        _run(connection, source, result)
        hashes = f"SELECT sha256(CAST(r AS VARCHAR)) AS h FROM memory.main.{result} AS r"
        seen.append(one_row(connection, f"SELECT count(*), sha256(string_agg(h, '' ORDER BY h)) FROM ({hashes})"))
    for place, name in enumerate(names):
        connection.execute(f"DROP VIEW {quoted(name)}")
        connection.execute(f"DROP TABLE ordered_{place}")
        connection.execute(f"DROP TABLE sampled_{place}")
    if seen[0] != seen[1]:
        raise InvalidInputError(
            "The query gives other rows when its tables are read in another order.",
            where=f"source {source.name}",
            next_step="Order what first, last, list, string_agg, row_number or LIMIT see down to a single row, and "
            "cast numbers that are added up to DECIMAL: sums of DOUBLE depend on their order.",
        )


def _run(connection: duckdb.DuckDBPyConnection, source: SourceSpec, result: str) -> None:
    import duckdb

    assert source.sql is not None
    # On a line of its own, so that a trailing comment ends and the lines that DuckDB names are the query's plus one.
    body = source.sql.rstrip().rstrip(";")
    try:
        connection.execute(f"CREATE OR REPLACE TABLE memory.main.{result} AS SELECT * FROM (\n{body}\n)")
    except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException, duckdb.ConversionException,
            duckdb.InvalidInputException, duckdb.OutOfRangeException) as error:  # fmt: skip
        said = str(error).strip()
        line = _LINE.search(said)
        place = f", line {int(line.group(1)) - 1}" if line is not None else ""
        # The first line names columns and types; values that DuckDB quotes are not shown.
        first = said.splitlines()[0]
        if isinstance(error, (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException)):
            first = re.sub(r"'(?:[^']|'')*'", "'…'", first)
        raise InvalidInputError(
            f"sql{place}: {first}", where=f"source {source.name}", next_step="Correct the query."
        ) from error
