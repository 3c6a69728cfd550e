import random

from antiphon.engine.scheduling.latency_model import LatencyModel
from antiphon.engine.scheduling.pacing import HARMED_SLOWDOWN, Pacer
from antiphon.engine.scheduling.service_level import ServiceLevel
from antiphon.engine.scheduling.state import SequenceView, StepBudget

MODEL, BUDGET = LatencyModel(), StepBudget()


def arrival(ticket: int, *, pending: int) -> SequenceView:
    return SequenceView(ticket, "online", ticket, 0, pending, False, "waiting")


def served(pacer: Pacer, ticket: int, level: ServiceLevel, at: float, slowdown: float) -> None:
    """A request of one prompt and ten tokens that took ``1 + slowdown`` times what it takes alone."""
    pacer.add(arrival(ticket, pending=32), level, at, 10)
    pacer.advance(at + 5.0, MODEL, BUDGET)
    first, last = pacer.time_without_batch(ticket, 0, MODEL, BUDGET), pacer.time_without_batch(ticket, 9, MODEL, BUDGET)
    longer = 1 + slowdown
    pacer.remove(ticket, 10, at + (first - at) * longer, at + (last - at) * longer, MODEL, BUDGET)


def test_harm_makes_it_stricter_and_its_absence_laxer() -> None:
    pacer, level = Pacer(4, 32), ServiceLevel(slowdown=0.1)
    before = pacer.factors.slowdown
    served(pacer, 1, level, 10.0, slowdown=0.5)
    harmed = pacer.factors.slowdown
    assert harmed < before
    served(pacer, 2, level, 20.0, slowdown=0.0)
    assert harmed < pacer.factors.slowdown < before


def test_in_the_long_run_the_accepted_share_is_harmed() -> None:
    """Served by an engine whose slowdown is the allowance times the factor, with errors that nobody told it of."""
    pacer, level, chance = Pacer(4, 32), ServiceLevel(slowdown=0.2), random.Random(3)
    harmed = 0
    for number in range(3_000):
        slowdown = 0.2 * pacer.factors.slowdown * chance.lognormvariate(0.0, 0.8)
        harmed += slowdown > 0.2
        served(pacer, number, level, 10.0 * number, slowdown)
    assert abs(harmed / 3_000 - HARMED_SLOWDOWN) < 0.02


def test_what_would_have_been_missed_without_batch_is_no_harm() -> None:
    pacer, level = Pacer(4, 32), ServiceLevel(ttft=0.001, tpot=0.001)
    before = pacer.factors.seconds
    served(pacer, 1, level, 10.0, slowdown=3.0)
    assert pacer.factors.seconds > before


def test_a_slow_machine_is_no_harm() -> None:
    """Without batch work the same calls run in the twin, and in the time that they really took."""
    pacer, level = Pacer(4, 32), ServiceLevel(slowdown=0.1)
    pacer.add(arrival(1, pending=32), level, 10.0, 3)
    clock = 10.0
    for number, predicted in enumerate([MODEL.feed(32, 0), MODEL.decode(1, 32), MODEL.decode(1, 33)]):
        begin, clock = clock, clock + 7 * predicted
        pacer.observe_call(begin, clock, predicted)
        pacer.advance(clock + 1e-9, MODEL, BUDGET)
        pacer.due(1, number + 1, 11.0, MODEL, BUDGET)
    assert abs(pacer.time_without_batch(1, 2, MODEL, BUDGET) - clock) < 1e-6


def test_an_answer_longer_than_the_latest_stays_in_the_twin() -> None:
    pacer, level = Pacer(4, 32), ServiceLevel(slowdown=0.1)
    for number in range(1, 20):
        served(pacer, number, level, 10.0 * number, slowdown=0.0)
    for ticket in (98, 99):
        pacer.add(arrival(ticket, pending=32), level, 300.0, 40)
    now = 300.0 + 2 * MODEL.feed(32, 0)
    for emitted in range(1, 41):
        pacer.advance(now, MODEL, BUDGET)
        for ticket in (98, 99):
            pacer.due(ticket, emitted, 300.1, MODEL, BUDGET)
        now += MODEL.decode(2, 2 * (31 + emitted))
    # Two decode together to the end, whatever was expected of them at first.
    assert abs(pacer.time_without_batch(99, 39, MODEL, BUDGET) - now) < 0.03


def test_arrivals_may_wait_as_long_as_the_latest_requests_could() -> None:
    pacer = Pacer(4, 32)
    assert pacer.budget(BUDGET) == BUDGET
    for number in range(50):
        served(pacer, number, ServiceLevel(slowdown=0.05), 10.0 * number, slowdown=0.0)
    taken = pacer.budget(BUDGET).arrival_seconds
    assert 0 < taken < BUDGET.arrival_seconds
    assert 0 < pacer.patience <= taken / 2


def test_a_request_that_ended_without_a_token_says_nothing() -> None:
    pacer = Pacer(4, 32)
    before = pacer.factors
    pacer.add(arrival(1, pending=32), None, 1.0, 10)
    pacer.remove(1, 0, None, 9.0, MODEL, BUDGET)
    assert pacer.factors == before
