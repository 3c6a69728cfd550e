"""E-values hold what they promise on samples, and rise where something has changed."""

from __future__ import annotations

import math
import random

import pytest

from antiphon.operations.incidents.evidence import (
    AFTER_A_CHANGE,
    FALSE_ALARMS_OF_A_CHANGE,
    MOST_OF_A_PERIOD,
    advance,
    of_count,
    of_height,
    of_share,
    threshold,
)


def binomial(random_: random.Random, total: int, share: float) -> int:
    return sum(random_.random() < share for _ in range(total))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.02])
def test_e_values_of_shares_have_a_mean_of_at_most_one(share: float) -> None:
    chance = random.Random(7)
    values = [math.exp(of_share(binomial(chance, 30, share), 30, 0.02)) for _ in range(20_000)]
    # Rare great values make the mean of samples uncertain, not the promise.
    assert sum(values) / len(values) <= 1.2


def test_an_outage_is_found_in_two_periods_and_never_in_one() -> None:
    limit, level = threshold(50), 0.0
    level = advance(level, of_share(30, 30, 0.02), limit)
    assert level < limit
    assert advance(level, of_share(30, 30, 0.02), limit) >= limit


def test_counts_and_heights_rise_for_what_is_unusual_alone() -> None:
    assert of_count(200, 20) > 5 > 0 > of_count(20, 20)
    assert of_height(3.0, 1.0, 0.25) > 5 > 0 > of_height(1.1, 1.0, 0.25)
    assert of_share(0, 0, 0.02) == 0.0


def test_after_a_change_false_alarms_have_the_probability_that_is_allowed() -> None:
    chance, alarms, worlds = random.Random(11), 0, 2_000
    for _ in range(worlds):
        level = 0.0
        for _ in range(AFTER_A_CHANGE):
            # The height for one signal, without the floor that keeps a single period from being enough.
            level = advance(level, of_share(binomial(chance, 30, 0.02), 30, 0.02), math.inf)
            if level >= math.log(AFTER_A_CHANGE / FALSE_ALARMS_OF_A_CHANGE):
                alarms += 1
                break
    assert alarms <= 2 * worlds * FALSE_ALARMS_OF_A_CHANGE
    assert MOST_OF_A_PERIOD < threshold(1, changed=True) < threshold(50, changed=True) < threshold(50)
