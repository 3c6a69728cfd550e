"""An on-demand feature is the same number for one request and for a table of rows, and as its text says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon import least, now, on_demand, on_demand_view, request, when
from antiphon.definitions.expression import FeatureName
from antiphon.definitions.on_demand import OnDemandSpec
from antiphon.features.expressions.on_demand import payload, values, with_on_demand
from antiphon.features.offline.compute import ComputeLimits, compute

MEAN, SHOP, COUNT = (FeatureName(f"spend.{name}") for name in ("mean", "shop", "count"))
NAMES = ("spend.mean", "spend.shop", "spend.count")


def view() -> OnDemandSpec:
    @on_demand_view(inputs={"amount": "number", "shop": "text", "web": "boolean", "at": "instant"})
    class Purchase:
        ratio = on_demand(request.amount / (MEAN + 1))
        many = on_demand(least(COUNT, 10) * 2)
        same = on_demand(request.shop.lower() == SHOP)
        night = on_demand(now.hour("Europe/Berlin") < 6)
        waited = on_demand(now.seconds_since(request.at))
        kind = on_demand(when(request.web & (request.amount > 100)).then("large").otherwise(SHOP))
        zero = on_demand(request.amount * 0.0)

    return Purchase.spec()


moments = st.one_of(
    st.integers(0, 4 * 10**15),  # From 1970 on: the changes of a zone's offset before that are not read.
    st.sampled_from([1_459_040_400_000_000, 1_459_040_399_999_999, 1_477_789_200_000_000]),  # clocks change in Berlin
).map(lambda n: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=n))
numbers = st.one_of(
    st.none(), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([-1.0, 0.0, -0.0, 101.0])
)
shops = st.sampled_from([None, "a", "A", "É", "é", ""])
rows = st.fixed_dictionaries(
    {
        "amount": numbers,
        "shop": shops,
        "web": st.sampled_from([None, True, False]),
        "at": st.one_of(st.none(), moments),
        "as_of": moments,
        "spend.mean": numbers,
        "spend.shop": shops,
        "spend.count": st.one_of(st.none(), st.integers(0, 2**40)),
    }
)


def expected(row: dict[str, Any]) -> dict[str, Any]:
    """Straight from the text of the view."""
    amount, mean, count = row["amount"], row["spend.mean"], row["spend.count"]
    ratio = None if amount is None or mean is None or mean + 1 == 0 else amount / (mean + 1)
    large = row["web"] is True and amount is not None and amount > 100
    return {
        "purchase.ratio": None if ratio is None or ratio in (float("inf"), -float("inf")) else ratio + 0.0,
        "purchase.many": 20.0 if count is None else float(min(count, 10)) * 2,
        "purchase.same": None
        if row["shop"] is None or row["spend.shop"] is None
        else row["shop"].lower() == row["spend.shop"],
        "purchase.night": row["as_of"].astimezone(ZoneInfo("Europe/Berlin")).hour < 6,
        "purchase.waited": None if row["at"] is None else (row["as_of"] - row["at"]).total_seconds() + 0.0,
        "purchase.kind": "large" if large else row["spend.shop"],
        "purchase.zero": None if amount is None else 0.0,
    }


def bits(value: Any) -> Any:
    return value.hex() if isinstance(value, float) else value


@given(st.lists(rows, min_size=1, max_size=12))
@settings(max_examples=25)
def test_a_table_a_request_and_the_text_say_the_same(given_rows: list[dict[str, Any]]) -> None:
    spec = view()
    stamp = pa.timestamp("us", tz="UTC")
    types = {"amount": pa.float64(), "shop": pa.string(), "web": pa.bool_(), "at": stamp, "as_of": stamp}
    types |= {"spend.mean": pa.float64(), "spend.shop": pa.string(), "spend.count": pa.int64()}
    table = pa.table({name: pa.array([row[name] for row in given_rows], kind) for name, kind in types.items()})
    times = pa.array([row["as_of"] for row in given_rows], stamp)
    for name in NAMES:
        table = table.append_column(f"{name}.event_time", times)
    with compute(ComputeLimits(threads=2, memory=256)) as connection:
        connection.execute("SET preserve_insertion_order = true")
        joined = with_on_demand(connection, table, [spec], as_of="as_of", event_times=True).to_pylist()
    assert len(joined) == len(given_rows)
    for row, found in zip(given_rows, joined, strict=True):
        inputs = {name: row[name] for name in spec.inputs}
        online = values(spec, payload(inputs, {name: row[name] for name in NAMES}, row["as_of"]))
        wanted = expected(row)
        assert {name: bits(value) for name, (value, _) in online.items()} == {n: bits(v) for n, v in wanted.items()}
        assert {name: bits(found[name]) for name in wanted} == {n: bits(v) for n, v in wanted.items()}
        assert found["purchase.ratio.event_time"] == row["as_of"]
        assert found["purchase.night.event_time"] is None


def test_columns_that_hold_nothing_at_all_are_missing_values() -> None:
    spec = view()
    names = ("amount", "shop", "web", "at", *NAMES)
    table = pa.table({"as_of": pa.array([datetime(2016, 1, 1, tzinfo=UTC)]), **{name: pa.nulls(1) for name in names}})
    with compute(ComputeLimits(threads=1, memory=256)) as connection:
        (found,) = with_on_demand(connection, table, [spec], as_of="as_of", event_times=False).to_pylist()
    assert {name: found[f"purchase.{name}"] for name in spec.features} == {
        "ratio": None, "many": 20.0, "same": None, "night": True, "waited": None, "kind": None, "zero": None,
    }  # fmt: skip
