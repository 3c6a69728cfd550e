"""The circuit breaker's states over scripted time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.serving.breaker import Breaker, BreakerPolicy

POLICY = BreakerPolicy(window=30.0, least=3, share=0.5, first_wait=1.0, longest_wait=8.0, jitter=0.2)


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker(time: Time, chance: float = 0.5) -> Breaker:
    return Breaker("main", POLICY, time, lambda: chance)


def ask(one: Breaker, *, failed: bool | None) -> bool:
    """Whether it was let through."""
    ticket = one.enter()
    if ticket is not None:
        one.told(ticket, failed=failed)
    return ticket is not None


def opened(time: Time, chance: float = 0.5) -> Breaker:
    one = breaker(time, chance)
    for _ in range(3):
        assert ask(one, failed=True)
    return one


def test_it_opens_by_the_share_of_failures_once_there_are_enough() -> None:
    time = Time()
    one = breaker(time)
    assert ask(one, failed=True)
    assert ask(one, failed=True)
    assert one.standing.state == "closed"
    ask(one, failed=False)
    assert one.standing.state == "open", "two of three"
    mostly_well = breaker(time)
    for number in range(20):
        ask(mostly_well, failed=number % 3 == 2)
    assert mostly_well.standing.state == "closed"


def test_failures_that_are_long_past_do_not_count() -> None:
    time = Time()
    one = breaker(time)
    for _ in range(10):
        ask(one, failed=True) if one.standing.asked < 2 else ask(one, failed=False)
        time.now += 16.0
    assert one.standing.state == "closed"


def test_while_open_nobody_is_let_through_and_then_one() -> None:
    time = Time()
    one = opened(time)
    assert one.enter() is None
    assert one.standing.state == "open"
    assert one.standing.next_probe_seconds == pytest.approx(1.0)
    time.now += one.wait
    probe = one.enter()
    assert probe is not None
    assert probe.probe
    assert one.enter() is None, "a second one while the probe is out"
    assert one.standing.state == "half-open"
    one.told(probe, failed=False)
    assert one.standing.state == "closed"
    assert ask(one, failed=False)


def test_each_probe_that_fails_doubles_the_wait_up_to_the_longest() -> None:
    time = Time()
    one = opened(time)
    waits = []
    for _ in range(6):
        waits.append(one.wait)
        time.now += one.wait
        assert ask(one, failed=True)
    assert waits == pytest.approx([1.0, 2.0, 4.0, 8.0, 8.0, 8.0])
    time.now += one.wait
    ask(one, failed=False)
    for _ in range(3):
        ask(one, failed=True)
    assert one.wait == pytest.approx(1.0), "a probe that came back starts the waits anew"


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_waits_are_jittered(chance: float, wait: float) -> None:
    assert opened(Time(), chance).wait == pytest.approx(wait)


def test_a_probe_whose_caller_went_away_leaves_the_next_one_to_try() -> None:
    time = Time()
    one = opened(time)
    time.now += one.wait
    assert ask(one, failed=None)
    assert one.standing.state == "open"
    assert ask(one, failed=False)
    assert one.standing.state == "closed"


def test_who_began_before_it_opened_neither_opens_nor_closes_it() -> None:
    time = Time()
    one = breaker(time)
    slow = one.enter()
    assert slow is not None
    for _ in range(3):
        ask(one, failed=True)
    one.told(slow, failed=False)
    assert one.standing.state == "open"
    assert one.standing.asked == 4


@given(st.lists(st.tuples(st.sampled_from(["enter", "well", "failed", "gone"]), st.floats(0.0, 40.0)), max_size=60))
def test_there_is_never_more_than_one_probe_and_never_a_wait_beyond_the_longest(steps: list[tuple[str, float]]) -> None:
    time = Time()
    one = breaker(time, chance=0.99)
    out = []
    for what, later in steps:
        time.now += later
        if what == "enter":
            ticket = one.enter()
            out += [ticket] if ticket is not None else []
        elif out:
            one.told(out.pop(0), failed={"well": False, "failed": True, "gone": None}[what])
        assert one.wait <= POLICY.longest_wait * (1.0 + POLICY.jitter)
        current = [ticket for ticket in out if ticket.probe and ticket.period == one._period]
        assert len(current) <= 1
