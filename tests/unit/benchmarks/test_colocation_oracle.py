"""The oracle against cases solved by hand, and against every policy in the simulator."""

from __future__ import annotations

import math

import pytest
from benchmarks.colocation import oracle, policies, simulator
from benchmarks.colocation.calibration import Envelope, reference
from benchmarks.colocation.oracle import Demand
from benchmarks.colocation.traces import arrivals

ENVELOPE = Envelope(alpha=0.002, beta=0.001, gamma=0.0005, delta=0.0)


def bound(*online: Demand, seconds: float = 1.0, envelope: Envelope = ENVELOPE) -> float:
    """Of batch requests of 8 prompt and 5 output tokens on 4 slots."""
    return oracle.most_batch_tokens(envelope, online, seconds, slots=4, prompt_tokens=8, output_tokens=5)


def test_batch_alone_fills_every_step() -> None:
    # Four decoded tokens cost a full step of 2 + 4 ms and 8 prefilled tokens of 0.5 ms; they give five outputs.
    assert bound() == pytest.approx(1.0 / 0.010 * 5)


def test_context_that_must_be_read_is_paid() -> None:
    # Eight context tokens of 0.125 ms for each decoded token double what decoding costs.
    assert bound(envelope=Envelope(0.002, 0.001, 0.0005, 0.000125)) == pytest.approx(1.0 / 0.014 * 5)


def test_online_prefill_takes_its_time_and_no_more() -> None:
    # 1,000 tokens of 0.5 ms by the half of the window: what is left is the other half.
    assert bound(Demand(0.0, 1000, (0.5,))) == pytest.approx(0.5 / 0.010 * 5)


def test_what_is_due_after_the_window_may_wait() -> None:
    assert bound(Demand(0.0, 1000, (1.2,))) == pytest.approx(bound())


def test_work_cannot_be_done_before_it_arrives() -> None:
    with pytest.raises(oracle.Unfit, match="does not fit"):
        bound(Demand(0.8, 1000, (0.9,)))
    assert bound(*oracle.later([Demand(0.4, 1000, (0.8,))], 0.5)) == pytest.approx(bound(Demand(0.4, 1000, (1.0,))))


def test_a_lone_online_sequence_needs_a_step_for_each_token() -> None:
    # 300 tokens one after another: 300 steps of 2 ms and 300 decodes of 1 ms leave 0.1 s, in which batch tokens ride
    # along for 1 ms each and 1 ms of prefill. Saved up into 75 full steps they would leave 0.55 s.
    tokens = tuple(number / 300 for number in range(301))
    assert bound(Demand(0.0, 0, tokens)) == pytest.approx(0.1 / 0.002 * 5 / 4, rel=0.02)


def test_longer_deadlines_never_cost_batch_work() -> None:
    online = arrivals("conv", 0, 8.0)
    calibration = reference()
    alone = simulator.simulate(calibration, policies.online_only(), online, 8.0)
    bounds = [
        oracle.most_batch_tokens(calibration.envelope, due, 8.0)
        for due in (
            oracle.due_by_slowdown(alone, 0.0),
            oracle.due_by_slowdown(alone, 0.25),
            oracle.due_by_service(alone),
            (),
        )
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[-1]


@pytest.mark.parametrize("trace", ["conv", "code"])
def test_no_policy_beats_the_bound_of_the_service_it_gave(trace: str) -> None:
    calibration = reference()
    online = arrivals(trace, 1, 12.0)
    for policy in (policies.static_cap(1), policies.priority_only(), policies.ours()):
        run = simulator.simulate(calibration, policy, online, 12.0, residuals=False)
        most = oracle.most_batch_tokens(calibration.envelope, oracle.due_as_served(run), 12.0)
        assert 0 < run.batch_tokens <= most


def test_a_request_that_was_not_served_is_not_due() -> None:
    calibration = reference()
    run = simulator.simulate(calibration, policies.online_only(), arrivals("code", 0, 5.0), 5.0)
    for served in run.served:
        served.tokens.clear()
    assert all(math.isinf(due) for demand in oracle.due_as_served(run) for due in demand.due)
    assert all(served.ttft == math.inf and not served.within for served in run.served)
    assert oracle.most_batch_tokens(calibration.envelope, oracle.due_as_served(run), 5.0) == pytest.approx(
        oracle.most_batch_tokens(calibration.envelope, (), 5.0)
    )
