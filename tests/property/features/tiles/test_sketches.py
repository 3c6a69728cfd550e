"""Sketches keep their stated bounds, whatever way their values are cut, and SQL and Python agree on every bit."""

from __future__ import annotations

import math
import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.features.plan import LIMIT
from antiphon.features.tiles.sketches import (
    HASH_BITS,
    KEPT,
    bucket,
    bucket_at,
    bucket_sql,
    distinct_estimate,
    hashed,
    hashed_sql,
    kept,
    twice_middle,
)
from antiphon.features.tiles.tile import Tile, pack, unpack

steps = st.one_of(
    st.integers(-LIMIT, LIMIT),
    st.integers(-600, 600),
    st.integers(0, 46).flatmap(lambda n: st.sampled_from([2**n - 1, 2**n, 2**n + 1, -(2**n), -(2**n) - 1])),
)


def in_sql(expression: str, column: pa.Array) -> list[Any]:
    with compute(ComputeLimits(threads=2, memory=256)) as connection:
        connection.register("given", pa.table({"n": list(range(len(column))), "x": column}))
        return [row[0] for row in connection.execute(f"SELECT {expression} FROM given ORDER BY n").fetchall()]


@given(st.lists(steps, min_size=1, max_size=60))
@settings(max_examples=40)
def test_a_bucket_is_the_same_in_sql_and_its_middle_within_one_part_in_256(values: list[int]) -> None:
    assert in_sql(bucket_sql("x"), pa.array(values, pa.int64())) == [bucket(value) for value in values]
    for value in values:
        assert abs(twice_middle(bucket(value)) - 2 * value) * 256 <= 2 * abs(value)


def test_buckets_are_in_the_order_of_their_values_and_exact_while_small() -> None:
    values = [*range(-5_000, 5_000), *(2**n + d for n in range(13, 47) for d in (-1, 0, 1))]
    buckets = [bucket(value) for value in values]
    assert buckets == sorted(buckets)
    assert [twice_middle(bucket(value)) for value in range(-255, 256)] == [2 * value for value in range(-255, 256)]


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20),
    st.lists(st.text(), max_size=20),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_a_hash_is_the_same_in_sql(numbers: list[float], texts: list[str]) -> None:
    assert in_sql(hashed_sql("x", "number"), pa.array(numbers, pa.float64())) == [hashed(n) for n in numbers]
    assert in_sql(hashed_sql("x", "text"), pa.array(texts, pa.string())) == [hashed(t) for t in texts]
    assert in_sql(hashed_sql("x", "boolean"), pa.array([True, False])) == [hashed(True), hashed(False)]
    assert all(0 <= hashed(text) < 2**HASH_BITS for text in texts)


def test_hashes_are_what_they_were_when_snapshots_were_stored() -> None:
    assert [hashed("é"), hashed(1.5), hashed(True)] == [310473769816362221, 5157537647626362594, 1193812881159652588]
    assert hashed(0.0) == hashed(-0.0)
    assert len({hashed("1"), hashed(1.0), hashed(True), hashed("true"), hashed("n1")}) == 5


@given(st.lists(st.lists(st.integers(0, 5_000), max_size=3_000), min_size=1, max_size=5))
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_merged_sketches_are_the_sketch_of_all_values(parts: list[list[int]]) -> None:
    every = [value for part in parts for value in part]
    whole, merged = Tile(), Tile()
    whole.add([hashed(float(v)) for v in every], every, ["s"] * len(every), {"distinct"})
    for part in parts:
        tile = Tile()
        tile.add([hashed(float(v)) for v in part], part, ["s"] * len(part), {"distinct"})
        merged.merge(unpack(pack(tile)))
    assert merged.least_hashes == whole.least_hashes == kept(hashed(float(v)) for v in every)
    if len(set(every)) < KEPT:
        assert distinct_estimate(merged.least_hashes) == len(set(every))


@pytest.mark.parametrize("size", [1, 700, KEPT - 1, KEPT, 3_000, 40_000])
def test_the_estimate_of_distinct_values_is_within_its_error(size: int) -> None:
    errors = []
    for seed in range(24 if size < 10_000 else 8):
        least = kept(hashed(f"{seed}/{n}") for n in range(size))
        errors.append(distinct_estimate(least) / size - 1)
    if size < KEPT:
        assert set(errors) == {0.0}
    else:
        deviation = math.sqrt(sum(error * error for error in errors) / len(errors))
        assert deviation < 1.6 / math.sqrt(KEPT - 2)
        assert max(map(abs, errors)) < 4.5 / math.sqrt(KEPT - 2)


@pytest.mark.parametrize("q", [(0, 1), (1, 100), (1, 2), (9, 10), (999, 1000), (1, 1)])
@pytest.mark.parametrize("shape", ["uniform", "lognormal", "signs"])
def test_a_quantile_is_within_its_error_of_the_exact_one(q: tuple[int, int], shape: str) -> None:
    chance = random.Random(7)
    draws = {
        "uniform": lambda: chance.randrange(0, 10**9),
        "lognormal": lambda: int(math.exp(chance.gauss(8, 4))) % LIMIT,
        "signs": lambda: chance.randrange(-(10**6), 10**6),
    }
    values = sorted(draws[shape]() for _ in range(5_001))
    exact = values[max(1, math.ceil(q[0] * len(values) / q[1])) - 1]
    tile = Tile()
    tile.add(values, list(range(len(values))), ["s"] * len(values), {"buckets"})
    found = bucket_at(tile.buckets or {}, q)
    assert found is not None
    assert abs(twice_middle(found) / 2 - exact) <= abs(exact) / 256
