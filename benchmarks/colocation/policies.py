"""Who runs next: the policies that are compared.

A policy is a function of the scheduler's state with the signature of
:func:`antiphon.engine.scheduling.scheduler.plan`, carried out by the engine's own executor; the online part of every
plan is the engine's own too. So a comparison differs in what batch may do and in nothing else. ``ours`` is the engine
untouched. Calls of the others are never given up for who
arrives: that is a part of ours, and no peer does it.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from antiphon.engine.execution.model_executor import Emission, ModelExecutor
from antiphon.engine.execution.runtime import Runtime
from antiphon.engine.execution.step_loop import Message, StepLoop
from antiphon.engine.scheduling.scheduler import plan
from antiphon.engine.scheduling.service_level import ServiceLevel
from antiphon.engine.scheduling.state import Planner, SchedulerState, SequenceView, StepBudget, StepPlan

Emit = Callable[[list[Emission]], None]
Monotonic = Callable[[], float]

BATCH_PREFILL_TOKENS = 256
"""Prompt tokens of batch requests in one step for policies without a time budget: one whole prompt."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to decide.

    Attributes:
        takes_batch: false for the reference that is never offered any.
        level: what online requests ask for, where the policy heeds it.
        gives_way: calls of batch are given up for who arrives online.
        gate: makes the planner of a run where it has a state of its own, by the run's clock.
    """

    name: str
    planner: Planner
    takes_batch: bool = True
    level: ServiceLevel | None = None
    gives_way: bool = False
    gate: Callable[[Monotonic], Planner] | None = None

    def planner_of_run(self, monotonic: Monotonic) -> Planner:
        """The planner of one run."""
        return self.planner if self.gate is None else self.gate(monotonic)

    def loop(
        self, runtime: Runtime, monotonic: Monotonic, emit: Emit, inbox: queue.SimpleQueue[Message] | None = None
    ) -> StepLoop:
        """A step loop with one executor that follows this policy."""
        if not self.gives_way:
            return StepLoop(
                [Insistent(runtime, monotonic, planner=self.planner_of_run(monotonic))],
                StepBudget(),
                emit,
                inbox,
                monotonic,
            )
        executor = ModelExecutor(runtime, monotonic, planner=self.planner, online_waiting=lambda: loop.online_waiting())
        loop = StepLoop([executor], StepBudget(), emit, inbox, monotonic)
        return loop


class Insistent(ModelExecutor):
    """An executor that ends every call that it began."""

    def interrupt_batch(self) -> None:
        pass


def ours(level: ServiceLevel | None = None, name: str = "ours") -> Policy:
    """The engine as it is shipped."""
    return Policy(name, plan, level=level, gives_way=True)


def static_cap(most: int) -> Policy:
    """At most ``most`` batch sequences in slots; online first; no time budget."""
    return Policy(f"static cap {most}", lambda state, budget: online_first(state, budget, most_batch=most))


def priority_only() -> Policy:
    """Online first, batch fills every free slot; no time budget."""
    return Policy("priority only", lambda state, budget: online_first(state, budget, most_batch=state.slots))


class _AimdGate:
    """As many batch sequences as users' time to first token allows: one more for each second in which it was met, half
    as many for one in which it was not."""

    def __init__(self, monotonic: Monotonic, bound: float) -> None:
        self._monotonic = monotonic
        self._bound = bound
        self._arrived: dict[int, float] = {}
        self._waited: list[float] = []
        self._most = 1.0
        self._since = monotonic()

    def plan(self, state: SchedulerState, budget: StepBudget) -> StepPlan:
        now = self._monotonic()
        online = {sequence.ticket: sequence for sequence in state.sequences if sequence.priority == "online"}
        for ticket, sequence in online.items():
            began = self._arrived.setdefault(ticket, now)
            if sequence.generating and began >= 0:
                self._waited.append(now - began)
                self._arrived[ticket] = -1.0
        self._arrived = {ticket: at for ticket, at in self._arrived.items() if ticket in online}
        waiting = [now - at for at in self._arrived.values() if at >= 0]
        if now - self._since >= 1.0:
            late = any(one > self._bound for one in (*self._waited, *waiting))
            self._most = self._most / 2 if late else min(self._most + 1.0, float(state.slots))
            self._waited, self._since = [], now
        return online_first(state, budget, most_batch=int(self._most))


def aimd_gate(bound: float = 1.0) -> Policy:
    """Batch sequences by additive increase and multiplicative decrease, held to a time to first token in seconds."""
    return Policy("AIMD gate", plan, gate=lambda monotonic: _AimdGate(monotonic, bound).plan)


def online_only(name: str = "online only") -> Policy:
    """The reference: the engine as it is shipped, and nobody offers it any batch work."""
    return Policy(name, plan, takes_batch=False, gives_way=True)


@dataclass(frozen=True, slots=True)
class Placed:
    """Who is in a slot after a plan's moves."""

    swap_out: tuple[int, ...]
    admit: tuple[int, ...]
    online: tuple[SequenceView, ...]
    batch: tuple[SequenceView, ...]


