"""An expression and a measure mean the same in DuckDB and in Python, for any tree and any row."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antiphon.definitions.entity import EntitySpec
from antiphon.definitions.expression import mistakes
from antiphon.definitions.feature import FeatureSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.nodes import (
    ArithmeticNode,
    BooleanNode,
    CalendarNode,
    CallNode,
    CaseNode,
    CoalesceNode,
    ColumnNode,
    ComparisonNode,
    Expression,
    HashBucketNode,
    IsNullNode,
    LiteralNode,
    MembershipNode,
    NotNode,
    RoundNode,
)
from antiphon.definitions.source import SourceSpec
from antiphon.features.expressions.compile_python import compile_measures, key_texts, sequence
from antiphon.features.expressions.compile_sql import rows_sql
from antiphon.features.expressions.expression_python import compile_expression, lower
from antiphon.features.expressions.expression_sql import ExpressionSql
from antiphon.features.expressions.numerics import log1p, offsets_of
from antiphon.features.offline.compute import ComputeLimits, compute, types_of
from antiphon.features.plan import plan_of

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca"]
EDGES = [
    int(edge) + shift for zone in ZONES for edge in offsets_of(zone)[0][-160::7] for shift in (-1, 0, 3_599_999_999)
]
instants = st.one_of(
    st.integers(-(10**16), 10**16),
    st.sampled_from(EDGES),
    st.sampled_from([0, -1, 1_483_228_799_999_999, 1_483_228_800_000_000]),  # a leap second before the last one
).map(lambda n: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=n))
instant_texts = st.one_of(
    instants.map(lambda moment: moment.isoformat()),
    st.sampled_from(
        [
            "2016-12-31T23:59:60Z", "2016-12-31T23:59:59.9Z", "2017-02-29 10:00", "2016-02-29 10:00", "2016-03-27",
            "2016-03-27T02:30:00+01:00", "2016-10-30T02:30:00+02:00", "2016-06-01T24:00:00Z", "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59-14:00", "2016-06-01T10:00:00+14:59", "2016-06-01t10:00:00z", " 2016-06-01T10:00:00Z",
            "٢016-06-01T10:00:00Z", "2016-06-01T10:00:00.1234567Z", "2016-13-01T00:00:00Z", "infinity", "today",
        ]
    ),
)  # fmt: skip

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
            "s": st.sampled_from([None, "", "a", "A", "é", "É", "zz", "it's", "\U0001f6eb", "İ", "ΑΣ", "ﬁ", "ẞ"]),
            "at": st.one_of(st.none(), instant_texts),
            "ts": st.one_of(st.none(), instants),
        }
    ),
    min_size=1,
    max_size=8,
)


moments = st.one_of(
    st.sampled_from([ColumnNode("at"), ColumnNode("ts")]),
    st.sampled_from(["at", "ts"]).map(lambda name: CoalesceNode((ColumnNode(name), ColumnNode(name)))),
)
Trees = st.SearchStrategy[Expression]


def cases(conditions: Trees, values: Trees) -> Trees:
    branches = st.lists(st.tuples(conditions, values), min_size=1, max_size=2).map(tuple)
    return st.builds(CaseNode, branches, st.one_of(values, st.just(LiteralNode(None))))


def trees(depth: int) -> tuple[Trees, Trees, Trees]:
    """Numbers, booleans and texts of at most this depth."""
    numbers: Trees = st.one_of(
        st.sampled_from(["x", "y", "n"]).map(ColumnNode),
        st.one_of(st.sampled_from([0.0, 1.0, 0.1, -3.0, 1e300]), st.floats(-100, 100)).map(LiteralNode),
        st.builds(lambda a, b: CallNode("seconds_since", (a, b)), moments, moments),
        st.builds(lambda a: CallNode("epoch", (a,)), moments),
    )
    booleans: Trees = st.one_of(st.just(ColumnNode("b")), st.booleans().map(LiteralNode))
    texts: Trees = st.one_of(st.just(ColumnNode("s")), st.sampled_from(["", "a", "it's", "é"]).map(LiteralNode))
    if depth == 0:
        return numbers, booleans, texts
    n, b, t = trees(depth - 1)
    extreme = st.sampled_from(["least", "greatest"])
    steps = st.sampled_from(["1", "0.5", "0.01", "0.3", "25", "1000000", "0.000000000001"])
    numbers = st.one_of(
        numbers,
        st.builds(ArithmeticNode, st.sampled_from("+-*/"), n, n),
        st.lists(n, min_size=1, max_size=3).map(lambda operands: CoalesceNode(tuple(operands))),
        st.builds(CallNode, extreme, st.lists(n, min_size=1, max_size=3).map(tuple)),
        st.builds(lambda name, operand: CallNode(name, (operand,)), st.sampled_from(["abs", "log1p"]), n),
        st.builds(RoundNode, n, steps),
        st.builds(CalendarNode, st.sampled_from(["hour", "weekday"]), moments, st.sampled_from(ZONES)),
        st.builds(HashBucketNode, st.one_of(n, b, t), st.sampled_from([1, 7, 1_000_000])),
        cases(b, n),
    )
    booleans = st.one_of(
        booleans,
        st.builds(ComparisonNode, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), n, n),
        st.builds(ComparisonNode, st.sampled_from(["=", "!=", "<", ">="]), t, t),
        st.builds(ComparisonNode, st.sampled_from(["=", "!="]), b, b),
        st.builds(BooleanNode, st.sampled_from(["and", "or"]), b, b),
        st.builds(NotNode, b),
        st.builds(IsNullNode, st.one_of(n, b, t)),
        st.builds(MembershipNode, t, st.sampled_from([("a",), ("", "é", "it's")])),
        st.builds(MembershipNode, n, st.sampled_from([(0.0,), (1.0, 0.1, -3.0)])),
        cases(b, b),
    )
    texts = st.one_of(
        texts,
        st.lists(t, min_size=1, max_size=3).map(lambda operands: CoalesceNode(tuple(operands))),
        st.builds(lambda operand: CallNode("lower", (operand,)), t),
        st.builds(CallNode, extreme, st.lists(t, min_size=1, max_size=3).map(tuple)),
        cases(b, t),
    )
    return numbers, booleans, texts


numbers, booleans, texts = trees(2)
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


@given(rows, numbers, booleans, texts, st.one_of(st.just(LiteralNode(True)), booleans), scales)
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
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
            "at": pa.array([row["at"] for row in given_rows], pa.string()),
            "ts": pa.array([row["ts"] for row in given_rows], pa.timestamp("us", tz="UTC")),
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


def in_sql(node: Expression, table: pa.Table) -> list[Any]:
    with compute(ComputeLimits(threads=1, memory=512)) as connection:
        connection.register("given", table)
        sql, _kind = ExpressionSql(types_of(connection, "given"), "given").expression(node)
        return [row[0] for row in connection.execute(f"SELECT {sql} FROM given AS this_row").fetchall()]


def test_lower_case_is_the_same_for_every_code_point() -> None:
    letters = [chr(point) for point in range(1, 0x20000) if not 0xD800 <= point < 0xE000]
    assert in_sql(CallNode("lower", (ColumnNode("s"),)), pa.table({"s": letters})) == [
        lower(letter) for letter in letters
    ]


def test_hour_and_weekday_are_those_of_the_zone_at_every_change_of_its_clocks() -> None:
    for zone in ZONES:
        edges = [int(edge) + shift for edge in offsets_of(zone)[0] for shift in (-1, 0, 1, 1_800_000_000)]
        moments = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=edge) for edge in edges]
        table = pa.table({"at": pa.array(moments, pa.timestamp("us", tz="UTC"))})
        local = [moment.astimezone(ZoneInfo(zone)) for moment in moments]
        for part, wanted in (
            ("hour", [float(moment.hour) for moment in local]),
            ("weekday", [float(moment.isoweekday()) for moment in local]),
        ):
            node = CalendarNode(part, ColumnNode("at"), zone)  # type: ignore[arg-type]
            assert in_sql(node, table) == wanted
            read = compile_expression(node)
            assert [read({"at": moment}) for moment in moments] == wanted
            assert [read({"at": moment.isoformat()}) for moment in moments] == wanted
    transitions, offsets = offsets_of("Europe/Berlin")
    assert len(offsets) == len(transitions) + 1
    assert offsets[bisect_right(transitions, 1_459_040_400_000_000.0)] == 7_200_000_000.0  # 27 March 2016, 01:00 UTC


@given(
    st.one_of(st.floats(min_value=-1, allow_nan=False, allow_infinity=False), st.floats(-1, 3), st.floats(-1e-9, 1e-9))
)
@settings(max_examples=400)
def test_log1p_is_within_two_units_in_the_last_place(x: float) -> None:
    found = log1p(x)
    if x == -1:
        assert found is None
    else:
        assert found is not None
        assert abs(found - math.log1p(x)) <= 2 * math.ulp(math.log1p(x))


def test_functions_give_the_same_bits_on_hard_numbers() -> None:
    chance = random.Random(3)
    hard = [0.0, -0.0, 0.5, 1.5, 2.5, -2.5, 0.25, -0.25, 5e-324, 1e308, -1.0, -1 + 2**-53, 1e-17, 2.0**52, 2.0**53 - 1]
    hard += [
        sign * 2.0**n * (1 + d * 2.0**-52) - 1 for n in range(-60, 1024, 7) for d in (-1, 0, 1) for sign in (1, -1)
    ]
    hard += [chance.uniform(-1, 3) for _ in range(800)] + [(n + 0.5) / 8 for n in range(-200, 200)]
    values = [*hard, None]
    table = pa.table({"x": pa.array(values, pa.float64())})
    nodes: list[Expression] = [
        CallNode("log1p", (ColumnNode("x"),)),
        CallNode("abs", (ColumnNode("x"),)),
        HashBucketNode(ColumnNode("x"), 97),
    ]
    nodes += [RoundNode(ColumnNode("x"), step) for step in ("1", "0.25", "0.3", "10", "0.000001", "1000000000000")]
    nodes += [CallNode(name, (ColumnNode("x"), LiteralNode(0.3))) for name in ("least", "greatest")]  # type: ignore[arg-type]
    for node in nodes:
        read = compile_expression(node)
        assert [bits(value) for value in in_sql(node, table)] == [bits(read({"x": value})) for value in values], node
