"""One model's sequences: plans each step, carries it out, and emits what callers receive.

Invariant: the order of a step is fixed: states swapped out, slots given, prompts and forced runs each in calls of their
own, then one shared call that decodes one token of every generating sequence. So the values that a sequence computes,
and the shapes of the calls, depend on itself alone.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from antiphon.core.errors import AntiphonError, EngineError
from antiphon.engine.api.messages import RequestFailure
from antiphon.engine.execution.calls import RuntimeCalls
from antiphon.engine.execution.constrained import Grammars
from antiphon.engine.execution.prefix_cache import PrefixCache
from antiphon.engine.execution.runtime import CallInterruptedError, Logits, Runtime, SequenceState
from antiphon.engine.execution.sequence import Sequence
from antiphon.engine.execution.slots import Slots
from antiphon.engine.execution.step_executor import Counters, Emission
from antiphon.engine.execution.swap_space import SwapSpace
from antiphon.engine.scheduling.pacing import Pacer
from antiphon.engine.scheduling.recent_work import BatchLengths
from antiphon.engine.scheduling.scheduler import online_slack, plan
from antiphon.engine.scheduling.state import Planner, SchedulerState, SequenceView, StepBudget, StepPlan
from antiphon.engine.scheduling.tenant_shares import TenantShares

_AHEAD = 1 << 62
"""Subtracted from the order of a request that goes ahead of the others: earlier than any arrival."""


class ModelExecutor:
    """Implements :class:`~antiphon.engine.execution.step_executor.StepExecutor` for a model that generates.

    Args:
        share_prefixes: ``False`` computes every prompt in full.
        swap_space: holds sequences whose slot an online request has taken; executors may share one.
        online_waiting: says if an online request waits to be added, so that batch work is not to be begun now.
    """

    def __init__(
        self,
        runtime: Runtime,
        monotonic: Callable[[], float],
        *,
        share_prefixes: bool = True,
        swap_space: SwapSpace | None = None,
        planner: Planner = plan,
        online_waiting: Callable[[], bool] = lambda: False,
    ) -> None:
        self.runtime = runtime
        self.name, self.slots = runtime.description.name, runtime.layout.slots
        self.latest_step = (monotonic(), monotonic())
        self.pacer = Pacer(runtime.layout.slots, runtime.layout.chunk_tokens)
        self.grammars = Grammars(runtime.grammar_tokenizer, len(runtime.vocabulary.pieces))
        self.counters = Counters()
        self._shares = TenantShares()
        self.calls = RuntimeCalls(runtime, monotonic, self.pacer, self._shares, self.counters, online_waiting)
        self._planner = planner
        self._monotonic = monotonic
        self._prefix_cache = PrefixCache() if share_prefixes else None
        self._slots = Slots(runtime, swap_space or SwapSpace())
        self._sequences: dict[int, Sequence] = {}
        self._emissions: list[Emission] = []
        self._budget = StepBudget()
        self._batch_lengths = BatchLengths()

    @property
    def resting(self) -> bool:
        """True while the weights are not in memory."""
        return self.runtime.resting

    @property
    def swapped_to_disk(self) -> int:
        """Sequences on disk; those of all executors where they share the swap space."""
        return self._slots.swap_space.on_disk

    @property
    def idle(self) -> bool:
        return not self._sequences

    @property
    def generates(self) -> bool:
        return True

    @property
    def serves_online(self) -> bool:
        return any(sequence.request.priority == "online" for sequence in self._sequences.values())

    def count(self, priority: str, *, waiting: bool) -> int:
        """Sequences of a priority that wait for their first slot, or that have started."""
        return sum(
            1
            for sequence in list(self._sequences.values())
            if sequence.request.priority == priority and (sequence.stats.admitted is None) == waiting
        )

    def close(self) -> None:
        """Free the model."""
        self.runtime.close()

    def add(self, sequence: Sequence) -> None:
        """Add a sequence; it waits for a slot."""
        self._sequences[sequence.ticket] = sequence
        if sequence.request.priority == "online":
            request, found = sequence.request, self._cached_prefix(sequence)
            new = _view(sequence, cached=found[0] if found is not None else 0)
            self.pacer.add(new, request.level, sequence.stats.arrived, request.max_tokens)
            self._shares.arrived(request.tenant, request.share)
        else:
            self._batch_lengths.add(sequence.prompt_tokens, sequence.request.max_tokens)

    def cancel(self, ticket: int) -> list[Emission]:
        """Free the sequence's slot now; it ends as cancelled with the tokens it has."""
        sequence = self._sequences.get(ticket)
        if sequence is None:
            return []
        sequence.reason = "cancelled"
        self._emit(sequence)
        return self._take_emissions()

    def fail_all(self, error: AntiphonError) -> list[Emission]:
        """End every sequence with the error and clear its slot."""
        for sequence in list(self._sequences.values()):
            self._fail(sequence, error)
        return self._take_emissions()

    def step(self, budget: StepBudget, *, slack_elsewhere: float = inf, leaves_gaps: bool = True) -> list[Emission]:
        """Plan one step, execute it and return the events for callers."""
        for sequence in [sequence for sequence in self._sequences.values() if sequence.reason is not None]:
            self._emit(sequence)  # A grammar that leaves no choice at all needs no step.
        self._budget = budget
        bounds = self.pacer.budget(budget)
        begin, steps = self._monotonic(), self.counters.steps
        state = self.state(budget, slack_elsewhere=slack_elsewhere, leaves_gaps=leaves_gaps)
        step_plan = self._planner(state, bounds)
        self._move(step_plan)
        self._compute(step_plan)
        end = self._monotonic()
        self.counters.busy_seconds += (self.counters.steps > steps) * (end - begin)
        self.latest_step = (begin, end)
        return self._take_emissions()

    def state(self, budget: StepBudget, *, slack_elsewhere: float = inf, leaves_gaps: bool = True) -> SchedulerState:
        """The scheduler's input, as of now."""
        now, model = self._monotonic(), self.calls.latency_model
        self.pacer.advance(now, model, budget)
        views = []
        for sequence in self._sequences.values():
            due = batch_deadline = now + inf
            if sequence.request.priority == "online":
                stats = sequence.stats
                due, batch_deadline = self.pacer.due(sequence.ticket, stats.accepted, stats.first_token, model, budget)
            views.append(_view(sequence, due - now, batch_deadline - now))
        layout = self.runtime.layout
        return SchedulerState(
            tuple(views),
            layout.slots,
            layout.chunk_tokens,
            model,
            slack_elsewhere,
            interruptible=True,
            leaves_gaps=leaves_gaps,
            batch_prompt_ratio=self._batch_lengths.prompt_ratio,
            service=self._shares.service,
        )

    def _move(self, step_plan: StepPlan) -> None:
        """Swap sequences out and give slots."""
        for ticket in step_plan.swap_out:
            self._slots.swap_out(self._sequences[ticket])
        for ticket in step_plan.admit:
            sequence = self._sequences[ticket]
            try:
                self._slots.assign(sequence)
            except EngineError as error:
                self._fail(sequence, error)  # The others have theirs.
                continue
            if sequence.stats.admitted is None:
                sequence.stats.admitted = self._monotonic()

    def _compute(self, step_plan: StepPlan) -> None:
        """Compute prompts and forced runs, then one token of every generating sequence."""
        decoding: list[Sequence] = []
        before = self.counters.prefilled_tokens
        try:
            for ticket, tokens in step_plan.prefill:
                if ticket in self._sequences:
                    self._prefill(self._sequences[ticket], tokens)
            present = [self._sequences.get(ticket) for ticket in step_plan.decode]
            decoding = [sequence for sequence in present if sequence is not None and len(sequence.pending) == 1]
            if decoding:
                self._decode(decoding)
        except CallInterruptedError:
            self.counters.interrupted_calls += 1
            self.counters.interrupted_seconds += self._monotonic() - self.calls.began
        self.counters.steps += bool(decoding) or self.counters.prefilled_tokens > before

    def _prefill(self, sequence: Sequence, tokens: int) -> None:
        """Compute up to ``tokens`` pending tokens alone."""
        assert sequence.slot is not None
        if sequence.position == 0:
            self._reuse_prefix(sequence, sequence.slot)
        chunk_tokens = self.runtime.layout.chunk_tokens
        done = 0
        while done < tokens and sequence.pending and sequence.reason is None:
            begin = self._monotonic()
            # A prompt's chunks are counted from position 0, a forced run from its own first token.
            room = chunk_tokens if sequence.generating else chunk_tokens - sequence.position % chunk_tokens
            chunk, rest = sequence.pending[:room], sequence.pending[room:]
            logits = self.calls.prefill(sequence, sequence.slot, chunk, want_logits=not rest)
            sequence.position += len(chunk)
            sequence.pending = rest
            done += len(chunk)
            self.counters.prefilled_tokens += len(chunk)
            if self._prefix_cache is not None and sequence.position in sequence.cache_prefix_at:
                state = self.runtime.copy_state(sequence.slot)
                self._prefix_cache.insert(sequence.prefix_hashes, sequence.position, state)
            sequence.stats.engine_seconds += self._monotonic() - begin
            sequence.stats.steps += 1
            if logits is not None:
                self._accept(sequence, logits)
                break

    def _decode(self, sequences: list[Sequence]) -> None:
        """Compute one token of each sequence in one call."""
        begin = self._monotonic()
        placed = self._slots.make_adjacent(sequences)
        every = self.calls.decode(placed)
        share = (self._monotonic() - begin) / len(placed)
        for (_, sequence), logits in zip(placed, every, strict=True):
            sequence.position += 1
            sequence.pending = []
            sequence.stats.engine_seconds += share
            sequence.stats.steps += 1
            self._accept(sequence, logits)

    def _reuse_prefix(self, sequence: Sequence, slot: int) -> None:
        if self._prefix_cache is None:
            return
        found = self._cached_prefix(sequence)
        if found is not None:
            tokens, state = found
            self.runtime.restore_state(slot, state)
            sequence.position = tokens
            del sequence.pending[:tokens]
            sequence.stats.cached_tokens = tokens
            self.counters.reused_prefix_tokens += tokens
        sequence.cache_prefix_at = self._prefix_cache.cacheable_tokens(
            sequence.prefix_hashes, continues=sequence.request.continues
        )

    def _cached_prefix(self, sequence: Sequence) -> tuple[int, SequenceState] | None:
        if self._prefix_cache is None or sequence.scored:  # A cached prefix has no logits.
            return None
        return self._prefix_cache.lookup(sequence.prefix_hashes)

    def _accept(self, sequence: Sequence, logits: Logits) -> None:
        """Choose the sequence's next token from the logits, and emit it."""
        before, stats = len(sequence.tokens), sequence.stats
        try:
            sequence.accept(logits)
        except AntiphonError as error:
            self._fail(sequence, error)
            return
        stats.accepted += 1
        stats.last_token = self._monotonic()
        if stats.first_token is None:
            stats.first_token = stats.last_token
            before = 0
        generated = len(sequence.tokens) - before
        if sequence.request.priority == "online":
            self.counters.generated_tokens_online += generated
        else:
            self.counters.generated_tokens_batch += generated
        self._emit(sequence)

    def _emit(self, sequence: Sequence) -> None:
        delta = sequence.delta()
        if delta is not None:
            self._emissions.append((sequence.ticket, delta))
        if sequence.reason is not None:
            end = sequence.result(self.runtime.description.fingerprint, self._monotonic())
            self._emissions.append((sequence.ticket, end))
            self._remove(sequence)

    def _fail(self, sequence: Sequence, error: AntiphonError) -> None:
        self._emissions.append((sequence.ticket, RequestFailure.of(sequence.request.id, error)))
        self._remove(sequence)

    def _remove(self, sequence: Sequence) -> None:
        self._slots.remove(sequence)
        del self._sequences[sequence.ticket]
        stats = sequence.stats
        if sequence.request.priority == "online":
            self._shares.left(sequence.request.tenant)
            model = self.calls.latency_model
            self.pacer.remove(sequence.ticket, stats.accepted, stats.first_token, stats.last_token, model, self._budget)
        elif stats.accepted:  # A sequence that was cancelled before its first token has no length.
            self._batch_lengths.remove(sequence.prompt_tokens - stats.cached_tokens, stats.accepted)

    def _take_emissions(self) -> list[Emission]:
        emissions, self._emissions = self._emissions, []
        return emissions

    def observe_online_step(self, begin: float, end: float) -> None:
        """Note that another executor made a step for its online requests, as it would have without batch work."""
        self.pacer.observe_call(begin, end, 0.0)

    def interrupt_batch(self) -> None:
        """Abort a call of batch sequences alone that would keep an online request waiting; from any thread."""
        self.calls.interrupt_batch()

    def slack(self, budget: StepBudget) -> float:
        """Seconds by which this executor can be delayed now; infinite when it has no online request."""
        return online_slack(self.state(budget), budget) if self.serves_online else inf


def _view(sequence: Sequence, due: float = inf, batch_deadline: float = inf, cached: int = 0) -> SequenceView:
    """The sequence as the scheduler sees it, as if ``cached`` more of its tokens were computed."""
    request = sequence.request
    return SequenceView(
        sequence.ticket,
        request.priority,
        sequence.ticket - (_AHEAD if request.ahead else 0),
        sequence.position + cached,
        len(sequence.pending) - cached,
        sequence.generating,
        "resident" if sequence.slot is not None else "swapped" if sequence.swapped_out else "waiting",
        due,
        batch_deadline,
        request.priority == "batch" and request.ahead,
        request.tenant,
        sequence.scored,
        request.share,
    )