def placed(state: SchedulerState, most_batch: int) -> Placed:
    """Slots: online by arrival, over the youngest batch sequences if need be; then batch, oldest first."""
    resident = [sequence for sequence in state.sequences if sequence.residency == "resident"]
    absent = by_arrival(sequence for sequence in state.sequences if sequence.residency != "resident")
    free = state.slots - len(resident)
    evictable = by_arrival(sequence for sequence in resident if sequence.priority == "batch")
    swap_out: list[int] = []
    admit: list[SequenceView] = []
    for sequence in absent:
        if sequence.priority == "online":
            if free == 0 and evictable:
                swap_out.append(evictable.pop().ticket)
                free += 1
            if free == 0:
                break
            admit.append(sequence)
            free -= 1
    waiting = [sequence for sequence in absent if sequence.priority == "batch"]
    admit += waiting[: max(min(free, most_batch - len(evictable)), 0)]
    present = by_arrival([*(sequence for sequence in resident if sequence.ticket not in swap_out), *admit])
    return Placed(
        tuple(swap_out),
        tuple(sequence.ticket for sequence in admit),
        tuple(sequence for sequence in present if sequence.priority == "online"),
        tuple(sequence for sequence in present if sequence.priority == "batch"),
    )


def online_part(state: SchedulerState, budget: StepBudget, slots: Placed) -> StepPlan:
    """What the engine's own scheduler would do if there were no batch."""
    return plan(replace(state, sequences=slots.online), budget)


def online_first(state: SchedulerState, budget: StepBudget, *, most_batch: int) -> StepPlan:
    """All online work, then one step of at most ``most_batch`` batch sequences, whatever it takes."""
    slots = placed(state, most_batch)
    online = online_part(state, budget, slots)
    return StepPlan(
        swap_out=slots.swap_out,
        admit=slots.admit,
        prefill=(*online.prefill, *chunks(slots.batch, BATCH_PREFILL_TOKENS, state.chunk_tokens, progress=False)),
        decode=(*online.decode, *(sequence.ticket for sequence in slots.batch if sequence.generating)),
    )


def chunks(sequences: Iterable[SequenceView], most: int, chunk_tokens: int, *, progress: bool) -> list[tuple[int, int]]:
    """Prompts' next chunks by order, at most ``most`` tokens; with ``progress`` the first chunk is always taken."""
    taken = []
    left = most
    for sequence in sequences:
        if sequence.generating:
            continue
        added, position, pending = 0, sequence.position, sequence.pending
        while pending:
            chunk = min(chunk_tokens - position % chunk_tokens, pending)
            if chunk > left and not (progress and left == most):
                break
            added, position, pending, left = added + chunk, position + chunk, pending - chunk, left - chunk
        if added:
            taken.append((sequence.ticket, added))
        if pending:
            break
    return taken


def by_arrival(sequences: Iterable[SequenceView]) -> list[SequenceView]:
    """Oldest first."""
    return sorted(sequences, key=lambda sequence: sequence.order)
