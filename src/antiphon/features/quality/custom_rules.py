"""Rules in SQL over feature values and in Python: what the project says itself about an Arrow table.

A function is the project's own code, with the worker's rights. It runs only if it is still what was applied: a function
that changed since, or raises, has checked nothing, and its rule fails rather than holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from antiphon.catalog.snapshot_facts import RuleCheck
from antiphon.core.errors import SetupError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.quality import Between, NotNull, Python, Sql, digest_of
from antiphon.features.quality.source_quality import SOURCE

if TYPE_CHECKING:
    import duckdb
    import pyarrow

Functions = Callable[[str], Mapping[str, Any]]
"""A view's name to its rules' functions and schemas by the rule's name, as the project declares them now."""

MOST_ROWS = 1_000_000
"""A function over the source gets at most so many rows, those that are known latest."""

_MOST_REASONS = 5


def needs_values(spec: FeatureViewSpec) -> bool:
    """Whether a rule looks at all feature values together."""
    rules = spec.quality.rules if spec.quality is not None else ()
    return any(
        isinstance(rule, Python) or (isinstance(rule, (Sql, NotNull, Between)) and rule.over == "features")
        for rule in rules
    )


def check_tables(
    connection: duckdb.DuckDBPyConnection,
    spec: FeatureViewSpec,
    values: pyarrow.Table | None,
    functions: Functions | None,
) -> Iterator[RuleCheck]:
    """What rules over features, and functions, find. The values are only looked at when it :func:`needs_values`."""
    rules = spec.quality.rules if spec.quality is not None else ()
    if values is None:
        return
    plain = values.rename_columns([name.removeprefix(f"{spec.name}.") for name in values.column_names])
    found: Mapping[str, Any] | None = None
    for rule in rules:
        if isinstance(rule, Sql) and rule.over == "features":
            yield _select(connection, rule, plain)
        elif isinstance(rule, (NotNull, Between)) and rule.over == "features":
            yield RuleCheck(rule.name, offenders=_offending(rule, plain), of=len(plain))
        elif isinstance(rule, Python):
            try:
                if found is None:
                    found = functions(spec.name) if functions is not None else {}
                table = plain if rule.over == "features" else _source(connection, spec)
                yield RuleCheck(rule.name, of=len(table), reasons=_called(rule, found.get(rule.name), table))
            except Exception as error:  # whatever the project's code raises
                yield RuleCheck(rule.name, error=f"{type(error).__name__}: {error}")


def _offending(rule: NotNull | Between, values: pyarrow.Table) -> int:
    import pyarrow
    import pyarrow.compute as pc

    if isinstance(rule, NotNull):
        missing = pc.is_null(values.column(rule.of[0]))
        for name in rule.of[1:]:
            missing = pc.or_(missing, pc.is_null(values.column(name)))
        return int(pc.sum(missing).as_py() or 0)
    numbers = values.column(rule.of).drop_null().cast(pyarrow.float64())
    inside = pc.and_(pc.greater_equal(numbers, rule.low), pc.less_equal(numbers, rule.high))
    return len(numbers) - int(pc.sum(inside).as_py() or 0)


def _called(rule: Python, function: Any, table: pyarrow.Table) -> tuple[str, ...]:
    if function is None:
        raise SetupError(f"definitions.py has no function for the rule {rule.name!r}.", next_step="`antiphon apply`.")
    if digest_of(function) != rule.digest:
        raise SetupError("The function changed since it was applied.", next_step="`antiphon apply`.")
    said = schema_failures(function, table) if hasattr(function, "validate") else function(table)
    if said is None or said is True:
        return ()
    if said is False:
        return ("it does not hold",)
    reasons = (said,) if isinstance(said, str) else tuple(map(str, said))
    return tuple(reason for reason in reasons if reason)[:_MOST_REASONS]


def schema_failures(schema: Any, table: pyarrow.Table) -> list[str]:
    """What a pandera schema (of Polars or of pandas) finds wrong with a table, a sentence each.

    Raises:
        SetupError: pandera, or the frames that the schema is for, are not installed.
    """
    try:
        import pandera.errors
    except ImportError as error:
        raise SetupError(
            "pandera is not installed.", where="quality", next_step="Install antiphon with the extra quality."
        ) from error
    home = " ".join(kind.__module__ for kind in (schema.__mro__ if isinstance(schema, type) else type(schema).__mro__))
    if "polars" in home:
        import polars

        frame: Any = polars.from_arrow(table)
    else:
        frame = table.to_pandas()
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
        rows = cases.to_dicts() if hasattr(cases, "to_dicts") else cases.to_dict("records")
        counted: dict[tuple[str, str], int] = {}
        for row in rows:
            place = (str(row.get("column") or row.get("schema_context")), str(row.get("check")))
            counted[place] = counted.get(place, 0) + 1
        return [f"{column}: {count} fail {check}" for (column, check), count in counted.items()]
    return []


def _select(connection: duckdb.DuckDBPyConnection, rule: Sql, values: pyarrow.Table) -> RuleCheck:
    connection.register("features", values)
    try:
        ((found,),) = connection.execute(f"SELECT count(*) FROM ({rule.select})").fetchall()
    except Exception as error:  # DuckDB's own
        return RuleCheck(rule.name, error=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    finally:
        connection.unregister("features")
    return RuleCheck(rule.name, offenders=found, of=len(values))


def _source(connection: duckdb.DuckDBPyConnection, spec: FeatureViewSpec) -> pyarrow.Table:
    latest = spec.source.available_at or spec.source.event_time
    quoted = '"' + latest.replace('"', '""') + '"'
    return connection.sql(f"SELECT * FROM {SOURCE} ORDER BY {quoted} DESC LIMIT {MOST_ROWS}").to_arrow_table()
