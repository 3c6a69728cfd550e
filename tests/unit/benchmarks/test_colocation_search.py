"""The search: what it hands out keeps the slowdown it was chosen for, where it was chosen."""

from __future__ import annotations

import numpy as np
from benchmarks.colocation import policies, search, simulator
from benchmarks.colocation.calibration import reference
from benchmarks.colocation.outcome import slowdowns
from benchmarks.colocation.search import Knobs, Tried
from benchmarks.colocation.traces import arrivals


def test_the_best_is_the_one_with_most_batch_work_among_those_that_keep_a_slowdown() -> None:
    slow, quick, greedy = (
        Tried(Knobs(), rate, mean, p90) for rate, mean, p90 in ((5.0, 0.01, 0.04), (9.0, 0.05, 0.2), (20.0, 0.4, 0.9))
    )
    assert search.best_of([slow, quick, greedy]) == {0.05: slow, 0.1: slow, 0.25: quick, 0.5: quick}
    assert search.best_of([greedy]) == {}


def test_what_is_found_keeps_its_slowdown_on_the_training_windows() -> None:
    calibration = reference()
    found = search.search(calibration, "code", candidates=12, seconds=8.0, seeds=(3,))
    assert found
    (online,) = [arrivals("code", seed, 8.0) for seed in (3,)]
    alone = simulator.simulate(calibration, policies.online_only(), online, 8.0, residuals=False)
    for contender, (slowdown, tried) in zip(search.contenders(calibration, found), found.items(), strict=True):
        run = simulator.simulate(calibration, contender.make(), online, 8.0, residuals=False)
        assert run.batch_rate == tried.rate > 0
        assert np.mean(slowdowns(alone, run)) - 1 <= slowdown
        assert contender.slowdown == slowdown


def test_credit_buys_batch_work_beside_online_and_costs_online_time() -> None:
    calibration, online = reference(), arrivals("conv", 0, 12.0)
    none, some = (
        simulator.simulate(calibration, search.paced(Knobs(share=share), calibration), online, 12.0, residuals=False)
        for share in (0.0, 1.0)
    )
    alone = simulator.simulate(calibration, policies.online_only(), online, 12.0, residuals=False)
    assert some.batch_rate > none.batch_rate
    assert slowdowns(alone, some).mean() > slowdowns(alone, none).mean()
