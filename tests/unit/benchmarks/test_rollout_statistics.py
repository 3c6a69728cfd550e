"""The paired test keeps its promises for each kind of outcome: 200 rollouts of 500 pairs, drawn by one seed."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.learning.rollout_statistics import KINDS, PLAN, simulate

RUNS, PAIRS = 200, 500


@pytest.mark.parametrize("kind", KINDS)
def test_as_good_is_seldom_rolled_back_and_worse_by_the_margin_seldom_passes(kind: str) -> None:
    losses, good, bad = KINDS[kind]
    draw = np.random.default_rng(20)
    same = simulate(losses, draw, RUNS, PAIRS, good, good)
    assert abs(same["difference"]) < 0.002
    assert same["share"]["rolled back"] <= PLAN.alpha
    boundary = simulate(losses, draw, RUNS, PAIRS, good, good, boundary=True)
    assert boundary["difference"] == pytest.approx(PLAN.quality_margin, abs=0.002)
    assert boundary["share"]["passed"] <= PLAN.beta
    better = simulate(losses, draw, RUNS, PAIRS, bad, good)
    assert better["share"]["passed"] > 0.9
    assert better["share"]["rolled back"] == 0.0
    worse = simulate(losses, draw, RUNS, PAIRS, good, bad)
    assert worse["share"]["passed"] <= PLAN.beta


def test_looking_at_a_t_test_after_each_fifty_pairs_breaks_its_promise() -> None:
    losses, good, _ = KINDS["numbers"]
    found = simulate(losses, np.random.default_rng(21), RUNS, 2 * PAIRS, good, good, boundary=True)
    assert found["share"]["peeked t passed"] > PLAN.beta
    assert found["share"]["passed"] <= PLAN.beta
