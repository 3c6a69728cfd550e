"""Refusals of a tenant that asks on and on are delayed, and those of no other tenant."""

from __future__ import annotations

import pytest

from antiphon.serving.admission.refusals import MAX_DELAY_SECONDS, REFUSALS, RefusalThrottle


def test_refusals_of_a_flood_are_delayed_and_those_of_others_are_not() -> None:
    now = 0.0
    throttle = RefusalThrottle(lambda: now)
    flood = [throttle.delay("rival") for _ in range(100)]
    assert flood[: REFUSALS.capacity] == pytest.approx([0.0] * REFUSALS.capacity)
    assert flood == sorted(flood)
    assert flood[REFUSALS.capacity + 5] == pytest.approx(0.6)
    assert flood[-1] == MAX_DELAY_SECONDS
    assert [throttle.delay("owner") for _ in range(3)] == [0.0] * 3
    now = 60.0
    assert throttle.delay("rival") == 0.0


def test_tenants_without_recent_refusals_are_forgotten() -> None:
    now = 0.0
    throttle = RefusalThrottle(lambda: now)
    for number in range(10_001):
        throttle.delay(f"tenant-{number}")
    now = 60.0
    throttle.delay("another")
    assert len(throttle._levels) == 1
