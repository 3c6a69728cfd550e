"""Decides the next step: a pure function of (state, budget).

Invariants:
- Online work is placed before any batch work is considered, so batch can only use what online leaves: free slots, and
  time. That time lies between the moment each online sequence's next token would be out if batch did nothing from now
  on (:func:`forecast`) and the moment it is due: batch work is added while the *predicted* step, with the margin that
  the latency model has learnt, moves no token past its due time.
- Tenants share what online work gets (:mod:`~antiphon.engine.scheduling.tenant_shares`); with one tenant, or none
  named, requests are served in order of arrival.
- Batch work is co-scheduled with online work only where that saves time (:func:`should_coschedule`).
- Batch work makes no step longer than a request that arrives meanwhile may wait.
- Batch sequences without a turn keep their KV cache; when online work needs their slots, those with the least computed
  are swapped out.

The planner knows no clock and no service level: both are in the due times that it is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf

from antiphon.engine.scheduling.latency_model import StepTimes
from antiphon.engine.scheduling.state import SchedulerState, SequenceView, StepBudget, StepPlan, oldest_first
from antiphon.engine.scheduling.tenant_shares import (
    by_tenant,
    entitled,
    least_served,
    next_for_a_slot,
    sharing_a_call,
    slot_to_give_up,
    take_first,
)

_LEAST_SAVING = 0.05
"""Least share of a batch token's cost, prompt included, that joining an online call has to save."""


