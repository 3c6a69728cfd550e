import random

from antiphon.engine.latency_model import LatencyModel
from antiphon.engine.pacing import HARMED_SLOWDOWN, Pacing
from antiphon.engine.scheduler import Budget
from antiphon.engine.service_level import ServiceLevel

MODEL, BUDGET = LatencyModel(), Budget()


def served(pacing: Pacing, ticket: int, level: ServiceLevel, at: float, slowdown: float) -> None:
    """A request of one prompt and ten tokens that took ``1 + slowdown`` times what it takes alone."""
    pacing.arrived(ticket, level, at, position=0, pending=32, most=10)
    pacing.advance(at + 5.0, MODEL, BUDGET)
    first, last = pacing.alone(ticket, 0, MODEL, BUDGET), pacing.alone(ticket, 9, MODEL, BUDGET)
    longer = 1 + slowdown
    pacing.ended(ticket, 10, at + (first - at) * longer, at + (last - at) * longer, MODEL, BUDGET)


def test_harm_makes_it_stricter_and_its_absence_laxer() -> None:
    pacing, level = Pacing(4, 32), ServiceLevel(slowdown=0.1)
    before = pacing.factor
    served(pacing, 1, level, 10.0, slowdown=0.5)
    harmed = pacing.factor
    assert harmed < before
    served(pacing, 2, level, 20.0, slowdown=0.0)
    assert harmed < pacing.factor < before


def test_in_the_long_run_the_accepted_share_is_harmed() -> None:
    """Served by an engine whose slowdown is the allowance times the factor, with errors that nobody told it of."""
    pacing, level, chance = Pacing(4, 32), ServiceLevel(slowdown=0.2), random.Random(3)
    harmed = 0
    for number in range(3_000):
        slowdown = 0.2 * pacing.factor * chance.lognormvariate(0.0, 0.8)
        harmed += slowdown > 0.2
        served(pacing, number, level, 10.0 * number, slowdown)
    assert abs(harmed / 3_000 - HARMED_SLOWDOWN) < 0.02


def test_what_would_have_been_missed_without_batch_is_no_harm() -> None:
    pacing, level = Pacing(4, 32), ServiceLevel(ttft=0.001, tpot=0.001)
    before = pacing.factor
    served(pacing, 1, level, 10.0, slowdown=3.0)
    assert pacing.factor > before


def test_arrivals_may_wait_as_long_as_the_latest_requests_could() -> None:
    pacing = Pacing(4, 32)
    assert pacing.budget(BUDGET) == BUDGET
    for number in range(50):
        served(pacing, number, ServiceLevel(slowdown=0.05), 10.0 * number, slowdown=0.0)
    taken = pacing.budget(BUDGET).arrival_seconds
    assert 0 < taken < BUDGET.arrival_seconds
    assert 0 < pacing.patience <= taken / 2


def test_a_request_that_ended_without_a_token_says_nothing() -> None:
    pacing = Pacing(4, 32)
    before = pacing.factor
    pacing.arrived(1, None, 1.0, position=0, pending=32, most=10)
    pacing.ended(1, 0, None, 9.0, MODEL, BUDGET)
    assert pacing.factor == before
