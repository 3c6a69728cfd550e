"""The time that the next run takes, predicted from the last ones."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from tests.unit.orchestration.conductor.test_waiting import NOON, run

from antiphon.orchestration.conductor.durations import durations_of, expected_end

MINUTE = timedelta(minutes=1)


def test_nothing_is_predicted_from_nothing() -> None:
    assert durations_of([]) is None


def test_two_runs_that_agree_promise_little() -> None:
    few, many = durations_of([600.0] * 2), durations_of([600.0] * 50)
    assert few is not None
    assert many is not None
    assert few.p50 == pytest.approx(600)
    assert few.bound > 1_200 > 800 > many.bound > many.high > 600 > many.low


@pytest.mark.parametrize("spread", [0.05, 0.3, 0.8])
def test_its_interval_covers_nine_of_ten_and_its_bound_nearly_all(spread: float) -> None:
    random = np.random.default_rng(3)
    took = [float(one) for one in 600 * np.exp(random.normal(0, spread, 3_000))]
    within = beyond = 0
    for number in range(50, len(took)):
        known = durations_of(took[number - 50 : number])
        assert known is not None
        within += known.low <= took[number] <= known.high
        beyond += took[number] > known.bound
    count = len(took) - 50
    assert 0.86 <= within / count <= 1.0
    assert beyond / count <= 0.005


def test_the_end_of_a_run_is_expected_from_how_far_it_is_or_from_others() -> None:
    begun = {"status": "running", "started_at": NOON}
    known = durations_of([600.0])
    assert expected_end(run(**begun, done=10, total=40), NOON + 10 * MINUTE) == NOON + 40 * MINUTE
    assert expected_end(run(**begun), NOON + MINUTE) is None
    assert expected_end(run(**begun), NOON + MINUTE, known) == NOON + 10 * MINUTE
    assert expected_end(run(**begun), NOON + 30 * MINUTE, known) == NOON + 30 * MINUTE
    assert expected_end(run(), NOON, known) is None
