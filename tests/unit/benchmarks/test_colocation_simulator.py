"""The simulator drives the engine's own loop: what a request costs there is the sum of its calls, to the digit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from benchmarks.colocation import calibration as calibrations
from benchmarks.colocation import load, own_time, policies, simulator
from benchmarks.colocation.calibration import Point, Table, reference
from benchmarks.colocation.outcome import slowdowns
from benchmarks.colocation.traces import LONGEST_OUTPUT, LONGEST_PROMPT, SCALING, Request, arrivals, prompt_text

from antiphon.engine.execution.runtime import Layout

DECODE = (Point(1, 0, 0.005, 0.005, 1), Point(16, 0, 0.020, 0.020, 1))
PREFILL = (Point(1, 0, 0.002, 0.002, 1), Point(32, 0, 0.064, 0.064, 1))
FLAT = calibrations.calibrated(DECODE, PREFILL, model="flat", layout=Layout())


def run(policy: policies.Policy, *online: Request, seconds: float = 2.0) -> simulator.Outcome:
    return simulator.simulate(FLAT, policy, online, seconds, residuals=False)


def test_a_request_alone_takes_the_sum_of_its_calls() -> None:
    (served,) = run(policies.online_only(), Request(0.5, 64, 4)).served
    assert served.tokens == pytest.approx([0.628, 0.633, 0.638, 0.643])
    assert (served.ttft, served.tpot, served.latency) == pytest.approx((0.128, 0.005, 0.143))
    assert served.within


def test_an_arrival_waits_for_the_step_in_flight_and_no_longer() -> None:
    first, second = run(policies.online_only(), Request(0.0, 32, 3), Request(0.01, 32, 1)).served
    assert first.tokens[0] == pytest.approx(0.064)
    # Then one step: the second's prompt, and the first's second token with it.
    assert second.tokens == pytest.approx([0.064 + 0.064 + 0.005])
    assert first.tokens[1] == second.tokens[0]


def test_ours_turns_to_who_arrives_between_two_calls_and_a_peer_ends_its_step() -> None:
    arrival = Request(0.3, 32, 1)
    (waited,) = run(policies.static_cap(1), arrival).served
    # The batch sequence decodes in the step that computes the prompt, and a step tells at its end.
    assert waited.ttft == pytest.approx(0.512 - 0.3 + 0.064 + 0.005)
    (turned,) = run(policies.ours(), arrival).served
    assert turned.ttft == pytest.approx(0.320 - 0.3 + 0.064)


def test_a_call_is_given_up_when_somebody_arrives_in_its_middle() -> None:
    heard: list[float] = []
    clock = simulator.VirtualClock([0.2, 0.7], lambda: heard.append(clock.now))
    assert clock.advance(0.5)
    assert not clock.advance(0.5, given_up=lambda: True)
    assert clock.now == pytest.approx(0.7 + simulator.GIVING_UP_SECONDS)
    assert heard == [0.2, 0.7]


def test_batch_tokens_are_counted_inside_the_window_only() -> None:
    outcome = run(policies.static_cap(1), seconds=3.0)
    # 256 prompt tokens take 0.512 s and 63 decode steps 0.315 s; three such requests end by 2.481 s, and the fourth
    # has its first token at 2.993 s and one more by 2.998 s.
    assert outcome.batch_tokens == 3 * 64 + 2
    assert outcome.busy == pytest.approx(1.0, abs=0.01)
    assert run(policies.online_only(), seconds=3.0).batch_tokens == 0


@pytest.mark.parametrize("most", [1, 4])
def test_a_static_cap_bounds_who_is_in_a_slot(most: int) -> None:
    resident: list[int] = []
    policy = policies.static_cap(most)

    def watched(state: policies.SchedulerState, budget: policies.StepBudget) -> policies.StepPlan:
        views = [view for view in state.sequences if view.residency == "resident"]
        resident.append(sum(view.priority == "batch" for view in views))
        return policy.planner(state, budget)

    run(replace(policy, planner=watched))
    assert max(resident) == most


def test_the_same_seed_gives_the_same_run_and_another_does_not() -> None:
    online = arrivals("conv", 2, 6.0)
    one, same, other = (simulator.simulate(reference(), policies.ours(), online, 6.0, seed=seed) for seed in (1, 1, 2))
    assert [served.tokens for served in one.served] == [served.tokens for served in same.served]
    assert [served.tokens for served in one.served] != [served.tokens for served in other.served]
    assert all(served.complete for served in one.served)


def test_batch_work_slows_the_same_requests_down_and_priority_only_more_than_the_product() -> None:
    online = arrivals("conv", 0, 10.0)
    alone, ours, greedy = (
        simulator.simulate(reference(), policy, online, 10.0)
        for policy in (policies.online_only(), policies.ours(), policies.priority_only())
    )
    assert np.median(slowdowns(alone, alone)) == 1.0
    assert 1.0 < np.mean(slowdowns(alone, ours)) < np.mean(slowdowns(alone, greedy))
    with pytest.raises(ValueError, match="same requests"):
        slowdowns(alone, simulator.simulate(reference(), policies.online_only(), arrivals("conv", 1, 10.0), 10.0))


def test_the_table_goes_through_its_points_and_between_them() -> None:
    table = Table(
        (Point(1, 0, 1.0, 1.0, 1), Point(1, 100, 2.0, 2.0, 1), Point(3, 0, 5.0, 5.0, 1), Point(3, 100, 6.0, 6.0, 1))
    )
    assert [table.seconds(size, 0) for size in (1, 2, 3)] == pytest.approx([1.0, 3.0, 5.0])
    assert table.seconds(2, 50) == pytest.approx(3.5)
    assert table.seconds(4, 0) == pytest.approx(7.0)


def test_the_envelope_is_below_the_quickest_calls_and_touches_some() -> None:
    measured = reference()
    rows = [
        (
            measured.envelope.alpha + point.size * (measured.envelope.beta + measured.envelope.delta * point.context),
            point,
        )
        for point in measured.decode
    ]
    rows += [
        (measured.envelope.gamma * point.size + measured.envelope.delta * point.context, point)
        for point in measured.prefill
    ]
    assert all(cost <= point.quick * (1 + 1e-9) for cost, point in rows)
    assert sum(cost == pytest.approx(point.quick) for cost, point in rows) >= 3


def test_windows_are_declared_pieces_of_the_trace() -> None:
    whole, beginning, later = (arrivals("conv", seed, seconds) for seed, seconds in ((0, 360.0), (0, 60.0), (1, 360.0)))
    assert whole[: len(beginning)] == beginning
    assert whole[0] != later[0]
    assert 400 < len(whole) < 700
    assert all(0 <= a.at <= b.at < 360.0 for a, b in pairwise(whole))
    assert all(r.prompt_tokens <= LONGEST_PROMPT and 1 <= r.output_tokens <= LONGEST_OUTPUT for r in whole)
    with pytest.raises(ValueError, match="No trace"):
        arrivals("chat", 0, 10.0)
    with pytest.raises(ValueError, match="at most"):
        arrivals("conv", 0, 5000.0)


def test_prompts_share_no_beginning() -> None:
    assert len({prompt_text(256, number)[:40] for number in range(200)}) == 200


def test_the_machines_pace_is_replayed_from_a_moment_that_the_seed_draws() -> None:
    paced = msgspec.structs.replace(FLAT, pace=(1.0, 3.0))
    online = tuple(Request(number * calibrations.PACE_SECONDS, 1, 1) for number in range(6))
    firsts = set()
    for seed in range(8):
        served = simulator.simulate(paced, policies.online_only(), online, 4.0, seed=seed).served
        latencies = [one.ttft for one in served]
        assert latencies == pytest.approx([latencies[0], latencies[1]] * 3)
        assert sorted(latencies[:2]) == pytest.approx([0.002, 0.006])
        firsts.add(round(latencies[0], 3))
    assert firsts == {0.002, 0.006}
    by_noise = [simulator.simulate(paced, policies.online_only(), online, 4.0, noise=noise) for noise in range(8)]
    assert {round(run.served[0].ttft, 3) for run in by_noise} == {0.002, 0.006}
    mean = simulator.simulate(paced, policies.online_only(), online, 4.0, residuals=False).served
    assert {round(one.ttft, 4) for one in mean} == {0.002}


def test_pace_and_what_is_left_of_a_measurement_say_it_again() -> None:
    measured = calibrations._Measured()
    measured.samples[("decode", 1, 0)] = [0.1, 0.1, 0.2, 0.2]
    measured._calls = [
        (float(at), ("decode", 1, 0), seconds) for at, seconds in ((0.0, 0.1), (0.2, 0.1), (0.7, 0.2), (2.1, 0.2))
    ]
    # Nothing was measured from 1.0 to 2.0.
    assert measured.pace() == pytest.approx((2 / 3, 4 / 3, 4 / 3))
    assert set(measured.ratios("decode")) == {1.0}


def test_a_load_is_what_the_machine_bears() -> None:
    seconds = 8.0

    def machine(times: float) -> calibrations.Calibration:
        points = {
            kind: tuple(msgspec.structs.replace(point, mean=times * point.mean) for point in getattr(reference(), kind))
            for kind in ("decode", "prefill")
        }
        return msgspec.structs.replace(reference(), **points)

    assert load.bearable(machine(0.25), "conv", seconds) == SCALING["conv"]
    slow = machine(4.0)
    less = load.bearable(slow, "conv", seconds)
    assert less.rate * less.prompt < SCALING["conv"].rate * SCALING["conv"].prompt
    assert load.within(load.alone(slow, "conv", SCALING["conv"], seconds)) < load.LEAST_WITHIN
    runs = load.alone(slow, "conv", less, seconds)
    assert load.within(runs) >= load.LEAST_WITHIN
    assert 0.3 < load.busy(runs) <= load.MOST_BUSY


def test_what_the_engine_takes_beside_its_model_is_measured_through_a_socket() -> None:
    turn, sequence = own_time.own_time(len(simulator.Costless(Layout()).vocabulary.pieces))
    assert 0 <= turn < 0.01
    assert 0 <= sequence < 0.001
    assert turn + 16 * sequence > 1e-5
