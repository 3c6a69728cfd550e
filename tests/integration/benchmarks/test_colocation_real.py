"""The harness against engine processes without a model: what is sent, read and counted there."""

from __future__ import annotations

from benchmarks.colocation.points import named
from benchmarks.colocation.real import real_run
from benchmarks.colocation.traces import Request

ONLINE = (Request(0.1, 12, 5), Request(0.15, 30, 1), Request(0.6, 8, 20))


async def test_a_run_serves_forced_lengths_beside_a_saturated_batch() -> None:
    outcome = await real_run(named("ours, service level"), ONLINE, 1.0, simulated=True)
    assert [len(served.tokens) for served in outcome.served] == [5, 1, 20]
    assert all(served.at < served.tokens[0] and served.tokens == sorted(served.tokens) for served in outcome.served)
    assert outcome.batch_tokens > 0
    assert 0 < outcome.busy <= 1.0
    assert not outcome.simulated


async def test_what_is_refused_is_never_served_whoever_decides() -> None:
    outcome = await real_run(named("static cap 1"), (*ONLINE, Request(0.7, 8, 30_000)), 1.0, simulated=True)
    assert outcome.batch_tokens > 0
    assert [served.complete for served in outcome.served] == [True, True, True, False]
    assert outcome.percentiles("ttft")[2] == float("inf")
