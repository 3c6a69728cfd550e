"""The gate in front of the engine, in virtual time: it finds the engine's capacity, and its moments hold."""

from __future__ import annotations

import pytest
from benchmarks.gateway import admission
from benchmarks.gateway.admission import Policy, Run, Size, virtually

from antiphon.serving.admission.engine_gate import EngineGate

SIZE = Size(15.0, 20.0, (1.5,), (3,), ())


def run(policy: Policy, slow: bool = False) -> Run:
    made: Run = virtually(lambda loop: admission.run(loop, policy, 20.8, 1.5, SIZE, 3, slow))
    return made


@pytest.fixture(scope="module")
def best() -> float:
    fixed = Policy("fixed", lambda clock: EngineGate(16, 16, 1.0, clock, adaptive=False))
    return run(fixed).row()["tokens_per_second"]


@pytest.mark.parametrize("start", [2, 64])
def test_the_limit_comes_near_the_capacity_from_either_side(start: int, best: float) -> None:
    made = run(Policy("adaptive", lambda clock: EngineGate(start, 256, 1.0, clock)))
    assert admission.SLOTS <= min(made.limits) <= max(made.limits) <= 2 * admission.SLOTS
    row = made.row()
    assert row["tokens_per_second"] >= 0.95 * best
    assert row["p99"] <= 2.5
    assert row["refused"] > 0.2


def test_without_it_requests_wait_in_the_engine() -> None:
    made = run(Policy("none", lambda clock: EngineGate(256, 256, 1.0, clock, adaptive=False)))
    assert made.row()["p99"] > 5.0


def test_of_those_who_are_refused_nearly_all_are_let_in_at_the_moment_named() -> None:
    back = virtually(lambda loop: admission.come_back(loop, 20.8, 100))
    assert back["refused"] > 60
    assert back["let_in_at_the_moment_named"] >= 0.95 * back["refused"]
    assert back["longest_wait"] < 1.5 * back["work_of_the_refused_seconds"]
