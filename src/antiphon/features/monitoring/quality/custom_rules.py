"""Rules in SQL over feature values and in Python: what the project says itself about an Arrow table.

A function is the project's own code, with the worker's rights. It runs only if it is still what was applied: a function
that changed since, or raises, has checked nothing, and its rule fails rather than holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from antiphon.catalog.features.snapshot_facts import RuleCheck
from antiphon.core.errors import SetupError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.quality import NotNullRule, PythonRule, RangeRule, SqlRule, digest_of
from antiphon.features.expressions.expression_sql import quoted, text
from antiphon.features.monitoring.quality.snapshot_values import VALUES, SnapshotValues
from antiphon.features.monitoring.quality.source_quality import SOURCE, count_offenders

if TYPE_CHECKING:
    import duckdb
    import pyarrow

Functions = Callable[[str], Mapping[str, Any]]
"""A view's name to its rules' functions and schemas by the rule's name, as the project declares them now."""

MOST_ROWS = 1_000_000
"""A function over the source gets at most so many rows, those that are known latest."""

_MOST_REASONS = 5


def needs_values(spec: FeatureViewSpec) -> bool:
    """Tell whether a rule looks at all feature values together."""
    rules = spec.quality.rules if spec.quality is not None else ()
    return any(
        isinstance(rule, PythonRule)
        or (isinstance(rule, (SqlRule, NotNullRule, RangeRule)) and rule.over == "features")
        for rule in rules
    )


def check_values(
    connection: duckdb.DuckDBPyConnection, spec: FeatureViewSpec, values: SnapshotValues, functions: Functions | None
) -> Iterator[RuleCheck]:
    """Check rules over features and functions; ``values`` are the snapshot's, opened on the connection."""
    found: Mapping[str, Any] | None = None
    for rule in spec.quality.rules if spec.quality is not None else ():
        if isinstance(rule, (SqlRule, NotNullRule, RangeRule)) and rule.over == "features":
            yield count_offenders(connection, rule, partial(_offenders_sql, rule), values.rows)
        elif isinstance(rule, PythonRule):
            try:
                if found is None:
                    found = functions(spec.name) if functions is not None else {}
                table = values.table if rule.over == "features" else _source(connection, spec)
                yield RuleCheck(rule.name, of=len(table), reasons=_called(rule, found.get(rule.name), table))
            except Exception as error:  # whatever the project's code raises
                yield RuleCheck(rule.name, error=f"{type(error).__name__}: {error}")


def _offenders_sql(rule: SqlRule | NotNullRule | RangeRule) -> str:
    if isinstance(rule, SqlRule):
        return f"SELECT count(*) FROM ({rule.select})"
    if isinstance(rule, NotNullRule):
        offends = " OR ".join(f"{quoted(name)} IS NULL" for name in rule.of)
    else:
        number, low, high = f"CAST({quoted(rule.of)} AS DOUBLE)", text(repr(rule.low)), text(repr(rule.high))
        offends = f"{number} IS NOT NULL AND NOT ({number} BETWEEN {low}::DOUBLE AND {high}::DOUBLE)"
    return f"SELECT count(*) FROM {VALUES} WHERE {offends}"


def _called(rule: PythonRule, function: Any, table: pyarrow.Table) -> tuple[str, ...]:
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
    """Validate a table by a pandera schema (of Polars or of pandas); return a sentence for each failure. Raises
    ``SetupError`` when pandera, or the frames that the schema is for, are not installed."""
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
        failed = Counter((str(row.get("column") or row.get("schema_context")), str(row.get("check"))) for row in rows)
        return [f"{column}: {count} fail {check}" for (column, check), count in failed.items()]
    return []


def _source(connection: duckdb.DuckDBPyConnection, spec: FeatureViewSpec) -> pyarrow.Table:
    latest = spec.source.available_at or spec.source.event_time
    return connection.sql(f"SELECT * FROM {SOURCE} ORDER BY {quoted(latest)} DESC LIMIT {MOST_ROWS}").to_arrow_table()
