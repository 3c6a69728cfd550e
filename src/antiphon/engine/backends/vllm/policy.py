"""Our step policy for an engine that keeps its own requests: who takes part in its next pass, and with how many tokens.

It is the policy of our own loop: :func:`~antiphon.engine.scheduling.scheduler.plan` on due times from
:class:`~antiphon.engine.scheduling.pacing.Pacing`. Here it gets what a plan needs from an engine whose requests, slots
and memory are not ours: numbers of arrival, instants of tokens, measured passes.

It knows nothing of vLLM, so it is tested without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

from antiphon.engine.api.messages import Priority
from antiphon.engine.backends.vllm.forward_model import Forward, ForwardModel
from antiphon.engine.scheduling.pacing import Pacing
from antiphon.engine.scheduling.scheduler import Budget, SequenceView, State, plan
from antiphon.engine.scheduling.service_level import ServiceLevel

BUDGET = Budget(step_seconds=0.25, arrival_seconds=0.25)
"""A pass has a price of its own, so that prompts in many small pieces are dear: they may take as long as an arrival may
wait."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """One request as the engine sees it now.

    Attributes:
        id: the engine's own.
        computed: tokens in its KV, or in a pass that is under way.
        pending: tokens that wait to be computed: 1 for who generates.
        emitted: tokens generated, the one in a pass under way included.
        running: it holds a slot.
    """

    id: str
    computed: int
    pending: int
    emitted: int
    running: bool


@dataclass(frozen=True, slots=True)
class Allowed:
    """A decision.

    Attributes:
        tokens: most tokens of each request in the next pass; 0 leaves it out.
        evict: running batch requests whose slots online requests need.
        batch_wanted, batch_given: tokens of batch that a scheduler without our policy would have put into the pass as
        far
            as its slots and its budget of tokens reach, and what ours allows.
        held: batch requests that get fewer than that.
        slack_seconds: by how much batch may hold the pass up; infinite when nobody online waits.
        predicted_seconds: of the pass.
    """

    tokens: Mapping[str, int]
    evict: tuple[str, ...]
    batch_wanted: int
    batch_given: int
    held: tuple[str, ...]
    slack_seconds: float
    predicted_seconds: float


@dataclass(slots=True)
class _Known:
    ticket: int
    priority: Priority
    first_token: float | None = None
    emitted: int = 0
    last_token: float = 0.0


class StepPolicy:
    """The policy over one engine's requests. Instants are seconds of one monotonic clock.

    Args:
        slots: requests that may run at once.
        chunk_tokens: the grain in which prompts are cut.
        pass_tokens: most tokens of one pass.
    """

    def __init__(self, slots: int, chunk_tokens: int, pass_tokens: int) -> None:
        self.model = ForwardModel()
        self.pacing = Pacing(slots, chunk_tokens)
        self._slots = slots
        self._chunk_tokens = chunk_tokens
        self._budget = Budget(BUDGET.step_seconds, BUDGET.arrival_seconds, pass_tokens)
        self._known: dict[str, _Known] = {}
        self._next = 1

    def __contains__(self, id: str) -> bool:
        return id in self._known

    def arrived(
        self, id: str, priority: Priority, level: ServiceLevel | None, now: float, *, prompt_tokens: int, most: int
    ) -> None:
        """A request has arrived, which may write ``most`` tokens."""
        self._known[id] = _Known(self._next, priority)
        if priority == "online":
            self.pacing.arrived(self._next, level, now, position=0, pending=prompt_tokens, most=most)
        self._next += 1

    def emitted(self, id: str, tokens: int, now: float) -> None:
        """So many tokens of a request are out by now, in all."""
        known = self._known[id]
        if tokens > known.emitted:
            known.emitted, known.last_token = tokens, now
            if known.first_token is None:
                known.first_token = now

    def ended(self, id: str, tokens: int, now: float) -> None:
        """A request has ended, with so many tokens; one that is not known is ignored."""
        if id not in self._known:
            return
        self.emitted(id, tokens, now)
        known = self._known.pop(id)
        if known.priority == "online":
            self.pacing.ended(
                known.ticket, known.emitted, known.first_token, known.last_token, self.model, self._budget
            )

    def measured(self, forward: Forward, begin: float, end: float, predicted: float) -> None:
        """A pass ran from ``begin`` to ``end``, and was predicted to take so many seconds."""
        self.pacing.ran(begin, end, predicted)
        self.model = self.model.observe(forward, end - begin)

    def decide(self, unfinished: Iterable[Unfinished], now: float, begins: float) -> Allowed:
        """Who may take part in the next pass, which begins at ``begins``: now, or when the pass under way ends."""
        present = {self._known[each.id].ticket: each for each in unfinished}
        self.pacing.advance(now, self.model, self._budget)
        views = [self._view(ticket, each, begins) for ticket, each in present.items()]
        state = State(tuple(views), self._slots, self._chunk_tokens, self.model)
        decided = plan(state, self.pacing.budget(self._budget))
        tokens = {each.id: 0 for each in present.values()}
        tokens |= {present[ticket].id: 1 for ticket in decided.decode}
        tokens |= {present[ticket].id: count for ticket, count in decided.prefill}
        wanted, held = self._unruled(present, tokens)
        given = sum(tokens[each.id] for each in present.values() if self._known[each.id].priority == "batch")
        return Allowed(
            tokens,
            tuple(present[ticket].id for ticket in decided.keep),
            wanted,
            given,
            held,
            min((view.batch_until for view in views), default=inf),
            decided.predicted_seconds,
        )

    def _view(self, ticket: int, each: Unfinished, begins: float) -> SequenceView:
        known = self._known[each.id]
        due = until = inf
        if known.priority == "online":
            first = known.first_token
            if first is None and each.emitted:
                first = begins  # In the pass under way.
            due, until = self.pacing.due(ticket, each.emitted, first, self.model, self._budget)
        return SequenceView(
            ticket,
            known.priority,
            ticket,
            each.computed,
            each.pending,
            each.computed > 0 and each.pending == 1,
            "resident" if each.running else "waiting",
            due - begins,
            until - begins,
        )

    def _unruled(self, present: Mapping[int, Unfinished], tokens: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
        """What batch would have got by priority alone, and who gets less now."""
        left = self._budget.online_prefill_tokens
        slots = self._slots - sum(1 for each in present.values() if each.running)
        wanted = 0
        held = []
        by_turn = sorted(
            present.items(),
            key=lambda item: (not item[1].running, self._known[item[1].id].priority != "online", item[0]),
        )
        for _, each in by_turn:
            if not each.running:
                slots -= 1
            share = min(each.pending, left) if slots >= 0 else 0
            left -= share
            if self._known[each.id].priority == "batch":
                wanted += share
                if tokens[each.id] < share:
                    held.append(each.id)
        return wanted, tuple(held)