def plan(state: SchedulerState, budget: StepBudget) -> StepPlan:
    """Decide the next step.

    An empty state gives an empty plan. With any sequence present the plan makes progress, unless all of them are batch
    and another model of this process serves online requests.
    """
    swap_out, admit = assign_slots(state)
    admitted, leaving = set(admit), set(swap_out)
    present = [
        sequence
        for sequence in state.sequences
        if sequence.ticket in admitted or (sequence.residency == "resident" and sequence.ticket not in leaving)
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
        if not alone and not should_coschedule(state, shared=bool(online)):
            batch = [sequence for sequence in batch if sequence.urgent]
        add_batch(step, batch, limit, beside=bool(online))
    return StepPlan(
        swap_out=tuple(swap_out),
        admit=tuple(admit),
        prefill=tuple(step.prefill.items()),
        decode=tuple(step.decode),
        predicted_seconds=step.seconds,
    )


def assign_slots(state: SchedulerState) -> tuple[list[int], list[int]]:
    """Assign slots: to online work in order of arrival, tenant by tenant, at the cost of the batch sequences that have
    least to copy, or of a tenant that has several where another has none; then free slots to batch, oldest first.
    No sequence is swapped out and admitted in the same plan.

    Returns:
        Tickets to swap out and tickets to admit.
    """
    resident = [sequence for sequence in state.sequences if sequence.residency == "resident"]
    absent = oldest_first(sequence for sequence in state.sequences if sequence.residency != "resident")
    free = state.slots - len(resident)
    evictable = sorted(
        (sequence for sequence in resident if sequence.priority == "batch"),
        key=lambda sequence: (-sequence.position, sequence.order),
    )
    swap_out: list[int] = []
    admit: list[int] = []
    online = [sequence for sequence in resident if sequence.priority == "online"]
    waiting = by_tenant(
        (sequence for sequence in absent if sequence.priority == "online"),
        lambda sequence: (sequence.order >= 0, sequence.residency == "waiting", sequence.order),
    )
    held = Counter(sequence.tenant for sequence in online)
    while waiting:
        if free == 0 and evictable:
            swap_out.append(evictable.pop().ticket)
            free += 1
        if free == 0:
            waiting = {tenant: queue for tenant, queue in waiting.items() if not held[tenant]}
            other = slot_to_give_up(online, held) if waiting else None
            if other is None:
                break
            online.remove(other)
            held[other.tenant] -= 1
            swap_out.append(other.ticket)
            free += 1
        sequence = next_for_a_slot((queue[-1] for queue in waiting.values()), held, state.service)
        take_first(waiting, sequence.tenant)
        held[sequence.tenant] += 1
        admit.append(sequence.ticket)
        free -= 1
    # A sequence that was begun holds memory: it comes before one that was not.
    batch = sorted(
        (sequence for sequence in absent if sequence.priority == "batch"),
        key=lambda sequence: sequence.residency == "waiting",
    )
    admit.extend(sequence.ticket for sequence in batch[:free])
    return swap_out, admit


def add_online(step: _Step, online: Sequence[SequenceView], budget: StepBudget, state: SchedulerState) -> float:
    """Add one token of every generating sequence, and the oldest prompts' next chunks. When a prompt has less time left
    than those that generate, and they can wait for one more chunk, it is computed first.

    Returns:
        Seconds by which batch may delay the step now; negative when a token will be late in any case, infinite when
        none is due.
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
            took = (step.seconds - before) / sequence.share
            service[sequence.tenant] = service.get(sequence.tenant, 0.0) + took
    return min((sequence.batch_deadline - expected[sequence.ticket] for sequence in online), default=inf)


def add_batch(step: _Step, batch: Sequence[SequenceView], limit: float, *, beside: bool) -> None:
    """Fill the step up to ``limit`` seconds.

    Without online work prompts go first, so that every decode call is as full as it can be.

    Beside online work all batch sequences join a decode call that runs for online anyway, or none: one delay of many
    tokens costs no more than many delays of one, and the first sequences added to a call are the dearest. A prompt is
    computed only when no sequence is left that could decode: a call of batch's own takes as long now as in the next
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


def should_coschedule(state: SchedulerState, *, shared: bool) -> bool:
    """Decide if co-scheduling batch work with online work saves time.

    Time that batch takes beside online work is missing in the next gap: a delay alone gains nothing. The gain is the
    fixed cost of a decode call, which tokens that join one do not pay. On an accelerator that is most of a batch
    token's cost; where computing dominates, next to nothing. Where gaps are rare, batch cannot wait for them, and any
    time is gained. The same holds for urgent batch work.

    Args:
        shared: the calls that run for online are this model's, so that batch sequences can join them.
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
    prompt = state.batch_prompt_ratio * model.feed(state.chunk_tokens, 0) / state.chunk_tokens
    return saved >= _LEAST_SAVING * (call / count + prompt)


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


def online_slack(state: SchedulerState, budget: StepBudget) -> float:
    """Seconds by which other models may delay this one now: the return value of :func:`add_online` without a step."""
    online = oldest_first(sequence for sequence in state.sequences if sequence.priority == "online")
    expected = forecast(online, state.model, state.chunk_tokens, budget)
    return min((sequence.batch_deadline - expected[sequence.ticket] for sequence in online), default=inf)


def forecast(
    online: Sequence[SequenceView], model: StepTimes, chunk_tokens: int, budget: StepBudget
) -> Mapping[int, float]:
    """Forecast each sequence's next token, in seconds from now, as if these sequences were alone from now on.

    The rules are those of :func:`add_online`, step after step, except that no
    sequence starts or ends to generate on the way and that tenants are served in order of arrival: their turns change
    which request waits, not how much there is to compute.
    """
    generating = [sequence for sequence in online if sequence.generating]
    # The fixed cost of a step, and the tokens of those that generate.
    tokens = model.step + model.decode(len(generating), sum(sequence.position for sequence in generating))
    forced = sum(model.feed(each.pending, each.position) for each in generating if each.pending > 1)
    found: dict[int, float] = {}
    clock = spent = forced
    left = budget.online_prefill_tokens
    first_step: float | None = None
    for sequence in online:
        if sequence.generating:
            continue
        position, pending = sequence.position, sequence.pending
        while pending:
            chunk = min(chunk_tokens - position % chunk_tokens, pending)
            seconds = prompt_seconds(model, sequence, chunk, position)
            full = left < budget.online_prefill_tokens and (
                chunk > left or spent + tokens + seconds > budget.step_seconds
            )
            if full:
                clock += tokens
                first_step = clock if first_step is None else first_step
                spent, left = 0.0, budget.online_prefill_tokens
            clock, spent, left = clock + seconds, spent + seconds, left - chunk
            position, pending = position + chunk, pending - chunk
        found[sequence.ticket] = clock + (tokens if model.mixed else 0.0)
    first_step = clock + tokens if first_step is None else first_step
    for sequence in generating:
        found[sequence.ticket] = first_step
    return found


def prompt_seconds(model: StepTimes, sequence: SequenceView, tokens: int, context: int) -> float:
    """Seconds that so many tokens of a sequence's prompt add."""
    return model.score(tokens, context) if sequence.scored else model.feed(tokens, context)


class _Step:
    """The step under construction."""

    def __init__(self, state: SchedulerState) -> None:
        self._model = state.model
        self._chunk_tokens = state.chunk_tokens
        self.excess = state.model.excess
        self.prefill: dict[int, int] = {}
        self.decode: list[int] = []
        self._feeding = self._decoding = 0.0
        self._context = 0

    @property
    def seconds(self) -> float:
        """Predicted seconds of the step; 0 for an empty one."""
        return 0.0 if self.empty else self._model.step + self._feeding + self._decoding

    @property
    def empty(self) -> bool:
        return not self.decode and not self.prefill

    def add_decode(self, sequence: SequenceView, limit: float) -> bool:
        """Decode the sequence, with the forced tokens before it, if the step stays inside ``limit``.

        The first piece of work may be longer than any positive limit, so that a step is never empty because nothing
        fits.
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
