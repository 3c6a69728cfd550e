"""The demo's plan: what each phase will take on this machine, and sizes with which all of them end in time.

Sizes are declared before the run and kept beside its answers, so that nothing that is measured decides how much is
measured. Predictions come from the seconds that a reference machine took (``config.toml``, ``[plan]``), scaled by what
was measured here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from antiphon.core.disk import replace_file
from examples.flight_desk.host import Say
from examples.flight_desk.machine import Machine
from examples.flight_desk.settings import LearningSize, Settings

FILE = "plan.json"
_SHARES = tuple(share / 20 for share in range(20, 4, -1))
"""Of the declared sizes, tried from the largest."""
_LEAST_AGAIN = 0.4
"""With smaller ones learning again is left out instead."""
_LEAST_EXAMPLES = 640
"""With fewer a model has hardly learned to tell late flights from others."""
_GENERATION_SHARE = 0.5
"""Share of generation's slowdown, against the reference machine, that the story's phases show beside training: they
start processes, read features and wait as well. Where generation took 1.9 times as long, they took 1.2 to 1.8 times."""

WAYS, TRAIN, FIRST, COLLECT, LEARN, SECOND, BAD, FLIP, MEASURE = (
    "four ways", "train on history", "first release", "collect outcomes", "learn from outcomes", "second release",
    "bad release", "roll back and forth", "measurement",
)  # fmt: skip
AGAIN = (COLLECT, LEARN, SECOND)
"""Phases that are left out first: they show the same once more, with outcomes."""


class Plan(msgspec.Struct, frozen=True):
    """Sizes, and the predicted seconds of each phase in its order.

    Attributes:
        asks_per_flight: of the four ways' demand.
        learning: sizes of the story; ``None`` without the extra ``train``.
        changes: what is smaller than declared and what that costs, a sentence each.
        budget: seconds that all phases are to take at most.
    """

    machine: Machine
    asks_per_flight: float
    learning: LearningSize | None
    phases: dict[str, float]
    budget: float
    changes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(self.phases.values())

    def applied(self, settings: Settings) -> Settings:
        """The settings with the planned sizes."""
        demand = msgspec.structs.replace(settings.demand, asks_per_flight=self.asks_per_flight)
        learning = msgspec.structs.replace(settings.learning, demo=self.learning or settings.learning.demo)
        return msgspec.structs.replace(settings, demand=demand, learning=learning)

    def left(self, phase: str) -> float:
        """Predicted seconds from the beginning of a phase to the end."""
        names = list(self.phases)
        return sum(self.phases[name] for name in names[names.index(phase) :]) if phase in names else 0.0


def make(
    settings: Settings, machine: Machine, *, ways: bool = True, learning: bool = True, asks: float | None = None
) -> Plan:
    """The largest plan that ends within the budget on this machine; the smallest one where none does.

    Args:
        ways, learning: the parts that it is to have.
        asks: questions a flight, where answers are there already.
    """
    smallest = None
    for again in (True, False) if learning else (True,):
        for share in _SHARES:
            if learning and again and share < _LEAST_AGAIN:
                break
            smallest = _plan(settings, machine, share, again=again, ways=ways, learning=learning, asks=asks)
            if smallest.seconds <= smallest.budget:
                return smallest
    assert smallest is not None
    return smallest


def read(folder: Path) -> Plan | None:
    """The plan that an earlier run in this folder was made with."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Plan)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write(folder: Path, plan: Plan) -> None:
    """Keep the plan beside the answers."""
    replace_file(folder / FILE, msgspec.json.encode(plan))


def sentences(plan: Plan) -> list[str]:
    """The plan for people: phases with their times, then what was made smaller."""
    minutes = math.ceil(plan.seconds / 60)
    phases = ", ".join(f"{name} {_clock(seconds)}" for name, seconds in plan.phases.items())
    said = [f"plan, about {minutes} min: {phases}", *plan.changes]
    if plan.seconds > plan.budget:
        said.append(
            f"This is the smallest plan, and it takes longer than {plan.budget / 60:.0f} min here: other work holds"
            " this machine back, or it is slower than any that this was made for."
        )
    return said


def _plan(
    settings: Settings, machine: Machine, share: float, *, again: bool, ways: bool, learning: bool, asks: float | None
) -> Plan:
    asks = settings.demand.asks_per_flight * share if asks is None else asks
    full = settings.learning.demo
    story = None
    if learning:
        story = msgspec.structs.replace(
            full,
            train_examples=max(min(_LEAST_EXAMPLES, full.train_examples), round(full.train_examples * share)),
            gate_texts=max(6, round(full.gate_texts * share)),
            measured_flights=round(full.measured_flights * share),
            measured_notices=max(8, round(full.measured_notices * share)),
            flip_questions=max(16, round(full.flip_questions * share)),
            learns_again=full.learns_again and again,
        )
    phases = _phases(settings, machine, asks, story, ways=ways)
    changes = _changes(settings, asks if ways else None, story)
    return Plan(machine, asks, story, phases, settings.plan["minutes"] * 60, changes)


