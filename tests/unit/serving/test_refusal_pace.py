"""Refusals of a tenant that asks on and on are held back, and nobody else's."""

from __future__ import annotations

import pytest

from antiphon.serving.refusal_pace import LONGEST_HOLD_SECONDS, REFUSALS_AT_ONCE, RefusalPace


def test_who_asks_on_while_refused_is_refused_at_a_pace_and_others_are_not() -> None:
    now = 0.0
    pace = RefusalPace(lambda: now)
    flood = [pace.hold("rival") for _ in range(100)]
    assert flood[:REFUSALS_AT_ONCE] == pytest.approx([0.0] * REFUSALS_AT_ONCE)
    assert flood == sorted(flood)
    assert flood[REFUSALS_AT_ONCE + 5] > 0.5
    assert flood[-1] == LONGEST_HOLD_SECONDS
    assert [pace.hold("owner") for _ in range(3)] == [0.0] * 3
    now = 60.0
    assert pace.hold("rival") == 0.0
