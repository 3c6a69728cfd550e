"""The forecast of online load: what it learns, what its interval covers, and when work begins by it."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import exp, pi, sin

import numpy as np
import pytest

from antiphon.catalog.run_holds import RunHold
from antiphon.core.clock import UTC
from antiphon.orchestration.conductor.forecast import QUARTER, learn, moment_of, quarter_of
from antiphon.orchestration.conductor.placement import quiet_start

MONDAY = datetime(2026, 6, 1, tzinfo=UTC)
HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)


def usual(at: datetime) -> float:
    """Requests of a quarter as they are meant: a peak in the afternoon, a fifth of it at the weekend."""
    hour = at.hour + at.minute / 60
    weekend = 0.2 if at.weekday() >= 5 else 1.0
    return weekend * (2 + 60 * exp(sin((hour - 9) * pi / 12) * 2 - 2))


def traffic(begin: datetime, end: datetime, seed: int = 1, factor: float = 1.0) -> dict[datetime, int]:
    """Poisson counts about what is usual."""
    random = np.random.default_rng(seed)
    quarters = range(quarter_of(begin), quarter_of(end))
    return {moment_of(one): int(random.poisson(factor * usual(moment_of(one)))) for one in quarters}


def test_nothing_is_forecast_before_there_was_a_whole_day() -> None:
    assert learn({}, MONDAY) is None
    assert learn(traffic(MONDAY, MONDAY + 23 * HOUR), MONDAY + 23 * HOUR) is None
    assert learn(traffic(MONDAY, MONDAY + DAY), MONDAY + DAY) is not None


def test_after_some_weeks_it_knows_the_time_of_day_and_of_the_week() -> None:
    now = MONDAY + 4 * WEEK
    forecast = learn(traffic(MONDAY, now), now)
    assert forecast is not None
    for at in (now + 15 * HOUR, now + 3 * HOUR, now + 5 * DAY + 15 * HOUR, now + 6 * DAY + 3 * HOUR):
        assert forecast.at(at).expected == pytest.approx(usual(at), rel=0.3, abs=2.0)


def test_its_interval_covers_nine_of_ten_quarters_that_follow() -> None:
    covered: list[bool] = []
    errors: list[float] = []
    naive: list[float] = []
    for seed in range(6):
        now = MONDAY + 3 * WEEK
        counts = traffic(MONDAY, now, seed)
        forecast = learn(counts, now)
        assert forecast is not None
        for at, count in traffic(now, now + WEEK, 100 + seed).items():
            estimate = forecast.at(at)
            covered.append(estimate.low <= count <= estimate.high)
            errors.append(abs(count - estimate.expected))
            naive.append(abs(count - counts[at - WEEK]))
    assert 0.85 <= np.mean(covered) <= 0.97
    assert np.mean(errors) < 0.9 * np.mean(naive)  # Than the same quarter of the week before.


def test_a_day_that_is_busier_than_usual_is_seen_within_two_hours_and_forgotten_by_tomorrow() -> None:
    now = MONDAY + 3 * WEEK + 13 * HOUR
    counts = traffic(MONDAY, now - 2 * HOUR) | traffic(now - 2 * HOUR, now, 9, factor=3.0)
    forecast, ordinary = learn(counts, now), learn(traffic(MONDAY, now), now)
    assert forecast is not None
    assert ordinary is not None
    assert forecast.at(now).expected > 2 * ordinary.at(now).expected
    assert forecast.at(now + DAY).expected == pytest.approx(ordinary.at(now + DAY).expected, rel=0.2)


def test_the_past_is_forecast_without_what_came_after() -> None:
    now = MONDAY + 2 * WEEK
    early = learn(traffic(MONDAY, now), now)
    with_future = learn(traffic(MONDAY, now) | traffic(now, now + WEEK, 5, factor=50.0), now)
    assert early is not None
    assert with_future is not None
    assert [early.at(now + n * HOUR) for n in range(48)] == [with_future.at(now + n * HOUR) for n in range(48)]


def hold(begins: datetime, until: datetime) -> RunHold:
    return RunHold("h", "window", "peak", ("train",), begins, until, "the window peak", "ada")


NOON = MONDAY + 3 * WEEK + 13 * HOUR


@pytest.fixture(scope="module")
def forecast():
    return learn(traffic(MONDAY, NOON), NOON)


def test_work_that_may_wait_begins_in_the_valley_and_never_later_than_its_deadline_allows(forecast) -> None:
    night = quiet_start(NOON, NOON + 20 * HOUR, HOUR, forecast)
    assert 0 <= night.astimezone(UTC).hour <= 5
    assert night > NOON
    soon = quiet_start(NOON, NOON + 2 * HOUR, HOUR, forecast)
    assert soon <= NOON + 2 * HOUR
    assert quiet_start(NOON, NOON, HOUR, forecast) == NOON
    assert quiet_start(night, night + 6 * HOUR, HOUR, forecast) == night  # It is quiet: nothing is gained by waiting.


def test_without_a_forecast_it_begins_at_once_unless_a_window_is_preferred() -> None:
    assert quiet_start(NOON, NOON + 20 * HOUR, HOUR, None) == NOON
    window = (NOON + 9 * HOUR, NOON + 12 * HOUR)
    assert quiet_start(NOON, NOON + 20 * HOUR, HOUR, None, (), (window,)) == window[0]
    assert quiet_start(NOON, NOON + 8 * HOUR, HOUR, None, (), (window,)) == NOON  # It comes too late.


def test_a_time_that_a_hold_would_interrupt_is_no_choice(forecast) -> None:
    night = quiet_start(NOON, NOON + 20 * HOUR, HOUR, forecast)
    held = hold(night - HOUR, night + 4 * HOUR)
    other = quiet_start(NOON, NOON + 20 * HOUR, HOUR, forecast, (held,))
    assert other + HOUR <= held.begins or other >= held.until
    assert quiet_start(NOON, NOON + 20 * HOUR, HOUR, None, (hold(NOON - HOUR, NOON + 30 * HOUR),)) == NOON


def test_a_quarter_holds_its_beginning_and_not_its_end() -> None:
    assert moment_of(quarter_of(MONDAY + 14 * timedelta(minutes=1))) == MONDAY
    assert moment_of(quarter_of(MONDAY + QUARTER)) == MONDAY + QUARTER
