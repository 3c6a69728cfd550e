"""Burn rates: alerts that need a fast and a lasting burn, and evidence where there are few requests."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.catalog.examples import NOON

from antiphon.operations.objectives.burn import RULES, BudgetState, Counts, assess, unlikely

MINUTE, WINDOW = timedelta(minutes=1), timedelta(days=28)


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
    return assess(fine, coarse, target, WINDOW, NOON)


def test_the_budget_is_what_the_target_leaves() -> None:
    found = state(lambda ago: 0.005)
    assert found.attained == pytest.approx(0.995)
    assert found.budget_left == pytest.approx(0.5)
    assert found.burn_hour == pytest.approx(0.5)
    assert found.alerts == ()
    assert state(lambda ago: 0.02).budget_left == pytest.approx(-1.0)


def test_nothing_counted_is_no_judgement() -> None:
    found = assess({}, {}, 0.99, WINDOW, NOON)
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
    assert assess(counts, counts, 0.99, WINDOW, NOON).alerts == ()


def test_of_few_requests_that_all_fail_there_is_evidence() -> None:
    counts = {NOON - MINUTE: Counts(8, 8)}
    assert assess(counts, counts, 0.99, WINDOW, NOON).severity == "critical"


def test_seconds_are_no_independent_observations() -> None:
    counts = {NOON - number * MINUTE: Counts(60.0, 60.0, False) for number in range(1, 10)}
    assert assess(counts, counts, 0.99, WINDOW, NOON).severity == "critical"


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
