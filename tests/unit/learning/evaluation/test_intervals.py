from __future__ import annotations

import numpy as np
import pytest

from antiphon.learning.evaluation.intervals import mean_of_few, student


def test_values_that_are_alike_are_no_proof() -> None:
    found = mean_of_few([1.0] * 12, 1.0)
    assert (found.value, found.low) == (1.0, pytest.approx(1.0 - 2.2 / 12, abs=0.005))
    alone = mean_of_few([0.2], 1.0)
    assert (alone.low, alone.high) == (pytest.approx(-0.8), pytest.approx(1.2))


@pytest.mark.parametrize("truth", [0.05, 0.3, 0.5, 0.9])
def test_the_interval_of_few_has_the_truth_in_it_nine_times_of_ten_and_more(truth: float) -> None:
    """Shares of twelve values, where a bootstrap of alike ones has no width."""
    drawn = np.random.default_rng(7)
    found = [mean_of_few((drawn.random(12) < truth).astype(float).tolist(), 1.0) for _ in range(1_000)]
    assert sum(one.low <= truth <= one.high for one in found) / 1_000 > 0.9


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.182), (11, 2.201), (39, 2.023)])
def test_students_quantiles(freedom: int, quantile: float) -> None:
    assert student(0.95, freedom) == pytest.approx(quantile, rel=0.02)
