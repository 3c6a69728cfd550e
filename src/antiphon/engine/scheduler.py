"""What the next step does: a pure function of (state, budget).

Invariant: online work is placed before any batch work is considered, so batch can only use what online leaves:
free slots, and time up to the budget while the latency model predicts that the step stays inside it. Batch
sequences that find no place keep their KV; when online needs their slot, the youngest are kept in host memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from antiphon.engine.latency_model import LatencyModel, StepShape
from antiphon.engine.messages import Priority


@dataclass(frozen=True, slots=True)
class SequenceView:
    """One sequence as the scheduler sees it.

    Attributes:
        order: arrival number; smaller is older.
        position: tokens already in its KV.
        pending: tokens that wait to be computed: the rest of the prompt, or one sampled token and what the
            grammar forced after it.
        generating: the prompt is done. A generating sequence takes part in decode steps.
        place: ``waiting`` (never started), ``resident`` (has a slot) or ``kept`` (state in host memory).
    """

    ticket: int
    priority: Priority
    order: int
    position: int
    pending: int
    generating: bool
    place: str


@dataclass(frozen=True, slots=True)
class State:
    """Everything a plan depends on. ``online_elsewhere``: another model of this process serves online work now."""

    sequences: tuple[SequenceView, ...]
    slots: int
    chunk_tokens: int
    model: LatencyModel = field(default_factory=LatencyModel)
    online_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of one step.

    Attributes:
        step_seconds: predicted length up to which batch work may be added to a step that serves online work.
        idle_step_seconds: the same when there is none; an arriving request waits for the step in flight.
        online_prefill_tokens: most prompt tokens of online requests in one step, so that a long prompt does not
            hold up the others' tokens.
    """

    step_seconds: float = 0.1
    idle_step_seconds: float = 0.25
    online_prefill_tokens: int = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """The next step, in this order: keep, admit, prefill, decode.

    Attributes:
        keep: resident batch sequences whose state moves to host memory.
        admit: waiting or kept sequences that get a slot.
        prefill: (sequence, tokens) computed alone, chunk by chunk.
        decode: generating sequences that take part in the shared decode call.
        paused: resident batch sequences that sit this step out.
        predicted_seconds: of the whole step.
    """

    keep: tuple[int, ...] = ()
    admit: tuple[int, ...] = ()
    prefill: tuple[tuple[int, int], ...] = ()
    decode: tuple[int, ...] = ()
    paused: tuple[int, ...] = ()
    predicted_seconds: float = 0.0


class _Step:
    """The step under construction."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.prefill: dict[int, int] = {}
        self.decode: list[int] = []
        self._prefill_tokens = 0
        self._context_tokens = 0

    def predicted(self, *, decodes: int = 0, prefill_tokens: int = 0, context_tokens: int = 0) -> float:
        return self._state.model.predict(
            StepShape(
                len(self.decode) + decodes,
                self._prefill_tokens + prefill_tokens,
                self._context_tokens + context_tokens,
            )
        )

    @property
    def empty(self) -> bool:
        return not self.decode and not self.prefill

    def add_decode(self, sequence: SequenceView, limit: float) -> bool:
        """Decode the sequence, with the forced tokens before it, if the step stays inside ``limit``."""
        run = sequence.pending if sequence.pending > 1 else 0
        fits = self.predicted(decodes=1, prefill_tokens=run, context_tokens=sequence.position) <= limit
        if not fits and not self.empty:
            return False
        self.decode.append(sequence.ticket)
        self._context_tokens += sequence.position
        if run:
            self._add_prefill(sequence.ticket, run, 0)
        return True

    def add_chunks(self, sequence: SequenceView, limit: float, most: int, *, first_free: bool) -> int:
        """Add the prompt's next chunks while they fit ``limit`` and ``most`` tokens; returns the tokens added."""
        added = 0
        position, pending = sequence.position, sequence.pending
        while pending:
            chunk = min(self._state.chunk_tokens - position % self._state.chunk_tokens, pending)
            fits = self.predicted(prefill_tokens=chunk, context_tokens=position) <= limit and added + chunk <= most
            if not fits and not (first_free and not added) and not self.empty:
                break
            self._add_prefill(sequence.ticket, chunk, position)
            added, position, pending = added + chunk, position + chunk, pending - chunk
        return added

    def _add_prefill(self, ticket: int, tokens: int, context: int) -> None:
        self.prefill[ticket] = self.prefill.get(ticket, 0) + tokens
        self._prefill_tokens += tokens
        self._context_tokens += context


def plan(state: State, budget: Budget) -> Plan:
    """Decide the next step.

    Raises:
        Nothing; an empty state gives an empty plan. With any sequence present, the plan makes progress.
    """
    keep, admit = _place(state)
    moved = set(admit)
    present = [
        sequence
        for sequence in state.sequences
        if sequence.ticket in moved or (sequence.place == "resident" and sequence.ticket not in keep)
    ]
    online = _oldest_first(sequence for sequence in present if sequence.priority == "online")
    batch = _oldest_first(sequence for sequence in present if sequence.priority == "batch")
    limit = budget.step_seconds if online or state.online_elsewhere else budget.idle_step_seconds

    step = _Step(state)
    for sequence in online:
        if sequence.generating:
            step.add_decode(sequence, float("inf"))
    left = budget.online_prefill_tokens
    for sequence in online:
        if not sequence.generating and left > 0:
            left -= step.add_chunks(sequence, limit, left, first_free=left == budget.online_prefill_tokens)
    paused = []
    # Beside online work a batch token is cheap in a decode step that runs anyway. Without it nobody waits for a
    # token, and computing the prompts first makes every decode step as full as it can be.
    for sequence in sorted(batch, key=lambda sequence: sequence.generating != bool(online)):
        if not sequence.generating:
            added = step.add_chunks(sequence, limit, sequence.pending, first_free=False) > 0
        else:
            added = bool(online or not step.prefill) and step.add_decode(sequence, limit)
        if not added:
            paused.append(sequence.ticket)
    return Plan(
        keep=tuple(keep),
        admit=tuple(admit),
        prefill=tuple(step.prefill.items()),
        decode=tuple(step.decode),
        paused=tuple(paused),
        predicted_seconds=step.predicted(),
    )


def _place(state: State) -> tuple[list[int], list[int]]:
    """Who gets a slot: online in order of arrival, at the cost of the youngest batch sequences; then batch, oldest
    first, into what is free. Nothing is kept and admitted in the same plan for batch's own sake."""
    resident = [sequence for sequence in state.sequences if sequence.place == "resident"]
    absent = _oldest_first(sequence for sequence in state.sequences if sequence.place != "resident")
    free = state.slots - len(resident)
    evictable = _oldest_first(sequence for sequence in resident if sequence.priority == "batch")
    keep: list[int] = []
    admit: list[int] = []
    for sequence in absent:
        if sequence.priority != "online":
            continue
        if free == 0 and evictable:
            keep.append(evictable.pop().ticket)
            free += 1
        if free == 0:
            break
        admit.append(sequence.ticket)
        free -= 1
    batch = [sequence for sequence in absent if sequence.priority == "batch"]
    admit.extend(sequence.ticket for sequence in batch[:free])
    return keep, admit


def _oldest_first(sequences: Iterable[SequenceView]) -> list[SequenceView]:
    return sorted(sequences, key=lambda sequence: sequence.order)
