"""Statistics from Arrow tables, against what numpy says about the same values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from antiphon.catalog.features.snapshot_facts import Statistics
from antiphon.features.monitoring.quality.statistics import DISTINCT, TOP, NameOf, StatisticsBuilder, edges_of


def built(table: pa.Table, *names: str, batches: int = 1, **before: object) -> dict:  # type: ignore[type-arg]
    builder = StatisticsBuilder(names or table.column_names, before or None)  # type: ignore[arg-type]
    for batch in table.to_batches(max_chunksize=max(1, -(-len(table) // batches))):
        builder.add(batch)
    return builder.finish()


@pytest.mark.parametrize("batches", [1, 7])
def test_numbers_in_any_number_of_batches_are_those_of_numpy(batches: int) -> None:
    values = np.random.default_rng(3).normal(20.0, 5.0, 10_000)
    found = built(pa.table({"x": values}), batches=batches)["x"]
    assert found.rows == found.present == 10_000
    assert found.mean == pytest.approx(values.mean())
    assert found.deviation == pytest.approx(values.std())
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.distinct == DISTINCT
    cumulative = np.cumsum(found.counts)
    for edge, below in zip(found.edges, cumulative, strict=False):
        assert below == (values <= edge).sum()


def test_edges_are_taken_over_so_that_snapshots_compare_bin_by_bin() -> None:
    first = built(pa.table({"x": np.arange(1_000.0)}))["x"]
    second = built(pa.table({"x": np.arange(1_000.0) * 100}), x=first)["x"]
    assert second.edges == first.edges
    assert second.counts != first.counts
    assert len(edges_of(np.arange(1_000.0))) < 100


def test_nulls_and_what_is_not_finite_have_no_value() -> None:
    found = built(pa.table({"x": pa.array([1.0, None, float("nan"), float("inf")])}))["x"]
    assert (found.rows, found.null_share, found.not_finite, found.present) == (4, 0.75, 2, 1)
    nothing = built(pa.table({"x": pa.array([None, None])}))["x"]
    assert (nothing.null_share, nothing.present, nothing.mean) == (1.0, 0, None)
    assert built(pa.table({"x": pa.array([], pa.float64())}))["x"].null_share == 1.0


def test_texts_and_booleans_are_counted_by_value() -> None:
    texts = ["common"] * 500 + [f"rare {n}" for n in range(100)] + [None]
    found = built(pa.table({"t": texts, "b": [True] * 400 + [False] * 201}), batches=3)
    assert found["t"].top["common"] == 500
    assert len(found["t"].top) == TOP
    assert found["t"].other == 600 - sum(found["t"].top.values())
    assert found["b"].top == {"true": 400, "false": 201}


def test_texts_have_the_names_that_they_are_given_and_booleans_their_own() -> None:
    table = pa.table({"t": ["a", "a", "b", None], "b": [True, True, False, None]})

    def named(name_of: NameOf) -> dict[str, Statistics]:
        builder = StatisticsBuilder(["t", "b"], named={"t": name_of, "b": name_of})
        builder.add(table)
        return builder.finish()

    assert named(str.upper)["t"].top == {"A": 2, "B": 1}
    assert named(str.upper)["b"].top == {"true": 2, "false": 1}
    unnamed = named(lambda text: None)["t"]
    assert (unnamed.top, unnamed.other, unnamed.present, unnamed.distinct) == ({}, 3, 3, 2)


def test_event_times_stand_beside_their_feature() -> None:
    times = pa.array([5, None, 9], pa.timestamp("us", tz="UTC"))
    builder = StatisticsBuilder(["x"])
    builder.add(pa.table({"view.x": [1, 2, 3], "view.x.event_time": times}), prefix="view.")
    assert builder.finish()["x"].latest_event_time == 9
