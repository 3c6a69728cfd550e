"""What the next step does: a pure function of (state, budget).

Invariants:
- Online work is placed before any batch work is considered, so batch can only use what online leaves: free slots, and
  time. Time is what lies between the moment each online sequence's next token would be out if batch did nothing from
  now on (:func:`forecast`) and the moment it is due: batch work is added while the *predicted* step, with the margin
  that the latency model has learnt, moves no token past its due time.
- Tenants share what online work gets (:mod:`~antiphon.engine.scheduling.tenant_shares`); with one tenant, or none
  named, requests are served in order of arrival.
- Nobody is delayed for nothing: beside online work batch takes part only where that is worth it
  (:func:`worth_a_delay`).
- No step is longer for batch's sake than somebody who arrives meanwhile may wait.
- Batch sequences that find no place keep their KV; when online needs their slot, those with the least computed are kept
  in host memory.

The planner knows no clock and no service level: both are in the due times that it is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from antiphon.engine.api.messages import Priority
from antiphon.engine.scheduling.forecast import forecast, oldest_first, prompt_seconds
from antiphon.engine.scheduling.latency_model import LatencyModel, StepTimes
from antiphon.engine.scheduling.tenant_shares import (
    by_tenant,
    entitled,
    least_served,
    next_for_a_slot,
    sharing_a_call,
    slot_to_give_up,
    take_first,
)

_WORTH = 0.05
"""Of what a batch token costs, prompt included, the least share that riding along has to save."""


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
        due: seconds from now until its next token is due; infinite when nobody waits for it.
        batch_until: seconds from now until which batch may hold that token up: at most ``due``.
        pressed: it is batch whose deadline is near, and takes all the time that online leaves it.
        tenant: whose it is.
        scored: the logits of each token of its prompt are wanted, which takes longer.
    """

    ticket: int
    priority: Priority
    order: int
    position: int
    pending: int
    generating: bool
    place: str
    due: float = inf
    batch_until: float = inf
    pressed: bool = False
    tenant: str = ""
    scored: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Everything a plan depends on.

    Attributes:
        slack_elsewhere: seconds by which the other models of this process could be held up now; infinite when none
            of them serves anybody online.
        interruptible: a call that computes batch sequences alone gives way to who arrives.
        leaves_gaps: of late there was time with nobody online, so that batch can wait for it.
        batch_prompt: prompt tokens that batch computes for each token that it generates.
        service: seconds that each tenant has had, where several have online work.
    """

    sequences: tuple[SequenceView, ...]
    slots: int
    chunk_tokens: int
    model: StepTimes = field(default_factory=LatencyModel)
    slack_elsewhere: float = inf
    interruptible: bool = False
    leaves_gaps: bool = True
    batch_prompt: float = 0.0
    service: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of one step.

    Attributes:
        step_seconds: predicted length up to which prompts of online requests are computed beside the tokens of others.
        arrival_seconds: predicted length up to which batch work is added: who arrives meanwhile waits for the step.
        online_prefill_tokens: most prompt tokens of online requests in one step, so that a long prompt does not
            hold up the others' tokens.
    """

    step_seconds: float = 0.1
    arrival_seconds: float = 0.25
    online_prefill_tokens: int = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """The next step, in this order: keep, admit, prefill, decode.

    Attributes:
        keep: resident batch sequences whose state moves to host memory.
        admit: waiting or kept sequences that get a slot.
        prefill: (sequence, tokens) computed alone, chunk by chunk.
        decode: generating sequences that take part in the shared decode call.
        predicted_seconds: of the whole step.
    """

    keep: tuple[int, ...] = ()
    admit: tuple[int, ...] = ()
    prefill: tuple[tuple[int, int], ...] = ()
    decode: tuple[int, ...] = ()
    predicted_seconds: float = 0.0


Planner = Callable[[State, Budget], Plan]
"""What decides a step; :func:`plan` is ours."""


def plan(state: State, budget: Budget) -> Plan:
    """Decide the next step.

    Raises:
        Nothing; an empty state gives an empty plan. With any sequence present, the plan makes progress, unless all of
        them are batch's and there is somebody online elsewhere.
    """
    keep, admit = place(state)
    moved, kept = set(admit), set(keep)
    present = [
        sequence
        for sequence in state.sequences
        if sequence.ticket in moved or (sequence.place == "resident" and sequence.ticket not in kept)
    ]
    online = oldest_first(sequence for sequence in present if sequence.priority == "online")
    batch = oldest_first(sequence for sequence in present if sequence.priority == "batch")

    step = _Step(state)
    slack = add_online(step, online, budget, state)
    slack = min(slack, state.slack_elsewhere)
    alone = not online and state.slack_elsewhere == inf
    longest = inf if alone and state.interruptible else max(budget.arrival_seconds, step.seconds)
    limit = min(step.seconds + max(slack, 0.0), longest)
    if state.model.mixed:
        add_batch_mixed(step, batch, limit)
    else:
        if not alone and not worth_a_delay(state, shared=bool(online)):
            batch = [sequence for sequence in batch if sequence.pressed]
        add_batch(step, batch, limit, beside=bool(online))
    return Plan(
        keep=tuple(keep),
        admit=tuple(admit),
        prefill=tuple(step.prefill.items()),
        decode=tuple(step.decode),
        predicted_seconds=step.seconds,
    )