def _phases(
    settings: Settings, machine: Machine, asks: float, story: LearningSize | None, *, ways: bool
) -> dict[str, float]:
    cost, seen = settings.plan, machine.generation
    generating = (cost["prefill"] / seen.prefill + cost["decode"] / seen.decode) / 2
    phases: dict[str, float] = {}
    if ways:
        questions = settings.demand.flights_per_day * asks * settings.demo.days
        phases[WAYS] = generating * (cost["start"] + cost["ways_question"] * questions)
    if story is None:
        return phases
    slower = 1 + _GENERATION_SHARE * (generating - 1)
    step = machine.step_seconds or 0.0
    evaluated = 2 * (cost["row"] * story.gate_rows + cost["text"] * story.gate_texts) + cost["attacks"]
    phases[TRAIN] = slower * (cost["start"] + cost["load"] + evaluated) + step * story.train_examples / cost["batch"]
    phases[FIRST] = slower * cost["rollout"]
    if story.learns_again:
        phases[COLLECT] = slower * cost["collect"]
        phases[LEARN] = slower * (cost["load"] + evaluated) + step * 2 * story.delta_examples / cost["batch"]
        phases[SECOND] = slower * cost["rollout"]
    phases[BAD] = slower * cost["bad"]
    phases[FLIP] = slower * (cost["flip"] + cost["flip_question"] * story.flip_questions)
    asked = 3 + story.measured_learned
    phases[MEASURE] = slower * (
        cost["measure"] + asked * cost["row"] * story.measured_flights + 2 * cost["text"] * story.measured_notices
    )
    return phases


def _changes(settings: Settings, asks: float | None, story: LearningSize | None) -> tuple[str, ...]:
    said = []
    declared, full = settings.demand.asks_per_flight, settings.learning.demo
    if asks is not None and asks < declared:
        wider = math.sqrt(declared / asks)
        said.append(
            f"smaller: {asks:.0f} instead of {declared:.0f} questions a flight; intervals about {wider:.1f}× as wide"
        )
    if story is not None and story.measured_flights < full.measured_flights:
        wider = math.sqrt(full.measured_flights / story.measured_flights)
        said.append(
            f"smaller: learns from {story.train_examples} instead of {full.train_examples} flights, which may cost some"
            f" hundredths of AUC; measured on {story.measured_flights} instead of {full.measured_flights},"
            f" {story.measured_notices} notices instead of {full.measured_notices}: intervals {wider:.1f}× as wide"
        )
    if story is not None and full.learns_again and not story.learns_again:
        said.append("left out: learning from outcomes and its release; `make demo-full` shows them")
    return tuple(said)


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


class Schedule:
    """A plan and the moment since which it runs: says at each phase how long it should take, and what no longer fits.

    Args:
        limit: seconds that the whole may take; ``None`` leaves nothing out.
        began: the moment (``monotonic``) at which the whole began, when that was earlier than now.
    """

    def __init__(
        self,
        plan: Plan | None = None,
        limit: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        self._plan = plan
        self._limit = limit
        self._monotonic = monotonic
        self._began = monotonic() if began is None else began

    def begin(self, phase: str, say: Say) -> None:
        """Say that a phase begins, which one it is, and how long it and the rest should take."""
        plan = self._plan
        if plan is None or phase not in plan.phases:
            say(f"— {phase}")
            return
        say(
            f"— {phase} ({list(plan.phases).index(phase) + 1} of {len(plan.phases)}): about {plan.phases[phase]:.0f} s;"
            f" to the end about {plan.left(phase) / 60:.0f} min"
        )

    def in_time(self, say: Say) -> bool:
        """True while there is time for learning again, which comes next; says so when there is not."""
        if self._plan is None or self._limit is None:
            return True
        passed, left = self._monotonic() - self._began, self._plan.left(COLLECT)
        planned = self._plan.seconds - left
        # What took longer than planned will go on to.
        slower = max(1.0, passed / planned) if planned > 0 else 1.0
        if passed + slower * left <= self._limit:
            return True
        say(
            f"left out for time: {', '.join(AGAIN)} ({passed / 60:.0f} min have passed where"
            f" {planned / 60:.0f} were planned); `make demo-full` shows them"
        )
        return False


UNPLANNED = Schedule()
"""Phases are named and none is left out."""
