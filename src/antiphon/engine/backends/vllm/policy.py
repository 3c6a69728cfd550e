"""Our step policy for an engine that owns its requests: the requests of its next pass, and their tokens.

It is the policy of our own loop: :func:`~antiphon.engine.scheduling.scheduler.plan` on due times from
:class:`~antiphon.engine.scheduling.pacing.Pacer`. Here it gets what a plan needs from an engine whose requests, slots
and memory are not ours: numbers of arrival, instants of tokens, measured passes.

It knows nothing of vLLM, so it is tested without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

from antiphon.engine.api.messages import Priority
from antiphon.engine.backends.vllm.forward_model import ForwardModel, ForwardPass
from antiphon.engine.scheduling.pacing import Pacer
from antiphon.engine.scheduling.scheduler import plan
from antiphon.engine.scheduling.service_level import ServiceLevel
from antiphon.engine.scheduling.state import SchedulerState, SequenceView, StepBudget

BUDGET = StepBudget(step_seconds=0.25, arrival_seconds=0.25)
"""A pass has a price of its own, so that prompts in many small pieces are dear: they may take as long as an arrival may
wait."""


@dataclass(frozen=True, slots=True)
class RequestView:
    """One request as the engine sees it now.

    Attributes:
        id: the engine's own.
        computed: tokens in its KV, or in a pass that is under way.
        pending: tokens that wait to be computed: 1 while it generates.
        emitted: tokens generated, the one in a pass under way included.
        running: it holds a slot.
    """

    id: str
    computed: int
    pending: int
    emitted: int
    running: bool


@dataclass(frozen=True, slots=True)
class PassPlan:
    """The next pass.

    Attributes:
        tokens: most tokens of each request; 0 leaves it out.
        preempt: running batch requests whose slots online requests need.
        batch_requested: batch tokens that a scheduler without our policy would have put into the pass, as far as its
            slots and its budget of tokens reach.
        batch_granted: batch tokens that ours allows.
        throttled: batch requests that get fewer tokens than requested.
        slack_seconds: delay of the pass that batch work may cause; infinite when no online request waits.
        predicted_seconds: of the pass.
    """

    tokens: Mapping[str, int]
    preempt: tuple[str, ...]
    batch_requested: int
    batch_granted: int
    throttled: tuple[str, ...]
    slack_seconds: float
    predicted_seconds: float


@dataclass(slots=True)
class _RequestState:
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
        self.pacer = Pacer(slots, chunk_tokens)
        self._slots = slots
        self._chunk_tokens = chunk_tokens
        self._budget = StepBudget(BUDGET.step_seconds, BUDGET.arrival_seconds, pass_tokens)
        self._known: dict[str, _RequestState] = {}
        self._next = 1

    def __contains__(self, id: str) -> bool:
        return id in self._known

    def add(
        self, id: str, priority: Priority, level: ServiceLevel | None, now: float, *, prompt_tokens: int, most: int
    ) -> None:
        """Add a request that has arrived and may write ``most`` tokens."""
        self._known[id] = _RequestState(self._next, priority)
        if priority == "online":
            new = SequenceView(self._next, priority, self._next, 0, prompt_tokens, False, "waiting")
            self.pacer.add(new, level, now, most)
        self._next += 1

    def observe_tokens(self, id: str, tokens: int, now: float) -> None:
        """Note that a request has ``tokens`` tokens by now."""
        known = self._known[id]
        if tokens > known.emitted:
            known.emitted, known.last_token = tokens, now
            if known.first_token is None:
                known.first_token = now

    def remove(self, id: str, tokens: int, now: float) -> None:
        """Remove a request that has ended, with its count of tokens; an unknown one is ignored."""
        if id not in self._known:
            return
        self.observe_tokens(id, tokens, now)
        known = self._known.pop(id)
        if known.priority == "online":
            self.pacer.remove(
                known.ticket, known.emitted, known.first_token, known.last_token, self.model, self._budget
            )

    def observe_pass(self, forward: ForwardPass, begin: float, end: float, predicted: float) -> None:
        """Learn from a pass that ran from ``begin`` to ``end``, and was predicted to take so many seconds."""
        self.pacer.observe_call(begin, end, predicted)
        self.model = self.model.observe(forward, end - begin)

    def decide(self, unfinished: Iterable[RequestView], now: float, begins: float) -> PassPlan:
        """Decide the next pass, which begins at ``begins``: now, or when the pass under way ends."""
        present = {self._known[each.id].ticket: each for each in unfinished}
        self.pacer.advance(now, self.model, self._budget)
        views = [self._view(ticket, each, begins) for ticket, each in present.items()]
        state = SchedulerState(tuple(views), self._slots, self._chunk_tokens, self.model)
        step_plan = plan(state, self.pacer.budget(self._budget))
        tokens = {each.id: 0 for each in present.values()}
        tokens |= {present[ticket].id: 1 for ticket in step_plan.decode}
        tokens |= {present[ticket].id: count for ticket, count in step_plan.prefill}
        requested, throttled = self._by_priority_alone(present, tokens)
        granted = sum(tokens[each.id] for each in present.values() if self._known[each.id].priority == "batch")
        return PassPlan(
            tokens,
            tuple(present[ticket].id for ticket in step_plan.swap_out),
            requested,
            granted,
            throttled,
            min((view.batch_deadline for view in views), default=inf),
            step_plan.predicted_seconds,
        )

    def _view(self, ticket: int, each: RequestView, begins: float) -> SequenceView:
        known = self._known[each.id]
        due = batch_deadline = inf
        if known.priority == "online":
            first = known.first_token
            if first is None and each.emitted:
                first = begins  # In the pass under way.
            due, batch_deadline = self.pacer.due(ticket, each.emitted, first, self.model, self._budget)
        return SequenceView(
            ticket,
            known.priority,
            ticket,
            each.computed,
            each.pending,
            each.computed > 0 and each.pending == 1,
            "resident" if each.running else "waiting",
            due - begins,
            batch_deadline - begins,
        )

    def _by_priority_alone(
        self, present: Mapping[int, RequestView], tokens: Mapping[str, int]
    ) -> tuple[int, tuple[str, ...]]:
        """Batch tokens that priority alone would have granted, and the requests that get less."""
        left = self._budget.online_prefill_tokens
        slots = self._slots - sum(1 for each in present.values() if each.running)
        requested = 0
        throttled = []
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
                requested += share
                if tokens[each.id] < share:
                    throttled.append(each.id)
        return requested, tuple(throttled)
