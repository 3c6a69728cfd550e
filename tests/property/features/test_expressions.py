"""An expression and a measure mean the same in DuckDB and in Python, for any tree and any row."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antiphon.definitions.entity import EntitySpec
from antiphon.definitions.expression import (
    Arithmetic,
    Boolean,
    Coalesce,
    Column,
    Comparison,
    Expression,
    IsNull,
    Literal,
    Not,
    mistakes,
)
from antiphon.definitions.feature import FeatureSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.source import SourceSpec
from antiphon.features.compile_python import compile_measures, key_texts, sequence
from antiphon.features.compile_sql import rows_sql
from antiphon.features.compute import ComputeLimits, compute, types_of
from antiphon.features.plan import plan_of

numeric_values = st.one_of(
    st.none(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-1000, 1000),
    st.sampled_from([0.0, -0.0, 0.5, 1.5, 2.5, -0.5, 0.005, 1e308, -1e308, 5e-324, 1.4e14, 2.0**47, 2.0**53]),
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "x": numeric_values,
            "y": numeric_values,
            "n": st.one_of(st.none(), st.integers(-(2**62), 2**62)),
            "b": st.sampled_from([None, True, False]),
            "s": st.sampled_from([None, "", "a", "A", "é", "zz", "it's", "\U0001f6eb"]),
        }
    ),
    min_size=1,
    max_size=8,
)
numbers: st.SearchStrategy[Expression]
booleans: st.SearchStrategy[Expression]
texts: st.SearchStrategy[Expression] = st.deferred(
    lambda: st.one_of(
        st.just(Column("s")),
        st.sampled_from(["", "a", "it's", "é"]).map(Literal),
        st.lists(texts, min_size=1, max_size=3).map(lambda operands: Coalesce(tuple(operands))),
    )
)
numbers = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["x", "y", "n"]).map(Column),
        st.one_of(st.sampled_from([0.0, 1.0, 0.1, -3.0, 1e300]), st.floats(-100, 100)).map(Literal),
        st.builds(Arithmetic, st.sampled_from("+-*/"), numbers, numbers),
        st.lists(numbers, min_size=1, max_size=3).map(lambda operands: Coalesce(tuple(operands))),
    )
)
booleans = st.deferred(
    lambda: st.one_of(
        st.just(Column("b")),
        st.booleans().map(Literal),
        st.builds(Comparison, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), numbers, numbers),
        st.builds(Comparison, st.sampled_from(["=", "!=", "<", ">="]), texts, texts),
        st.builds(Comparison, st.sampled_from(["=", "!="]), booleans, booleans),
        st.builds(Boolean, st.sampled_from(["and", "or"]), booleans, booleans),
        st.builds(Not, booleans),
        st.builds(IsNull, st.one_of(numbers, booleans, texts)),
    )
)
scales = st.sampled_from(["1", "0.01", "0.5", "0.25", "5", "0.000001", "0.3", "100"])


def spec_of(number: Expression, condition: Expression, name: Expression, where: Expression, scale: str) -> Any:
    features = {
        "total": FeatureSpec("sum", number, None, 1, scale),
        "chosen": FeatureSpec("sum", number, condition, 1, scale),
        "share": FeatureSpec("mean", condition, None, 1, None),
        "plain": FeatureSpec("min", number, None, 1, None),
        "flag": FeatureSpec("last", condition, None, 1, None),
        "name": FeatureSpec("last", name, condition, 1, None),
        "count": FeatureSpec("count", None, condition, 1, None),
    }
    source = SourceSpec("events", "stream", "t", "t", "id", None, where)
    return FeatureViewSpec("view", EntitySpec("e", ("k",)), source, features, None, "", "", "0" * 16)


@given(rows, numbers, booleans, texts, st.one_of(st.just(Literal(True)), booleans), scales)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_sql_and_python_agree(
    given_rows: list[dict[str, Any]],
    number: Expression,
    condition: Expression,
    name: Expression,
    where: Expression,
    scale: str,
) -> None:
    for node in (number, condition, name, where):
        assert list(mistakes(node)) == []
    plan = plan_of(spec_of(number, condition, name, where, scale))
    table = pa.table(
        {
            "id": [f"{n}" for n in range(len(given_rows))],
            "k": list(range(len(given_rows))),
            "t": pa.array(list(range(len(given_rows))), pa.timestamp("us", tz="UTC")),
            "x": pa.array([row["x"] for row in given_rows], pa.float64()),
            "y": pa.array([row["y"] for row in given_rows], pa.float64()),
            "n": pa.array([row["n"] for row in given_rows], pa.int64()),
            "b": pa.array([row["b"] for row in given_rows], pa.bool_()),
            "s": pa.array([row["s"] for row in given_rows], pa.string()),
        }
    )
    with compute(ComputeLimits(threads=1, memory=256)) as connection:
        connection.register("given", table)
        sql, _kinds = rows_sql(plan, "given", types_of(connection, "given"))
        found = {row[0]: row for row in connection.execute(sql).fetchall()}
    measured = compile_measures(plan)
    for n, row in enumerate(given_rows):
        values = measured(row)
        if values is None:
            assert str(n) not in found
            continue
        key, event_time, available_at, seq, *sql_values = found[str(n)]
        assert (key,) == key_texts(("k",), {"k": n})
        assert (event_time, available_at, seq) == (n, n, sequence(f"{n}"))
        assert [bits(value) for value in sql_values] == [bits(value) for value in values]


def bits(value: Any) -> Any:
    return (type(value).__name__, value.hex() if isinstance(value, float) else value)
