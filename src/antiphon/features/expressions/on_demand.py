"""Computes on-demand features: by closures for one request, by SQL for a table of rows, with the same values.

A payload has inputs under ``request.NAME``, the moment under ``now`` and other features under their full names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from antiphon.core.clock import microseconds
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.nodes import Expression, FeatureValueNode, Value, outside
from antiphon.definitions.on_demand import InputType, InputValue, OnDemandSpec, checked_input, defaults_of
from antiphon.features.expressions.expression_python import NOW, Evaluate, compile_expression, plain, request_place
from antiphon.features.expressions.expression_sql import SQL_TYPES, ExpressionSql, column_kind, quoted, text
from antiphon.features.offline.compute import ComputeLimits, compute, types_of

if TYPE_CHECKING:
    import duckdb
    import pyarrow

_MOST_COMPILED = 1_000
_compiled: dict[tuple[str, str], tuple[tuple[str, tuple[str, ...], Evaluate], ...]] = {}


def payload(inputs: Mapping[str, InputValue], features: Mapping[str, Value | int], as_of: datetime) -> dict[str, Any]:
    """Payload of one request, which expressions read."""
    return {
        NOW: float(microseconds(as_of)),
        **{request_place(name): value for name, value in inputs.items()},
        **features,
    }


def values(spec: OnDemandSpec, given: Mapping[str, Any]) -> dict[str, tuple[Value, tuple[str, ...]]]:
    """Full name to value and to the names of the features it was made from."""
    return {name: (plain(evaluate(given)), reads) for name, reads, evaluate in _functions(spec)}


def _functions(spec: OnDemandSpec) -> tuple[tuple[str, tuple[str, ...], Evaluate], ...]:
    # A definition version is a hash of what is compiled.
    key = (spec.name, spec.definition_version)
    found = _compiled.get(key)
    if found is None:
        if len(_compiled) >= _MOST_COMPILED:
            _compiled.clear()
        found = _compiled[key] = tuple(
            (f"{spec.name}.{name}", _reads(node), compile_expression(node)) for name, node in spec.features.items()
        )
    return found


def _reads(node: Expression) -> tuple[str, ...]:
    return tuple(found.name for found in outside(node) if isinstance(found, FeatureValueNode))


def computed_of(table: pyarrow.Table, specs: Sequence[OnDemandSpec], as_of: str) -> pyarrow.Table:
    """:func:`with_on_demand`, event times included, for a table that was read otherwise; raises as that."""
    if not specs:
        return table
    with compute(ComputeLimits()) as connection:
        # Rows come back in their order, which only this setting keeps.
        connection.execute("SET preserve_insertion_order = true")
        return with_on_demand(connection, table, specs, as_of=as_of, event_times=True)


def with_on_demand(
    connection: duckdb.DuckDBPyConnection,
    table: pyarrow.Table,
    specs: Sequence[OnDemandSpec],
    *,
    as_of: str,
    event_times: bool,
) -> pyarrow.Table:
    """The table with a column for each on-demand feature, rows in their order.

    Args:
        table: has a column of each input without a default, each feature that is read by its full name, and the moment
            ``as_of``.
        event_times: also append ``view.feature.event_time``: the latest of the features that are read.

    Raises:
        InvalidInputError: a column is missing or of another type than declared.
    """
    if not specs:
        return table
    import pyarrow

    types: dict[str, InputType] = {name: declared for spec in specs for name, declared in spec.inputs.items()}
    names = sorted({name for spec in specs for name in spec.reads()})
    defaults = defaults_of(specs)
    missing = [name for name in (*types, *names) if name not in table.column_names and name not in defaults]
    if missing:
        raise InvalidInputError(
            f"The frame has no column {missing[0]!r}.",
            where="frame",
            next_step=f"{specs[0].name} needs it as it needs {', '.join((*types, *names))}.",
        )
    connection.register("given_rows", table)
    given = types_of(connection, "given_rows")
    picked = [
        _input_sql(name, declared, given) if name in given else _default_sql(name, declared, defaults[name])
        for name, declared in types.items()
    ]
    picked += [quoted(name) for name in names]
    picked.append(f"CAST(epoch_us(CAST({quoted(as_of)} AS TIMESTAMPTZ)) AS DOUBLE) AS {NOW}")
    connection.execute(f"CREATE OR REPLACE TEMP VIEW asked_rows AS SELECT {', '.join(picked)} FROM given_rows")
    instants = {NOW, *(request_place(name) for name, declared in types.items() if declared == "instant")}
    for spec in specs:
        compiler = ExpressionSql(types_of(connection, "asked_rows"), f"view {spec.name}", instants)
        compiled = [_finished(compiler, node) for node in spec.features.values()]
        aliased = ", ".join(f"{sql} AS v{place}" for place, sql in enumerate(compiled))
        found = connection.sql(f"SELECT {aliased} FROM asked_rows AS this_row").to_arrow_table()
        for place, (name, node) in enumerate(spec.features.items()):
            table = table.append_column(f"{spec.name}.{name}", found.column(place))
            if event_times:
                read = [table.column(f"{one}.event_time").to_pylist() for one in _reads(node)]
                table = table.append_column(
                    f"{spec.name}.{name}.event_time",
                    pyarrow.array(
                        [max(filter(None, times), default=None) for times in zip(*read, strict=True)]
                        if read
                        else [None] * table.num_rows,
                        pyarrow.timestamp("us", tz="UTC"),
                    ),
                )
    connection.execute("DROP VIEW asked_rows")
    connection.unregister("given_rows")
    return table


def _finished(compiler: ExpressionSql, node: Expression) -> str:
    sql, kind = compiler.expression(node)
    if kind != "number":
        return f"CAST({sql} AS VARCHAR)" if kind == "text" else f"({sql})"
    return f"(list_transform([{sql}], lambda found: CASE WHEN isfinite(found) THEN found + 0.0::DOUBLE END)[1])"


def _default_sql(name: str, declared: InputType, default: Value) -> str:
    """The default of an input of which the table has no column."""
    value = checked_input(name, declared, default)
    place = quoted(request_place(name))
    if value is None:
        return f"CAST(NULL AS {SQL_TYPES[declared]}) AS {place}"
    if isinstance(value, datetime):
        value = float(microseconds(value))
    literal = text(value) if isinstance(value, str) else repr(value)
    return f"CAST({literal} AS {SQL_TYPES[declared]}) AS {place}"


def _input_sql(name: str, declared: InputType, given: Mapping[str, str]) -> str:
    column, found = quoted(name), column_kind(given[name])
    place = quoted(request_place(name))
    if found == "null":
        return f"CAST(NULL AS {SQL_TYPES[declared]}) AS {place}"
    if found != declared:
        raise InvalidInputError(
            f"The column {name!r} is {given[name]}, but the input is declared a {declared}.",
            where="frame",
            next_step="Cast the column, or declare the input's type otherwise.",
        )
    if declared == "instant":
        moment = f"CAST({column} AS TIMESTAMPTZ)"
        return f"CASE WHEN isfinite({moment}) THEN CAST(epoch_us({moment}) AS DOUBLE) END AS {place}"
    if declared == "number":
        number = f"CAST({column} AS DOUBLE)"
        return f"CASE WHEN isfinite({number}) THEN {number} END AS {place}"
    return f"CAST({column} AS {SQL_TYPES[declared]}) AS {place}"
