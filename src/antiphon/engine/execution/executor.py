"""One model's sequences; carries out plans.

Invariants:
- The order of a step is fixed: states moved out, slots given, prompts and forced runs each in calls of their
  own, then one shared call that decodes one token of everybody who generates. So what a sequence computes, and
  in which shape, depends on itself alone.
- A call that computes batch sequences alone gives way to whoever arrives: it is not begun when somebody waits to be
  taken in, and given up when somebody comes meanwhile. What was given up is as if it had not begun.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol

from antiphon.core.errors import AntiphonError, EngineError
from antiphon.engine.api.failures import failure_of
from antiphon.engine.api.messages import Delta, GenerationResult, RequestFailure, TextEmbeddings
from antiphon.engine.execution.constrained import Grammars
from antiphon.engine.execution.counters import Counters
from antiphon.engine.execution.prefix_cache import Prefixes
from antiphon.engine.execution.runtime import Interrupted, Kept, Logits, Runtime
from antiphon.engine.execution.sequence import Sequence
from antiphon.engine.execution.slots import Slots
from antiphon.engine.execution.swap_space import KeptStates
from antiphon.engine.scheduling.latency_model import LatencyModel
from antiphon.engine.scheduling.pacing import Pacing
from antiphon.engine.scheduling.recent_work import BatchLengths
from antiphon.engine.scheduling.scheduler import Budget, Plan, Planner, SequenceView, State, online_slack, plan
from antiphon.engine.scheduling.tenant_shares import TenantShares

_AHEAD = 1 << 62
"""Earlier than any arrival: where a request stands that goes ahead of the others."""

Emission = tuple[int, Delta | GenerationResult | TextEmbeddings | RequestFailure]
"""(ticket, what its caller is told)."""


class Held(Protocol):
    """What has made a step."""

    @property
    def latest_step(self) -> tuple[float, float]: ...


class Lane:
    """One model at work.

    Args:
        monotonic: measures calls, and tells when tokens are due.
        share_prefixes: ``False`` computes every prompt in full.
        kept: where sequences are whose slot somebody online has taken; may be shared by lanes.
        planner: decides each step.
        awaited: whether somebody waits to be taken in, so that batch work is not to be begun now.

    Attributes:
        yields_until: while a call computes batch sequences alone, when it is expected to end; read by other threads.
        latest_step: when the latest step began and ended.
    """

    def __init__(
        self,
        runtime: Runtime,
        monotonic: Callable[[], float],
        *,
        share_prefixes: bool = True,
        kept: KeptStates | None = None,
        planner: Planner = plan,
        awaited: Callable[[], bool] = lambda: False,
    ) -> None:
        self.runtime = runtime
        self._awaited = awaited
        self.yields_until: float | None = None
        self.latest_step = (monotonic(), monotonic())
        self._planner = planner
        self.pacing = Pacing(runtime.layout.slots, runtime.layout.chunk_tokens)
        self.grammars = Grammars(runtime.grammar_tokenizer, len(runtime.vocabulary.pieces))
        self.counters = Counters()
        self.latency_model = LatencyModel()
        self._monotonic = monotonic
        self._prefixes = Prefixes() if share_prefixes else None
        self._places = Slots(runtime, kept or KeptStates())
        self._sequences: dict[int, Sequence] = {}
        self._emissions: list[Emission] = []
        self._budget = Budget()
        self._batch_lengths = BatchLengths()
        self._shares = TenantShares()
        self._called = 0.0

    @property
    def name(self) -> str:
        return self.runtime.description.name

    @property
    def resting(self) -> bool:
        """Whether it has let go of its weights."""
        return self.runtime.resting

    @property
    def slots(self) -> int:
        return self.runtime.layout.slots

    def close(self) -> None:
        """Free the model."""
        self.runtime.close()

    def count(self, priority: str, *, waiting: bool) -> int:
        """Sequences of a priority that wait for their first slot, or that have started."""
        return sum(
            1
            for sequence in list(self._sequences.values())
            if sequence.request.priority == priority and (sequence.spent.admitted is None) == waiting
        )

    @property
    def kept_on_disk(self) -> int:
        """Sequences that are on disk; all lanes' where they share the place."""
        return self._places.kept.on_disk

    @property
    def idle(self) -> bool:
        return not self._sequences

    @property
    def serves_online(self) -> bool:
        return any(sequence.request.priority == "online" for sequence in self._sequences.values())

    def add(self, sequence: Sequence) -> None:
        """Take a sequence in; it waits for a slot."""
        self._sequences[sequence.ticket] = sequence
        if sequence.request.priority == "online":
            found = self._kept_beginning(sequence)
            known = found[0] if found is not None else 0
            self.pacing.arrived(
                sequence.ticket,
                sequence.request.level,
                sequence.spent.arrived,
                position=known,
                pending=len(sequence.pending) - known,
                most=sequence.request.max_tokens,
                order=_order(sequence),
                tenant=sequence.request.tenant,
                scored=sequence.scored,
            )
            self._shares.arrived(sequence.request.tenant)
        else:
            self._batch_lengths.came(sequence.prompt_tokens, sequence.request.max_tokens)

    def cancel(self, ticket: int) -> list[Emission]:
        """Free the sequence's slot now; it ends as cancelled with what was generated."""
        sequence = self._sequences.get(ticket)
        if sequence is None:
            return []
        sequence.reason = "cancelled"
        self._show(sequence)
        return self._emitted()

    def fail_all(self, error: AntiphonError) -> list[Emission]:
        """End every sequence with the error and forget what the slots hold."""
        for sequence in list(self._sequences.values()):
            self._fail(sequence, error)
        return self._emitted()

    def step(self, budget: Budget, *, slack_elsewhere: float = inf, leaves_gaps: bool = True) -> list[Emission]:
        """Plan one step, run it and return what callers are to be told.

        Args:
            slack_elsewhere: seconds by which the other lanes can be held up.
            leaves_gaps: batch can wait for a time with nobody online.

        Raises:
            EngineError: the runtime failed; the lane's sequences cannot go on.
        """
        for sequence in [sequence for sequence in self._sequences.values() if sequence.reason is not None]:
            self._show(sequence)  # A grammar that leaves no choice at all needs no step.
        self._budget = budget
        bounds = self.pacing.budget(budget)
        begin, steps = self._monotonic(), self.counters.steps
        self.run(self._planner(self.state(budget, slack_elsewhere=slack_elsewhere, leaves_gaps=leaves_gaps), bounds))
        end = self._monotonic()
        self.counters.busy_seconds += (self.counters.steps > steps) * (end - begin)
        self.latest_step = (begin, end)
        return self._emitted()

    def held_up(self, other: Held) -> None:
        """Another lane has made a step for somebody online, as it would have without batch work."""
        self.pacing.ran(*other.latest_step, 0.0)

    def give_way(self) -> None:
        """Somebody online has arrived: give up the call in flight if it computes batch sequences alone and would keep
        them waiting for longer than they may; from any thread."""
        until = self.yields_until
        if until is not None and until - self._monotonic() > self.pacing.patience:
            self.runtime.interrupt()

    def slack(self, budget: Budget) -> float:
        """Seconds by which this lane can be held up now; infinite when nobody online waits for it."""
        return online_slack(self.state(budget), budget) if self.serves_online else inf

    def state(self, budget: Budget, *, slack_elsewhere: float = inf, leaves_gaps: bool = True) -> State:
        """The scheduler's view, as of now."""
        now, model = self._monotonic(), self.latency_model
        self.pacing.advance(now, model, budget)
        views = []
        for sequence in self._sequences.values():
            place = "resident" if sequence.slot is not None else "kept" if sequence.kept else "waiting"
            due = until = now + inf
            if sequence.request.priority == "online":
                spent = sequence.spent
                due, until = self.pacing.due(sequence.ticket, spent.accepted, spent.first_token, model, budget)
            views.append(
                SequenceView(
                    sequence.ticket,
                    sequence.request.priority,
                    _order(sequence),
                    sequence.position,
                    len(sequence.pending),
                    sequence.generating,
                    place,
                    due - now,
                    until - now,
                    sequence.request.priority == "batch" and sequence.request.ahead,
                    sequence.request.tenant,
                    sequence.scored,
                )
            )
        layout = self.runtime.layout
        return State(
            tuple(views),
            layout.slots,
            layout.chunk_tokens,
            model,
            slack_elsewhere,
            interruptible=True,
            leaves_gaps=leaves_gaps,
            batch_prompt=self._batch_lengths.prompt_per_token,
            service=self._shares.service,
        )

    def run(self, decided: Plan) -> None:
        """Carry out a plan."""
        for ticket in decided.keep:
            self._places.keep(self._sequences[ticket])
        for ticket in decided.admit:
            self._admit(self._sequences[ticket])
        decoding: list[Sequence] = []
        fed = self.counters.prefilled_tokens
        try:
            for ticket, tokens in decided.prefill:
                if ticket in self._sequences:
                    self._prefill(self._sequences[ticket], tokens)
            present = [self._sequences.get(ticket) for ticket in decided.decode]
            decoding = [sequence for sequence in present if sequence is not None and len(sequence.pending) == 1]
            if decoding:
                self._decode(decoding)
        except Interrupted:
            self.counters.interrupted_calls += 1
            self.counters.interrupted_seconds += self._monotonic() - self._called
        prefilled = self.counters.prefilled_tokens - fed
        if decoding or prefilled:
            self.counters.steps += 1

    def _admit(self, sequence: Sequence) -> None:
        try:
            self._places.give(sequence)
        except EngineError as error:
            self._fail(sequence, error)  # The others have theirs.
            return
        if sequence.spent.admitted is None:
            sequence.spent.admitted = self._monotonic()

    def _begin(self, who: list[Sequence], expected: float) -> float:
        """Before a call for some sequences that is expected to take so many seconds: when it begins.

        Raises:
            Interrupted: it would compute batch sequences alone, and somebody waits to be taken in.
        """
        self.runtime.rearm()
        now = self._called = self._monotonic()
        if all(sequence.request.priority == "batch" for sequence in who):
            self.yields_until = now + expected
            # In this order: who comes before the question is seen by it, who comes after it interrupts the call.
            if self._awaited():
                self.yields_until = None
                raise Interrupted
        return now

    def _prefill(self, sequence: Sequence, tokens: int) -> None:
        """Compute up to ``tokens`` pending tokens alone."""
        assert sequence.slot is not None
        if sequence.position == 0:
            self._reuse(sequence, sequence.slot)
        chunk_tokens = self.runtime.layout.chunk_tokens
        done = 0
        while done < tokens and sequence.pending and sequence.reason is None:
            begin = self._monotonic()
            # A prompt's chunks are counted from position 0, a forced run from its own first token.
            room = chunk_tokens if sequence.generating else chunk_tokens - sequence.position % chunk_tokens
            chunk = sequence.pending[:room]
            rest = sequence.pending[room:]
            scoring, model = sequence.scoring, self.latency_model
            expected = (model.score if scoring else model.feed)(len(chunk), sequence.position)
            called = self._begin([sequence], expected)
            try:
                logits = self._feed(sequence, sequence.slot, chunk, want_logits=not rest)
            finally:
                self.yields_until = None
            ended = self._monotonic()
            self._ran(called, ended, expected)
            observe = model.observe_score if scoring else model.observe_feed
            self.latency_model = observe(len(chunk), sequence.position, ended - called)
            self._charge([sequence], ended - called)
            sequence.position += len(chunk)
            sequence.pending = rest
            done += len(chunk)
            self.counters.prefilled_tokens += len(chunk)
            if self._prefixes is not None and sequence.position == sequence.keep_prefix_at:
                self._prefixes.keep(sequence.chain, sequence.position, self.runtime.keep(sequence.slot))
            sequence.spent.engine_seconds += self._monotonic() - begin
            sequence.spent.steps += 1
            if logits is not None:
                self._accept(sequence, logits)
                break

    def _ran(self, begin: float, end: float, expected: float) -> None:
        self.counters.call_seconds += end - begin
        self.pacing.ran(begin, end, expected)

    def _charge(self, computed: list[Sequence], seconds: float) -> None:
        for sequence in computed:
            if sequence.request.priority == "online":
                self._shares.charge(sequence.request.tenant, seconds / len(computed))

    def _feed(self, sequence: Sequence, slot: int, chunk: list[int], *, want_logits: bool) -> Logits | None:
        if not sequence.scoring:
            return self.runtime.feed(slot, sequence.position, chunk, want_logits)
        every = self.runtime.score(slot, sequence.position, chunk)
        sequence.score(sequence.position, every)
        return every[-1] if want_logits else None

    def _reuse(self, sequence: Sequence, slot: int) -> None:
        if self._prefixes is None:
            return
        found = self._kept_beginning(sequence)
        if found is not None:
            tokens, kept = found
            self.runtime.restore(slot, kept)
            sequence.position = tokens
            del sequence.pending[:tokens]
            sequence.spent.cached_tokens = tokens
            self.counters.reused_prefix_tokens += tokens
        sequence.keep_prefix_at = self._prefixes.worth_keeping(sequence.chain)

    def _kept_beginning(self, sequence: Sequence) -> tuple[int, Kept] | None:
        if self._prefixes is None or sequence.scored:  # what is kept of a prompt has no logits
            return None
        return self._prefixes.longest(sequence.chain)

    def _decode(self, sequences: list[Sequence]) -> None:
        begin = self._monotonic()
        ordered = self._places.side_by_side(sequences)
        positions = [sequence.position for _, sequence in ordered]
        expected = self.latency_model.decode(len(ordered), sum(positions))
        called = self._begin(sequences, expected)
        try:
            every = self.runtime.step(
                [slot for slot, _ in ordered], positions, [sequence.pending[0] for _, sequence in ordered]
            )
        finally:
            self.yields_until = None
        now = self._monotonic()
        self._ran(called, now, expected)
        self.latency_model = self.latency_model.observe_decode(len(ordered), sum(positions), now - called)
        self._charge(sequences, now - called)
        share = (now - begin) / len(ordered)
        for (_, sequence), logits in zip(ordered, every, strict=True):
            sequence.position += 1
            sequence.pending = []
            sequence.spent.engine_seconds += share
            sequence.spent.steps += 1
            self._accept(sequence, logits)

    def _accept(self, sequence: Sequence, logits: Logits) -> None:
        before = len(sequence.tokens)
        try:
            sequence.accept(logits)
        except AntiphonError as error:
            self._fail(sequence, error)
            return
        sequence.spent.accepted += 1
        sequence.spent.last_token = self._monotonic()
        if sequence.spent.first_token is None:
            sequence.spent.first_token = sequence.spent.last_token
            before = 0
        generated = len(sequence.tokens) - before
        if sequence.request.priority == "online":
            self.counters.generated_online += generated
        else:
            self.counters.generated_batch += generated
        self._show(sequence)

    def _show(self, sequence: Sequence) -> None:
        delta = sequence.delta()
        if delta is not None:
            self._emissions.append((sequence.ticket, delta))
        if sequence.reason is not None:
            end = sequence.finished(self.runtime.description.fingerprint, self._monotonic())
            self._emissions.append((sequence.ticket, end))
            self._forget(sequence)

    def _fail(self, sequence: Sequence, error: AntiphonError) -> None:
        self._emissions.append((sequence.ticket, failure_of(sequence.request.id, error)))
        self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        self._places.leave(sequence)
        del self._sequences[sequence.ticket]
        if sequence.request.priority == "online":
            spent = sequence.spent
            self._shares.left(sequence.request.tenant)
            self.pacing.ended(
                sequence.ticket, spent.accepted, spent.first_token, spent.last_token, self.latency_model, self._budget
            )
        elif sequence.spent.accepted:  # One that was cancelled before says nothing of how long they are.
            computed = sequence.prompt_tokens - sequence.spent.cached_tokens
            self._batch_lengths.ended(computed, sequence.spent.accepted)

    def _emitted(self) -> list[Emission]:
        emissions, self._emissions = self._emissions, []
        return emissions


def _order(sequence: Sequence) -> int:
    """Smaller goes first."""
    return sequence.ticket - (_AHEAD if sequence.request.ahead else 0)
