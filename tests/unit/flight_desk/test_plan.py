"""The demo's plan: sizes that fit the machine, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from examples.flight_desk import plan, settings
from examples.flight_desk.machine import Generation, Machine
from examples.flight_desk.plan import Schedule
from hypothesis import given
from hypothesis import strategies as st

from antiphon.training.recipe import Arithmetic

DECLARED = settings.load()
REFERENCE = Machine(Generation(720.0, 257.0), Arithmetic("bf16"), 1.3)
QUICK = Machine(Generation(3_000.0, 1_000.0), Arithmetic("bf16"), 0.2)
NO_AVX512 = Machine(Generation(520.0, 180.0), Arithmetic("fp32"), 3.5)
HALF = Machine(Generation(380.0, 140.0), Arithmetic("fp32"), 4.0)
HELD_BACK = Machine(Generation(40.0, 38.0), Arithmetic("fp32"), 15.0)


def test_a_quick_machine_shows_everything_that_is_declared() -> None:
    made = plan.make(DECLARED, QUICK)
    assert made.changes == ()
    assert made.applied(DECLARED) == DECLARED


@pytest.mark.parametrize("machine", [REFERENCE, NO_AVX512, HALF])
def test_the_demo_fits_machines_of_two_cores(machine: Machine) -> None:
    made = plan.make(DECLARED, machine)
    assert made.seconds <= made.budget < 15 * 60
    assert made.changes
    assert plan.sentences(made)[1:] == list(made.changes)
    assert made.learning is not None
    assert made.learning.gate_rows == DECLARED.learning.demo.gate_rows, "gates need their rows"


def test_what_is_smaller_is_said_with_what_it_costs() -> None:
    said = " ".join(plan.sentences(plan.make(DECLARED, HALF)))
    assert "instead of 300" in said
    assert "× as wide" in said
    assert "left out: learning from outcomes" in said
    made = plan.make(DECLARED, HALF)
    assert not set(plan.AGAIN) & set(made.phases)
    assert made.applied(DECLARED).learning.demo.learns_again is False


def test_a_machine_that_is_held_back_gets_the_smallest_plan_and_is_told() -> None:
    made = plan.make(DECLARED, HELD_BACK)
    assert made.seconds > made.budget
    assert "longer than" in plan.sentences(made)[-1]


@given(
    prefill=st.floats(20, 5_000), decode=st.floats(10, 2_000), step=st.floats(0.05, 30),
    ways=st.booleans(), learning=st.booleans(),
)  # fmt: skip
def test_no_plan_is_larger_than_what_is_declared_and_each_fits_or_is_the_smallest(
    prefill: float, decode: float, step: float, ways: bool, learning: bool
) -> None:
    made = plan.make(DECLARED, Machine(Generation(prefill, decode), Arithmetic(), step), ways=ways, learning=learning)
    assert all(seconds >= 0 for seconds in made.phases.values())
    assert (plan.WAYS in made.phases) == ways
    assert (plan.TRAIN in made.phases) == (made.learning is not None) == learning
    assert made.asks_per_flight <= DECLARED.demand.asks_per_flight
    smallest = plan.make(DECLARED, Machine(Generation(1.0, 1.0), Arithmetic(), 99.0), ways=ways, learning=learning)
    assert made.seconds <= made.budget or (made.asks_per_flight, made.learning) == (
        smallest.asks_per_flight, smallest.learning,
    )  # fmt: skip
    if made.learning is not None:
        full = msgspec.structs.asdict(DECLARED.learning.demo)
        assert all(value <= full[name] for name, value in msgspec.structs.asdict(made.learning).items())


def test_a_plan_is_kept_beside_the_answers_it_was_made_for(tmp_path: Path) -> None:
    assert plan.read(tmp_path) is None
    made = plan.make(DECLARED, HALF)
    plan.write(tmp_path, made)
    assert plan.read(tmp_path) == made
    again = plan.make(DECLARED, QUICK, asks=made.asks_per_flight)
    assert again.asks_per_flight == made.asks_per_flight, "answers that are there keep their demand"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_learning_again_is_left_out_when_what_came_before_took_too_long() -> None:
    made = plan.make(DECLARED, REFERENCE)
    clock, said = Clock(), []
    schedule = Schedule(made, 840.0, clock)
    clock.now = made.seconds - made.left(plan.COLLECT)
    assert schedule.in_time(said.append)
    assert said == []
    clock.now *= 1.5
    assert not schedule.in_time(said.append)
    assert "left out for time: collect outcomes" in said[0]
    assert Schedule(None).in_time(said.append), "without a plan nothing is left out"


def test_each_phase_says_how_long_it_and_the_rest_should_take() -> None:
    made = plan.make(DECLARED, QUICK)
    said: list[str] = []
    schedule = Schedule(made)
    for name in [*made.phases, "an unplanned one"]:
        schedule.begin(name, said.append)
    assert said[0].startswith(f"— {plan.WAYS} (1 of {len(made.phases)}): about {made.phases[plan.WAYS]:.0f} s;")
    assert said[-1] == "— an unplanned one"
    assert made.left(plan.WAYS) == pytest.approx(made.seconds)
