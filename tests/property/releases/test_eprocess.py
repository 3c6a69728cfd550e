"""Expectations of the e-processes are at most 1 under their nulls: exactly, over whole trees of outcomes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from datetime import timedelta

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as some
from tests.unit.catalog.examples import DEV, NOON

from antiphon.catalog.releases.rollouts import RolloutRecord, ShadowPair
from antiphon.definitions.learning import Rollout
from antiphon.learning.evaluation.pairs import label_pair
from antiphon.releases import eprocess
from antiphon.releases.shadow_pairs import quality

DEPTH = 5
rates = some.floats(0.001, 0.5)
shares = some.floats(0.1, 0.9)
State = tuple[int, int, int]


def best_stopping(value: Callable[[int, int, int], float], chances: dict[State, float], start: State) -> float:
    """The highest expectation that anybody can have by choosing when to stop (a Snell envelope), from ``start`` on.

    A state is (bad in the canary, bad in the control, canary units); ``chances`` are of what one unit adds to it.
    """

    def envelope(state: State, left: int) -> float:
        now = value(*state)
        if left == 0:
            return now
        on = sum(
            chance * envelope((state[0] + step[0], state[1] + step[1], state[2] + step[2]), left - 1)
            for step, chance in chances.items()
        )
        return max(now, on)

    return envelope(start, DEPTH) / value(*start)


def unit(canary_rate: float, control_rate: float, share: float) -> dict[State, float]:
    return {
        (1, 0, 1): share * canary_rate,
        (0, 0, 1): share * (1 - canary_rate),
        (0, 1, 0): (1 - share) * control_rate,
        (0, 0, 0): (1 - share) * (1 - control_rate),
    }


starts = some.tuples(some.integers(0, 30), some.integers(0, 30), some.integers(30, 300))


@settings(max_examples=25)
@given(rates, some.floats(0, 1), shares, some.floats(1, 3), starts)
def test_harm_is_a_supermartingale_where_the_canary_is_no_worse(
    control: float, part: float, share: float, tolerance: float, start: State
) -> None:
    def value(bad: int, good: int, _: int) -> float:
        return math.exp(float(eprocess.harm_ratio(bad, good, canary_share=share, tolerance=tolerance)))

    canary = min(1.0, control * tolerance) * part
    assert best_stopping(value, unit(canary, control, share), start) <= 1 + 1e-9
    # And it is one only there: with a canary that is much worse it grows.
    worse = min(1.0, 8 * tolerance * control)
    if worse > 6 * tolerance * control:
        assert best_stopping(value, unit(worse, control, share), (0, 0, 0)) > 1


@settings(max_examples=25)
@given(rates, some.floats(1, 4), shares, some.floats(1.2, 8), some.floats(0, 0.3), starts)
@example(0.02, 1.0, 0.5, 4.0, 5e-324, (0, 0, 30))
def test_safe_is_a_supermartingale_where_the_canary_is_worse_than_allowed(
    control: float, more: float, share: float, ratio: float, floor: float, start: State
) -> None:
    def value(bad: int, good: int, units: int) -> float:
        return math.exp(float(eprocess.safe_both(bad, good, units, ratio=ratio, floor=floor, canary_share=share)))

    canary = max(ratio * control, floor) * more
    if canary <= 1.0:
        assert best_stopping(value, unit(canary, control, share), start) <= 1 + 1e-9


@settings(max_examples=25)
@given(shares, starts)
def test_mismatch_is_a_martingale_where_the_assignment_is_kept(share: float, start: State) -> None:
    def value(canary: int, control: int, _: int) -> float:
        return math.exp(float(eprocess.mismatch(canary, control, canary_share=share)))

    fair = {(1, 0, 1): share, (0, 1, 0): 1 - share}
    assert abs(best_stopping(value, fair, start) - 1) < 1e-9


@settings(max_examples=25)
@given(some.floats(0.01, 1), some.floats(0.01, 1), some.floats(0, 1), some.floats(0, 0.3), some.booleans())
def test_bets_on_a_mean_are_fair(below: float, above: float, part: float, margin: float, safe: bool) -> None:
    """Over every path of two values, one under the bound and one above it, with a mean at or beyond the bound."""
    bound = margin if safe else 0.0
    low, high = bound - below * (1 + bound), bound + above * (1 - bound)
    chance = (bound - low) / (high - low)
    chance = chance + part * (1 - chance) if safe else chance * part
    expectation = np.zeros(7)
    for path in itertools.product((low, high), repeat=7):
        probability = math.prod(chance if one == high else 1 - chance for one in path)
        log_values = eprocess.safe_mean(path, margin=margin) if safe else eprocess.harm_mean(path)
        expectation += probability * np.exp(log_values)
    assert (expectation <= 1 + 1e-9).all()
    assert (np.diff(expectation, prepend=1.0) <= 1e-9).all()


probabilities = some.one_of(some.none(), some.floats(0, 1))


@settings(max_examples=60)
@given(some.lists(some.tuples(probabilities, probabilities, some.booleans(), some.booleans()), max_size=25))
def test_no_pattern_of_missing_labels_says_more_than_all_labels_do(
    drawn: list[tuple[float | None, float | None, bool, bool]],
) -> None:
    """Whoever withholds labels, knowing them, cannot bring either test over a bound that it did not cross itself."""
    plan = Rollout(shadow=1.0, shadow_pairs=1)
    rollout = RolloutRecord("roll", DEV, "desk", "next", "live", plan, "shadow", 0, False, "", "", NOON, NOON, None)
    whole, partly, harm, safe = [], [], [], []
    for number, (live, shadow, label, withheld) in enumerate(drawn):
        said = [{} if one is None else {"late": one} for one in (live, shadow)]
        came = "late" if label else "on time"
        made = NOON + timedelta(seconds=number)
        pair = ShadowPair("roll", DEV, f"{number:03}", "shadow", None, False, *said, 0.1, 0.1, made)
        whole.append(label_pair(pair, came))
        partly.append(label_pair(pair, None if withheld else came))
        scores = [1.0 if one is None else (one - label) ** 2 for one in (shadow, live)]
        harm.append(scores[0] - scores[1])
        # What the live answer was not asked for may have been perfect.
        safe.append(scores[0] - (0.0 if live is None else scores[1]))
    seen = quality(rollout, list(reversed(partly)), 1.0).metric
    highest_harm = math.exp(max([0.0, *eprocess.harm_mean(harm)]))
    highest_safe = math.exp(max([0.0, *eprocess.safe_mean(safe, margin=plan.quality_margin)]))
    assert seen.harm <= highest_harm * (1 + 1e-9)
    assert seen.safe <= highest_safe * (1 + 1e-9)
    known = quality(rollout, whole, 1.0).metric
    if not known.note:
        assert math.isclose(known.harm, math.exp(eprocess.harm_mean(harm)[-1]))
    else:  # Too few of a second label.
        assert max(known.harm, known.safe) <= 1.0


@given(some.integers(0, 200), some.integers(0, 200), some.integers(1, 400))
def test_more_bad_events_in_the_canary_never_speak_for_it(bad: int, good: int, units: int) -> None:
    def safe(bad: int, good: int) -> float:
        return float(eprocess.safe_both(bad, good, units + 201, ratio=4.0, floor=0.05))

    assert eprocess.harm_ratio(bad + 1, good) > eprocess.harm_ratio(bad, good)
    assert eprocess.harm_ratio(bad, good + 1) < eprocess.harm_ratio(bad, good)
    assert safe(bad + 1, good) < safe(bad, good)
    assert safe(bad, good + 1) > safe(bad, good)
