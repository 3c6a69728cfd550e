"""The engine as it would be without batch work: a queue in virtual time on the latency model.

What an online request takes without batch cannot be measured while batch runs. So every online request also goes
through this twin, whose steps are planned by the same function and take as long as the model predicts. Its time is that
of predicted work (:mod:`~antiphon.engine.scheduling.work_clock`).

Invariant: the twin is never ahead of the clock it is given. How long an output will be it knows no better than anybody
else: a request leaves it after as many tokens as requests had of late, so that what is slow for batch's sake in reality
does not stay in the twin as well, and make everybody else there slow; and comes back when the real one writes more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from antiphon.engine.scheduling.forecast import forecast, oldest_first, prompt_seconds
from antiphon.engine.scheduling.latency_model import StepTimes
from antiphon.engine.scheduling.scheduler import Budget, Plan, SequenceView, State, plan
from antiphon.engine.scheduling.tenant_shares import TenantShares


@dataclass(slots=True)
class _Virtual:
    ticket: int
    order: int
    arrived: float
    position: int
    pending: int
    most: int
    generating: bool = False
    resident: bool = False
    tenant: str = ""
    scored: bool = False
    times: list[float] = field(default_factory=list)

    @property
    def pace(self) -> float:
        """Seconds a token, over those that it has after its first."""
        return (self.times[-1] - self.times[0]) / max(len(self.times) - 1, 1)

    def view(self) -> SequenceView:
        place = "resident" if self.resident else "waiting"
        return SequenceView(
            self.ticket,
            "online",
            self.order,
            self.position,
            self.pending,
            self.generating,
            place,
            tenant=self.tenant,
            scored=self.scored,
        )


class Twin:
    """One model's online requests without batch work."""

    def __init__(self, slots: int, chunk_tokens: int) -> None:
        self._slots = slots
        self._chunk_tokens = chunk_tokens
        self._present: dict[int, _Virtual] = {}
        self._written: dict[int, _Virtual] = {}
        """Those that have all their tokens, and whose real requests go on."""
        self._clock = 0.0
        self._expected: dict[int, float] | None = None
        self._shares = TenantShares()

    def arrive(
        self,
        ticket: int,
        now: float,
        *,
        position: int,
        pending: int,
        most: int,
        order: int | None = None,
        tenant: str = "",
        scored: bool = False,
    ) -> None:
        """A request arrives: ``position`` tokens of its prompt are kept already, ``pending`` are to be computed, and it
        is expected to write ``most``. Smaller ``order`` goes first; by ticket unless said."""
        if not self._present:
            self._clock = max(self._clock, now)
        placed = ticket if order is None else order
        self._present[ticket] = _Virtual(ticket, placed, now, position, pending, most, tenant=tenant, scored=scored)
        self._shares.arrived(tenant)
        self._expected = None

    def goes_on(self, ticket: int, most: int) -> None:
        """The real request has written as much as was expected of it, and goes on: it is expected to write ``most``.

        If it had gone here, it comes back with the tokens that it would have written meanwhile at its pace.
        """
        if ticket in self._present:
            self._present[ticket].most = most
        elif ticket in self._written:
            virtual = self._written.pop(ticket)
            virtual.most = most
            last, pace = virtual.times[-1], virtual.pace
            while pace > 0 and last + pace <= self._clock and len(virtual.times) < most - 1:
                last += pace
                virtual.times.append(last)
                virtual.position += 1
            self._present[ticket] = virtual
            self._shares.arrived(virtual.tenant)
            self._expected = None

    def leave(self, ticket: int) -> None:
        """The real request has ended."""
        virtual = self._present.pop(ticket, None)
        if virtual is not None:
            self._shares.left(virtual.tenant)
        self._written.pop(ticket, None)
        self._expected = None

    def advance(self, now: float, model: StepTimes, budget: Budget) -> None:
        """Run every step that would have ended by now."""
        while self._present:
            here = [each for each in self._present.values() if each.arrived <= self._clock]
            if not here:
                self._clock = min(each.arrived for each in self._present.values())
                if self._clock > now:
                    return
                continue
            views = tuple(each.view() for each in here)
            state = State(views, self._slots, self._chunk_tokens, model, service=self._shares.service)
            decided = plan(state, budget)
            if self._clock + decided.predicted_seconds > now:
                return
            self._run(decided, model)

    def out(self, ticket: int, token: int, model: StepTimes, budget: Budget) -> float:
        """When a request's token (counted from 0) was out, or is expected to be."""
        virtual = self._present.get(ticket) or self._written.get(ticket)
        if virtual is None:
            return self._clock
        if token < len(virtual.times):
            return virtual.times[token]
        if virtual.ticket not in self._present:
            # The real one writes more than was expected of it: at the pace of the last ones.
            return virtual.times[-1] + virtual.pace * (token - len(virtual.times) + 1)
        if self._expected is None:
            views = oldest_first(each.view() for each in self._present.values())
            self._expected = dict(forecast(views, model, self._chunk_tokens, budget))
        return self._clock + self._expected[ticket]

    def _run(self, decided: Plan, model: StepTimes) -> None:
        self._expected = None
        for ticket in decided.keep:
            self._present[ticket].resident = False
        for ticket in decided.admit:
            self._present[ticket].resident = True
        clock = self._clock + model.step
        begun: list[tuple[_Virtual, float]] = []
        for ticket, tokens in decided.prefill:
            each, left, before = self._present[ticket], tokens, clock
            while left:
                chunk = min(self._chunk_tokens - each.position % self._chunk_tokens, left)
                clock += prompt_seconds(model, each.view(), chunk, each.position)
                each.position, each.pending, left = each.position + chunk, each.pending - chunk, left - chunk
            self._shares.charge(each.tenant, clock - before)
            if not each.pending:
                each.generating, each.pending = True, 1
                begun.append((each, clock))
        present = self._present
        decoding = [present[ticket] for ticket in decided.decode if ticket in present]
        took = model.decode(len(decoding), sum(each.position for each in decoding))
        clock += took
        for each in decoding:
            self._shares.charge(each.tenant, took / len(decoding))
        for each, out in begun:
            self._out(each, clock if model.mixed else out)
        for each in decoding:
            each.position += 1
            self._out(each, clock)
        self._clock = clock

    def _out(self, each: _Virtual, clock: float) -> None:
        each.times.append(clock)
        if len(each.times) >= each.most:
            self._written[each.ticket] = self._present.pop(each.ticket)
            self._shares.left(each.tenant)
