"""Burn rates: alerts that need a fast and a lasting burn, and evidence where there are few requests."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.catalog.examples import NOON

from antiphon.operations.objectives.burn import (
    MEANS,
    RULES,
    Basis,
    BudgetState,
    CountHistory,
    Counts,
    assess,
    unlikely,
    unlikely_bias,
)

MINUTE, HOUR, WINDOW = timedelta(minutes=1), timedelta(hours=1), timedelta(days=28)


def state(
    share: Callable[[int], float], *, per_minute: int = 100, minutes: int = 4_320, target: float = 0.99
) -> BudgetState:
    """Minutes up to now; the bad share of each by how many minutes ago it began."""
    fine = {
        NOON - (ago + 1) * MINUTE: Counts(share(ago) * per_minute, per_minute) for ago in range(minutes)
    }  # fmt: skip
    coarse: dict[datetime, Counts] = {}
    for start, one in fine.items():
        hour = start.replace(minute=0)
        coarse[hour] = coarse.get(hour, Counts()) + one
    return assess(CountHistory(fine, coarse), 1 - target, WINDOW, NOON)


def test_the_budget_is_what_the_target_leaves() -> None:
    found = state(lambda ago: 0.005)
    assert found.attained == pytest.approx(0.995)
    assert found.budget_left == pytest.approx(0.5)
    assert found.burn_hour == pytest.approx(0.5)
    assert found.alerts == ()
    assert state(lambda ago: 0.02).budget_left == pytest.approx(-1.0)


def test_nothing_counted_is_no_judgement() -> None:
    found = assess(CountHistory(), 0.01, WINDOW, NOON)
    assert (found.attained, found.alerts, found.total) == (None, (), 0)


def test_an_outage_is_critical_soon_and_over_soon_after_its_end() -> None:
    assert state(lambda ago: 1.0 if ago < 5 else 0.0).alerts == ()
    during = state(lambda ago: 1.0 if ago < 10 else 0.0)
    assert during.severity == "critical"
    assert during.alerts[0].long_seconds == 3_600
    assert during.alerts[0].long_rate == pytest.approx(100 / 6)
    assert "3.4 times" in state(lambda ago: 0.034).alerts[0].sentence
    after = state(lambda ago: 1.0 if 6 <= ago < 16 else 0.0)
    assert after.severity is None


def test_a_slow_burn_is_a_warning_and_one_below_budget_none() -> None:
    assert state(lambda ago: 0.011).severity == "warning"
    assert state(lambda ago: 0.009).severity is None
    assert state(lambda ago: 0.07 if ago < 360 else 0.0).severity == "critical"


@pytest.mark.parametrize(("bad", "total"), [(1, 3), (1, 1), (2, 20)])
def test_a_few_failures_of_few_are_no_evidence(bad: int, total: int) -> None:
    counts = {NOON - MINUTE: Counts(bad, total)}
    assert assess(CountHistory(counts, counts), 0.01, WINDOW, NOON).alerts == ()


def test_of_few_requests_that_all_fail_there_is_evidence() -> None:
    counts = {NOON - MINUTE: Counts(8, 8)}
    assert assess(CountHistory(counts, counts), 0.01, WINDOW, NOON).severity == "critical"


def test_seconds_are_no_independent_observations() -> None:
    counts = {NOON - number * MINUTE: Counts(60.0, 60.0) for number in range(1, 10)}
    assert assess(CountHistory(counts, counts, "time"), 0.01, WINDOW, NOON).severity == "critical"


@given(st.integers(1, 400), st.floats(0.001, 0.5), st.randoms(use_true_random=False))
def test_what_keeps_to_a_share_is_seldom_called_unlikely(total: int, share: float, chance: random.Random) -> None:
    bad = sum(chance.random() < share for _ in range(total))
    if bad <= total * share:
        assert not unlikely(Counts(bad, total), share)


def test_false_evidence_is_rarer_than_it_is_allowed_to_be() -> None:
    """Seeds are declared: 20,000 samples of 60 requests whose true share is the one asked about."""
    chance, found = random.Random(20), 0
    for _ in range(20_000):
        bad = sum(chance.random() < 0.13 for _ in range(60))
        found += unlikely(Counts(bad, 60), 0.13)
    assert found <= 20_000 * 0.001 + 3 * (20_000 * 0.001) ** 0.5


def test_rules_spend_the_parts_of_the_budget_that_they_say() -> None:
    assert [round(rule.rate(WINDOW), 2) for rule in RULES] == [13.44, 5.6, 0.93]


def mean(
    values: Callable[[int], float],
    basis: Basis,
    *,
    budget: float,
    hours: int = 72,
    each: int = 50,
    window: timedelta = WINDOW,
    until: datetime | None = None,
) -> BudgetState:
    """Quarters of an hour (of money hours) up to now, or to the moment up to which outcomes are known; the mean of each
    by how many hours ago."""
    end, parts = until or NOON, 1 if basis == "money" else 4
    counts = {
        end - (ago + 1) * HOUR / parts: Counts(values(ago // parts) * each, each) for ago in range(hours * parts)
    }  # fmt: skip
    return assess(CountHistory(counts, counts, basis, until), budget, WINDOW if window is None else window, NOON)


def always(value: float, ago: int) -> float:
    return value


def test_a_mean_below_its_bound_is_no_burn_however_short_the_window() -> None:
    week = timedelta(days=7)
    for basis in MEANS:
        near = mean(lambda ago: 0.19, basis, budget=0.2, window=week)
        assert near.alerts == ()
        assert near.budget_left == pytest.approx(0.05)
        assert near.mean == pytest.approx(0.19)
    # Requests that are bad are counted otherwise: a third of a week's budget in three days is a warning.
    assert mean(lambda ago: 0.19, "events", budget=0.2, window=week).severity == "warning"


def test_a_loss_beyond_its_bound_needs_evidence() -> None:
    assert mean(lambda ago: 0.25, "loss", budget=0.15).severity == "warning"
    assert mean(lambda ago: 0.97, "loss", budget=0.15).severity == "critical"
    assert mean(lambda ago: 0.25, "loss", budget=0.15, hours=7, each=1).severity is None


def test_a_bias_pays_back_in_the_window_and_either_side_is_one() -> None:
    to_and_fro = mean(lambda ago: 0.2 if ago % 2 else -0.2, "bias", budget=0.05)
    assert to_and_fro.alerts == ()
    assert to_and_fro.budget_left == pytest.approx(1.0)
    for sign in (1, -1):
        off = mean(partial(always, sign * 0.2), "bias", budget=0.05)
        assert off.severity == "warning"
        assert off.mean == pytest.approx(sign * 0.2)
        assert off.attained == pytest.approx(0.8)


def test_false_evidence_of_a_bias_is_rarer_than_it_is_allowed_to_be() -> None:
    """Seeds are declared: 20,000 samples of 60 errors of forecasts that are off by as much as is allowed."""
    chance, found = random.Random(21), 0
    for _ in range(20_000):
        bad = sum((chance.random() < 0.55) - 0.5 for _ in range(60))
        found += unlikely_bias(Counts(bad, 60), 0.05)
    assert found <= 20_000 * 0.001 + 3 * (20_000 * 0.001) ** 0.5
    assert unlikely_bias(Counts(-0.4 * 60, 60), 0.05)


def test_money_needs_no_chance_but_a_part_of_the_budget() -> None:
    dear = mean(lambda ago: 14.0 if ago < 1 else 0.1, "money", budget=1.0)
    assert dear.severity == "critical"
    assert dear.attained is None
    # One dear answer among so many others has not used up two hundredths of what they may cost.
    counts = {NOON - (ago + 1) * HOUR: Counts(20.0 if ago < 1 else 5.0, 1.0 if ago < 1 else 50.0) for ago in range(72)}
    assert assess(CountHistory(counts, counts, "money"), 1.0, WINDOW, NOON).alerts == ()


def test_hours_of_money_are_those_in_which_a_span_lies() -> None:
    end = NOON + timedelta(minutes=3)
    counts = {NOON: Counts(1.0, 1.0), NOON - HOUR: Counts(2_000.0, 100.0), NOON - 30 * HOUR: Counts(0.0, 100.0)}
    # Five minutes before three past noon are of the hour before.
    assert assess(CountHistory(counts, counts, "money"), 1.0, WINDOW, end).severity == "critical"
    later = NOON + timedelta(minutes=40)
    assert assess(CountHistory(counts, counts, "money"), 1.0, WINDOW, later).severity == "warning"


def test_windows_end_with_what_is_known() -> None:
    two_days_ago = NOON - timedelta(days=2)
    found = mean(lambda ago: 0.97 if ago < 7 else 0.0, "loss", budget=0.15, until=two_days_ago)
    assert found.severity == "critical"
    assert found.known_until == two_days_ago
    assert found.alerts[0].sentence.endswith(f"by outcomes of answers until {two_days_ago:%Y-%m-%d %H:%MZ}.")
