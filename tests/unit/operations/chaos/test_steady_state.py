"""Time outside of the steady state, from single measurements."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.operations.chaos.experiment import StopLimit
from antiphon.operations.chaos.steady_state import (
    ProbeSample,
    TimeSpan,
    exceeded,
    intersection,
    outside,
    past,
    seconds,
    state_times,
    union,
)

OBSERVED = TimeSpan(0.0, 10.0)


def samples(probe: str, *found: tuple[float, bool], value: object = None) -> list[ProbeSample]:
    return [ProbeSample("it", probe, at, value, steady) for at, steady in found]


def test_a_measurement_holds_until_the_next_one_and_the_last_one_to_the_end() -> None:
    found = outside(samples("a", (-1, False), (2, True), (4, False), (5, False), (6, True), (9, False)), OBSERVED)
    assert found == (TimeSpan(0, 2), TimeSpan(4, 6), TimeSpan(9, 10))
    assert seconds(found) == 5


def test_nothing_is_counted_before_something_was_measured() -> None:
    assert outside([], OBSERVED) == ()
    assert outside(samples("a", (3, False)), OBSERVED) == (TimeSpan(3, 10),)


def test_the_state_is_outside_while_any_probe_is_and_degraded_while_all_of_that_mode_hold() -> None:
    found = state_times(
        {
            "ready": samples("ready", (0, True), (2, False), (5, True)),
            "errors": samples("errors", (0, True), (4, False), (8, True)),
            "explained": samples("explained", (0, True), (6, False), (7, True)),
        },
        ["ready", "errors"],
        ["explained"],
        60.0,
        OBSERVED,
    )
    assert found.outside == (TimeSpan(2, 8),)
    assert found.broken == (TimeSpan(6, 7),)
    assert found.degraded == (TimeSpan(2, 6), TimeSpan(7, 8))


def test_a_degraded_mode_counts_for_as_long_in_a_row_as_it_is_declared() -> None:
    measured = {"ready": samples("ready", (1, False), (9, True)), "explained": samples("explained", (0, True))}
    found = state_times(measured, ["ready"], ["explained"], 3.0, OBSERVED)
    assert (found.degraded, found.broken) == ((TimeSpan(1, 4),), (TimeSpan(4, 9),))
    assert state_times(measured, ["ready"], None, 3.0, OBSERVED).broken == (TimeSpan(1, 9),)


def spans() -> st.SearchStrategy[list[TimeSpan]]:
    bounds = st.tuples(st.integers(0, 50), st.integers(1, 20)).map(lambda one: TimeSpan(one[0], one[0] + one[1]))
    return st.lists(bounds, max_size=6)


def covered(found: Sequence[TimeSpan]) -> set[int]:
    return {second for one in found for second in range(int(one.begins), int(one.ends))}


@given(spans(), spans(), st.integers(0, 10))
def test_spans_are_sets_of_seconds(left: list[TimeSpan], right: list[TimeSpan], longest: int) -> None:
    assert covered(union(left)) == covered(left)
    assert seconds(union(left)) == len(covered(left))
    assert covered(intersection(union(left), union(right))) == covered(left) & covered(right)
    kept = past(union(left), longest)
    assert seconds(kept) == sum(max(0, one.seconds - longest) for one in union(left))


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=12),
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=12),
    st.integers(0, 8),
)
def test_outside_is_degraded_or_broken_and_never_both(
    ready: list[tuple[int, bool]], explained: list[tuple[int, bool]], longest: int
) -> None:
    observed = TimeSpan(0, 21)
    measured = {"r": samples("r", *sorted(ready)), "e": samples("e", *sorted(explained))}
    found = state_times(measured, ["r"], ["e"], longest, observed)
    assert covered(found.degraded) | covered(found.broken) == covered(found.outside)
    assert not covered(found.degraded) & covered(found.broken)


@pytest.mark.parametrize(("now", "passed"), [(4.9, False), (5.0, True)])
def test_a_limit_is_passed_after_its_time_without_a_break(now: float, passed: bool) -> None:
    limit = StopLimit("errors", {"type": "range", "range": [0, 0.5]}, "3s")
    measured = [ProbeSample("it", "errors", at, value, False) for at, value in ((0, 0.9), (1, 0.2), (2, 0.8), (4, 0.9))]
    assert exceeded(limit, measured, now) is passed


def test_a_probe_without_a_value_is_outside_of_every_limit() -> None:
    limit = StopLimit("errors", {"type": "range", "range": [0, 1]}, "1s")
    assert exceeded(limit, [ProbeSample("it", "errors", 0, None, False, "it is away")], 2)
    assert not exceeded(limit, [], 2)
    assert not exceeded(StopLimit("errors", None, "1s"), samples("errors", (0, True)), 2)
