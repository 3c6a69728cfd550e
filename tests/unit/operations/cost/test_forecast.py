from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from antiphon.operations.cost.forecast import LEAST_DAYS, forecast

FIRST = date(2026, 1, 5)


def days(*amounts: int) -> dict[date, int]:
    return {FIRST + timedelta(number): micros for number, micros in enumerate(amounts) if micros}


def test_nothing_is_forecast_before_there_was_a_week() -> None:
    assert forecast({}, FIRST, 7, "EUR") is None
    assert forecast(days(*[5] * (LEAST_DAYS - 1)), FIRST + timedelta(LEAST_DAYS - 1), 7, "EUR") is None
    assert forecast(days(*[5] * LEAST_DAYS), FIRST + timedelta(LEAST_DAYS), 7, "EUR") is not None


def test_today_is_no_day_that_is_over_and_a_day_without_charges_cost_nothing() -> None:
    found = forecast(days(*[100] * 7, 9_999), FIRST + timedelta(7), 2, "EUR")
    assert found is not None
    assert (found.expected, found.low, found.high, found.from_days) == (200, 200, 200, 7)
    gap = forecast(days(100, 0, 100, 100, 100, 100, 100), FIRST + timedelta(7), 7, "EUR")
    assert gap is not None
    assert gap.expected == 600


def test_weekdays_have_their_own_mean_after_three_weeks() -> None:
    week = [700, 700, 700, 700, 700, 100, 100]
    found = forecast(days(*week * 3), FIRST + timedelta(21), 6, "EUR")
    assert found is not None
    assert (found.expected, found.low) == (3_600, 3_600)


def test_nine_of_ten_sums_lie_within_the_bounds() -> None:
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        drawn = generator.normal(10_000, 2_000, 17).round().astype(int).tolist()
        found = forecast(days(*drawn[:10]), FIRST + timedelta(10), 7, "EUR")
        assert found is not None
        held += found.low <= sum(drawn[10:]) <= found.high
    assert 345 <= held <= 375
