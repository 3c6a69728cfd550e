"""Who runs next: the policies that are compared, behind one small protocol.

``Product`` is the engine's own loop, untouched. The others decide by a pure function of the scheduler's state with
the signature of :func:`antiphon.engine.scheduler.plan`, carried out by the same lane, so that a comparison differs
in decisions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from antiphon.engine.lane import Emission, Lane
from antiphon.engine.runtime import Runtime
from antiphon.engine.scheduler import Budget, Plan, SequenceView, State
from antiphon.engine.step_loop import StepLoop

Emit = Callable[[list[Emission]], None]
Monotonic = Callable[[], float]

ONLINE_PREFILL_TOKENS = Budget().online_prefill_tokens
BATCH_PREFILL_TOKENS = 256
"""Prompt tokens of batch requests in one step for policies without a time budget: one whole prompt."""


class Policy(Protocol):
    """``takes_batch`` is false for the reference that is never offered any."""

    @property
    def name(self) -> str: ...

    @property
    def takes_batch(self) -> bool: ...

    def lane(self, runtime: Runtime, monotonic: Monotonic) -> Lane:
        """What carries out this policy's plans; also in a real engine process."""
        ...

    def loop(self, runtime: Runtime, monotonic: Monotonic, emit: Emit) -> StepLoop:
        """A step loop with one lane that follows this policy."""
        ...


@dataclass(frozen=True, slots=True)
class Product:
    """The engine as it is shipped, under a budget."""

    budget: Budget = field(default_factory=Budget)
    name: str = "ours"
    takes_batch: bool = True

    def lane(self, runtime: Runtime, monotonic: Monotonic) -> Lane:
        return Lane(runtime, monotonic)

    def loop(self, runtime: Runtime, monotonic: Monotonic, emit: Emit) -> StepLoop:
        return StepLoop([self.lane(runtime, monotonic)], self.budget, emit)


class Decided:
    """A policy that is a function of the state. Subclasses give ``name`` and :meth:`plan`."""

    name: str
    takes_batch = True

    def plan(self, state: State, budget: Budget) -> Plan:
        """The next step."""
        raise NotImplementedError

    def lane(self, runtime: Runtime, monotonic: Monotonic) -> Lane:
        return _Uninterrupted(runtime, monotonic, planner=self.plan)

    def loop(self, runtime: Runtime, monotonic: Monotonic, emit: Emit) -> StepLoop:
        return StepLoop([self.lane(runtime, monotonic)], Budget(), emit)


class _Uninterrupted(Lane):
    """No call is given up for an arrival: that is ours alone."""

    def give_way(self) -> None:
        """Nothing: who has arrived waits for the end of the step."""


class StaticCap(Decided):
    """At most ``most`` batch sequences in slots; online first; no time budget."""

    def __init__(self, most: int) -> None:
        self.name = f"static cap {most}"
        self._most = most

    def plan(self, state: State, budget: Budget) -> Plan:
        return online_first(state, most_batch=self._most)


class PriorityOnly(Decided):
    """Online first, batch fills every free slot; no time budget."""

    name = "priority only"

    def plan(self, state: State, budget: Budget) -> Plan:
        return online_first(state, most_batch=state.slots)


class OnlineOnly(Decided):
    """The reference: batch work is never offered."""

    name = "online only"
    takes_batch = False

    def plan(self, state: State, budget: Budget) -> Plan:
        return online_first(state, most_batch=0)


@dataclass(frozen=True, slots=True)
class Placed:
    """Who is in a slot after a plan's moves."""

    keep: tuple[int, ...]
    admit: tuple[int, ...]
    online: tuple[SequenceView, ...]
    batch: tuple[SequenceView, ...]


def placed(state: State, most_batch: int) -> Placed:
    """Slots: online by arrival, over the youngest batch sequences if need be; then batch, oldest first."""
    resident = [sequence for sequence in state.sequences if sequence.place == "resident"]
    absent = by_arrival(sequence for sequence in state.sequences if sequence.place != "resident")
    free = state.slots - len(resident)
    evictable = by_arrival(sequence for sequence in resident if sequence.priority == "batch")
    keep: list[int] = []
    admit: list[SequenceView] = []
    for sequence in absent:
        if sequence.priority == "online":
            if free == 0 and evictable:
                keep.append(evictable.pop().ticket)
                free += 1
            if free == 0:
                break
            admit.append(sequence)
            free -= 1
    waiting = [sequence for sequence in absent if sequence.priority == "batch"]
    admit += waiting[: max(min(free, most_batch - len(evictable)), 0)]
    present = by_arrival([*(sequence for sequence in resident if sequence.ticket not in keep), *admit])
    return Placed(
        tuple(keep),
        tuple(sequence.ticket for sequence in admit),
        tuple(sequence for sequence in present if sequence.priority == "online"),
        tuple(sequence for sequence in present if sequence.priority == "batch"),
    )


def online_first(
    state: State,
    *,
    most_batch: int,
    batch_decodes: int | None = None,
    batch_prefill_tokens: int = BATCH_PREFILL_TOKENS,
    online_prefill_tokens: int = ONLINE_PREFILL_TOKENS,
) -> Plan:
    """All online work, then batch work up to counts, whatever it takes.

    Args:
        most_batch: batch sequences in slots.
        batch_decodes: of those, how many decode in this step (default: all that can).
        batch_prefill_tokens, online_prefill_tokens: prompt tokens in this step, in whole chunks.
    """
    slots = placed(state, most_batch)
    prefill = chunks(slots.online, online_prefill_tokens, state.chunk_tokens, progress=True)
    prefill += chunks(slots.batch, batch_prefill_tokens, state.chunk_tokens, progress=False)
    generating = [sequence.ticket for sequence in slots.batch if sequence.generating]
    return Plan(
        keep=slots.keep,
        admit=slots.admit,
        prefill=tuple(prefill),
        decode=(
            *(sequence.ticket for sequence in slots.online if sequence.generating),
            *generating[: len(generating) if batch_decodes is None else batch_decodes],
        ),
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