def place(state: State) -> tuple[list[int], list[int]]:
    """Assign slots: to online work in order of arrival, tenant by tenant, at the cost of the batch sequences that have
    least to copy, or of a tenant that has several where another has none; then to batch, oldest first, what is free.
    Nothing is kept and admitted in the same plan.

    Returns:
        Tickets to keep in host memory and tickets to admit.
    """
    resident = [sequence for sequence in state.sequences if sequence.place == "resident"]
    absent = oldest_first(sequence for sequence in state.sequences if sequence.place != "resident")
    free = state.slots - len(resident)
    evictable = sorted(
        (sequence for sequence in resident if sequence.priority == "batch"),
        key=lambda sequence: (-sequence.position, sequence.order),
    )
    keep: list[int] = []
    admit: list[int] = []
    online = [sequence for sequence in resident if sequence.priority == "online"]
    waiting = by_tenant(
        (sequence for sequence in absent if sequence.priority == "online"),
        lambda sequence: (sequence.order >= 0, sequence.place == "waiting", sequence.order),
    )
    held = Counter(sequence.tenant for sequence in online)
    while waiting:
        if free == 0 and evictable:
            keep.append(evictable.pop().ticket)
            free += 1
        if free == 0:
            waiting = {tenant: queue for tenant, queue in waiting.items() if not held[tenant]}
            other = slot_to_give_up(online, held) if waiting else None
            if other is None:
                break
            online.remove(other)
            held[other.tenant] -= 1
            keep.append(other.ticket)
            free += 1
        sequence = next_for_a_slot((queue[-1] for queue in waiting.values()), held, state.service)
        take_first(waiting, sequence.tenant)
        held[sequence.tenant] += 1
        admit.append(sequence.ticket)
        free -= 1
    # What was begun holds memory: it comes before what was not.
    batch = sorted(
        (sequence for sequence in absent if sequence.priority == "batch"),
        key=lambda sequence: sequence.place == "waiting",
    )
    admit.extend(sequence.ticket for sequence in batch[:free])
    return keep, admit


def add_online(step: _Step, online: Sequence[SequenceView], budget: Budget, state: State) -> float:
    """One token for everybody who generates, and the oldest prompts' next chunks. When a prompt has less time left than
    those who generate, and they can wait for one more chunk, it is computed first.

    Returns:
        Seconds by which batch may hold everything up now; negative when a token will be late in any case, infinite
        when none is due.
    """
    expected = forecast(online, state.model, state.chunk_tokens, budget)
    spare = {sequence.ticket: sequence.due - expected[sequence.ticket] for sequence in online}
    turn = entitled(online, state.service)
    generating = sharing_a_call(online, turn)
    prompts = [sequence for sequence in turn if not sequence.generating]
    waiting = by_tenant(prompts, lambda sequence: sequence.order)
    least = min((spare[sequence.ticket] for sequence in generating), default=inf)
    hurried = min((spare[sequence.ticket] for sequence in prompts), default=inf) < least
    chunk = state.model.feed(state.chunk_tokens, 0)
    if not (hurried and least > 2 * chunk):
        for sequence in generating:
            step.add_decode(sequence, inf)
    left = budget.online_prefill_tokens
    service = dict(state.service)
    while waiting and left > 0:
        sequence = least_served((queue[-1] for queue in waiting.values()), service)
        before, first = step.seconds, left == budget.online_prefill_tokens
        # Among tenants a chunk each in turn; of one tenant a prompt is computed as far as it may be.
        most = min(left, state.chunk_tokens) if service else left
        added = step.add_chunks(sequence, budget.step_seconds, most, first_free=first)
        left -= added
        if not service or not added or step.prefill[sequence.ticket] == sequence.pending:
            take_first(waiting, sequence.tenant)
        if service:
            service[sequence.tenant] = service.get(sequence.tenant, 0.0) + step.seconds - before
    return min((sequence.batch_until - expected[sequence.ticket] for sequence in online), default=inf)


def add_batch(step: _Step, batch: Sequence[SequenceView], limit: float, *, beside: bool) -> None:
    """Fill the step up to ``limit`` seconds.

    With nobody online prompts go first, so that every decode call is as full as it can be.

    Beside online work all batch sequences take part in a decode call that runs for online anyway, or none: one delay of
    many tokens costs nobody more than many delays of one, and the first to be added to a call are the dearest. A prompt
    is computed only when no sequence is left that could decode: a call of batch's own takes as long now as in the next
    gap.
    """
    limit /= step.excess
    generating = [sequence for sequence in batch if sequence.generating]
    prompt = next((sequence for sequence in batch if not sequence.generating), None)
    if prompt is not None and not (beside and generating):
        step.add_chunks(prompt, limit, prompt.pending, first_free=False)
    elif not beside:
        for sequence in generating:
            step.add_decode(sequence, limit)
    elif step.decode:
        step.add_together(generating, limit)


