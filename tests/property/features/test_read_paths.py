"""Every way to read a feature gives the same bits, on generated views, events and moments.

``make bench-read-paths`` does the same with a million cells.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from benchmarks.features.read_paths import MUTANTS, check, lmdb_stores, run
from benchmarks.features.read_paths_cases import WINDOWS, case_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

AGGREGATES = {
    "count", "sum", "mean", "share", "std", "min", "max", "first", "last", "distinct", "quantile", "frequency", "target"
}  # fmt: skip


@given(st.integers(0, 2**32))
@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
def test_every_way_to_read_gives_the_same_bits(number: int) -> None:
    with tempfile.TemporaryDirectory() as folder, lmdb_stores(Path(folder)) as stores:
        assert check(number, case_of(number), stores, Path(folder)) == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_the_finished_rows_is_found(mutant: str) -> None:
    _, _, found = run(20_000, lmdb_stores, MUTANTS[mutant], most=1)
    assert found


def test_cases_cover_every_aggregate_and_window() -> None:
    features = [one for number in range(400) for one in case_of(number).features.values()]
    assert {one["aggregate"] for one in features} == AGGREGATES
    assert len({(one["aggregate"], one["window"]) for one in features}) == len(AGGREGATES) * len(WINDOWS)
