"""The circuit breaker's states over scripted time."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.core.circuit_breaker import BreakerPolicy, CircuitBreaker, consecutive_failures
from antiphon.core.errors import FeatureUnavailableError, UnavailableError

POLICY = BreakerPolicy(window=30.0, least=3, share=0.5, first_wait=1.0, longest_wait=8.0, jitter=0.2)


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker(time: Time, chance: float = 0.5) -> CircuitBreaker:
    return CircuitBreaker("main", POLICY, time, lambda: chance)


def ask(one: CircuitBreaker, *, failed: bool | None) -> bool:
    """Whether it was let through."""
    permit = one.enter()
    if permit is not None:
        one.record(permit, failed=failed)
    return permit is not None


def opened(time: Time, chance: float = 0.5) -> CircuitBreaker:
    one = breaker(time, chance)
    for _ in range(3):
        assert ask(one, failed=True)
    return one


def test_it_opens_by_the_share_of_failures_once_there_are_enough() -> None:
    time = Time()
    one = breaker(time)
    assert ask(one, failed=True)
    assert ask(one, failed=True)
    assert one.status.state == "closed"
    ask(one, failed=False)
    assert one.status.state == "open", "two of three"
    mostly_well = breaker(time)
    for number in range(20):
        ask(mostly_well, failed=number % 3 == 2)
    assert mostly_well.status.state == "closed"


def test_failures_that_are_long_past_do_not_count() -> None:
    time = Time()
    one = breaker(time)
    for _ in range(10):
        ask(one, failed=True) if one.status.calls < 2 else ask(one, failed=False)
        time.now += 16.0
    assert one.status.state == "closed"


def test_while_open_nobody_is_let_through_and_then_one() -> None:
    time = Time()
    one = opened(time)
    assert one.enter() is None
    assert one.status.state == "open"
    assert one.status.next_probe_seconds == pytest.approx(1.0)
    time.now += one.wait
    probe = one.enter()
    assert probe is not None
    assert probe.probe
    assert one.enter() is None, "a second one while the probe is out"
    assert one.status.state == "half-open"
    one.record(probe, failed=False)
    assert one.status.state == "closed"
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
    assert one.status.state == "open"
    assert ask(one, failed=False)
    assert one.status.state == "closed"


def test_who_began_before_it_opened_neither_opens_nor_closes_it() -> None:
    time = Time()
    one = breaker(time)
    slow = one.enter()
    assert slow is not None
    for _ in range(3):
        ask(one, failed=True)
    one.record(slow, failed=False)
    assert one.status.state == "open"
    assert one.status.calls == 4


@given(st.lists(st.tuples(st.sampled_from(["enter", "well", "failed", "gone"]), st.floats(0.0, 40.0)), max_size=60))
def test_there_is_never_more_than_one_probe_and_never_a_wait_beyond_the_longest(steps: list[tuple[str, float]]) -> None:
    time = Time()
    one = breaker(time, chance=0.99)
    out = []
    for what, later in steps:
        time.now += later
        if what == "enter":
            permit = one.enter()
            out += [permit] if permit is not None else []
        elif out:
            one.record(out.pop(0), failed={"well": False, "failed": True, "gone": None}[what])
        assert one.wait <= POLICY.longest_wait * (1.0 + POLICY.jitter)
        current = [permit for permit in out if permit.probe and permit.period == one._period]
        assert len(current) <= 1


def fail(circuit: CircuitBreaker) -> None:
    with pytest.raises(UnavailableError, match="broken"), circuit.calling():
        raise UnavailableError("broken")


def test_consecutive_failures_open_it_and_one_success_closes_it() -> None:
    clock = Time()
    circuit = CircuitBreaker("there", consecutive_failures(3, 5.0), clock)
    fail(circuit)
    fail(circuit)
    with circuit.calling():
        pass
    assert circuit.status.state == "closed"
    for _ in range(3):
        fail(circuit)
    assert circuit.status.state == "open"
    clock.now = 100.0 + 4.0
    with pytest.raises(UnavailableError, match=r"not called for 1\.0 s"), circuit.calling():
        pytest.fail("a call while it is open")
    clock.now = 100.0 + 5.0
    fail(circuit)
    clock.now = 100.0 + 9.9
    with pytest.raises(UnavailableError, match="failed repeatedly"), circuit.calling():
        pytest.fail("a call while it is open")
    clock.now = 100.0 + 10.0
    with circuit.calling():
        pass
    assert circuit.status.state == "closed"


def test_an_answer_that_says_no_is_no_failure() -> None:
    circuit = CircuitBreaker("there", consecutive_failures(1, 5.0), Time())
    for _ in range(3):
        with pytest.raises(FeatureUnavailableError), circuit.calling():
            raise FeatureUnavailableError("no")
    assert circuit.status.state == "closed"


def test_one_thread_at_a_time_probes() -> None:
    clock = Time()
    circuit = CircuitBreaker("there", consecutive_failures(1, 1.0), clock)
    fail(circuit)
    clock.now = 100.0 + 2.0
    inside, leave = threading.Event(), threading.Event()

    def probe() -> None:
        with circuit.calling():
            inside.set()
            assert leave.wait(10)

    thread = threading.Thread(target=probe)
    thread.start()
    assert inside.wait(10)
    with pytest.raises(UnavailableError, match="failed repeatedly"), circuit.calling():
        pytest.fail("a second probe")
    leave.set()
    thread.join(10)
    with circuit.calling():
        pass


def test_late_outcomes_count_where_the_policy_says_so() -> None:
    clock = Time()
    circuit = CircuitBreaker("there", consecutive_failures(1, 5.0), clock)
    well, badly = circuit.enter(), circuit.enter()
    assert well is not None
    assert badly is not None
    fail(circuit)
    clock.now += 3.0
    circuit.record(badly, failed=True)
    assert circuit.wait == pytest.approx(5.0), "a late failure starts the wait anew"
    circuit.record(well, failed=False)
    assert circuit.status.state == "closed", "a late success closes it"