def worth_a_delay(state: State, *, shared: bool) -> bool:
    """Whether batch work beside online work is worth a delay.

    What batch takes beside online work, the next gap is shorter by: a delay alone gains nothing. What can be gained is
    what a decode call costs whatever is in it, which tokens that ride along do not pay. On an accelerator that is most
    of a batch token's cost; where computing is what takes time, next to nothing of it. Where gaps hardly ever come,
    batch cannot wait for them, and any time is gained. So it is for batch whose deadline is near.

    Args:
        shared: the calls that run for online are this model's, so that batch sequences can ride along.
    """
    if not state.leaves_gaps:
        return True
    batch = [sequence for sequence in state.sequences if sequence.priority == "batch"]
    if not batch or not shared:
        return False
    model, count = state.model, min(len(batch), state.slots)
    context = round(count * sum(sequence.position for sequence in batch) / len(batch))
    call = model.decode(count, context)
    saved = call / count - (model.decode(count + 1, context) - call)
    prompt = state.batch_prompt * model.feed(state.chunk_tokens, 0) / state.chunk_tokens
    return saved >= _WORTH * (call / count + prompt)


def add_batch_mixed(step: _Step, batch: Sequence[SequenceView], limit: float) -> None:
    """:func:`add_batch` where prompts and tokens share one call: tokens first, which cost least, and prompts beside
    them, which would pay for a call of their own alone."""
    limit /= step.excess
    for sequence in batch:
        if sequence.generating:
            step.add_decode(sequence, limit)
    for sequence in batch:
        if not sequence.generating:
            step.add_chunks(sequence, limit, sequence.pending, first_free=False)


def online_slack(state: State, budget: Budget) -> float:
    """What :func:`add_online` returns, for who asks from elsewhere."""
    online = oldest_first(sequence for sequence in state.sequences if sequence.priority == "online")
    expected = forecast(online, state.model, state.chunk_tokens, budget)
    return min((sequence.batch_until - expected[sequence.ticket] for sequence in online), default=inf)


class _Step:
    """The step under construction. ``seconds`` is what it is predicted to take."""

    def __init__(self, state: State) -> None:
        self._model = state.model
        self._chunk_tokens = state.chunk_tokens
        self.excess = state.model.excess
        self.prefill: dict[int, int] = {}
        self.decode: list[int] = []
        self._feeding = self._decoding = 0.0
        self._context = 0

    @property
    def seconds(self) -> float:
        """What the step is predicted to take; a step of nothing takes none."""
        return 0.0 if self.empty else self._model.step + self._feeding + self._decoding

    @property
    def empty(self) -> bool:
        return not self.decode and not self.prefill

    def add_decode(self, sequence: SequenceView, limit: float) -> bool:
        """Decode the sequence, with the forced tokens before it, if the step stays inside ``limit``.

        A step is never empty because nothing fits: its first piece of work may be longer than any positive limit.
        """
        run = sequence.pending if sequence.pending > 1 else 0
        context = self._context + sequence.position
        decoding = self._model.decode(len(self.decode) + 1, context)
        feeding = self._feeding + self._model.feed(run, sequence.position)
        if self._model.step + feeding + decoding > limit and not (self.empty and limit > 0):
            return False
        self.decode.append(sequence.ticket)
        self._context, self._decoding, self._feeding = context, decoding, feeding
        if run:
            self.prefill[sequence.ticket] = run
        return True

    def add_together(self, sequences: Sequence[SequenceView], limit: float) -> None:
        """Decode all of the sequences, if the step stays inside ``limit``, or none."""
        before = self.decode.copy(), self.prefill.copy(), self._context, self._decoding, self._feeding
        if not all(self.add_decode(sequence, limit) for sequence in sequences):
            self.decode, self.prefill, self._context, self._decoding, self._feeding = before

    def add_chunks(self, sequence: SequenceView, limit: float, most: int, *, first_free: bool) -> int:
        """Add the prompt's next chunks while they fit ``limit`` and ``most`` tokens; returns the tokens added."""
        added, already = 0, self.prefill.get(sequence.ticket, 0)
        position, pending = sequence.position + already, sequence.pending - already
        while pending:
            chunk = min(self._chunk_tokens - position % self._chunk_tokens, pending)
            seconds = prompt_seconds(self._model, sequence, chunk, position)
            fits = self._model.step + self._feeding + self._decoding + seconds <= limit and added + chunk <= most
            if not fits and (added or not (first_free or (self.empty and limit > 0))):
                break
            self._feeding += seconds
            added, position, pending = added + chunk, position + chunk, pending - chunk
        if added:
            self.prefill[sequence.ticket] = self.prefill.get(sequence.ticket, 0) + added
        return added
