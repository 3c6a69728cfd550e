"""Twin queue: the engine as it would be without batch work, in virtual time on the latency model.

The time an online request takes without batch work cannot be measured while batch runs. So every online request also
goes through this twin, whose steps are planned by the same function and take as long as the model predicts. Its time is
that of predicted work (:mod:`~antiphon.engine.scheduling.pacing`).

Invariant: the twin is never ahead of the clock it is given. It does not know the length of an output: a request leaves
it after as many tokens as recent requests had, so that a request that batch work slows down in reality does not stay in
the twin as well and slow the others there; it comes back when the real request writes more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from antiphon.engine.scheduling.latency_model import StepTimes
from antiphon.engine.scheduling.scheduler import forecast, plan, prompt_seconds
from antiphon.engine.scheduling.state import SchedulerState, SequenceView, StepBudget, StepPlan, oldest_first
from antiphon.engine.scheduling.tenant_shares import TenantShares


@dataclass(slots=True)
class _VirtualRequest:
    view: SequenceView
    arrived: float
    most: int
    times: list[float] = field(default_factory=list)

    @property
    def pace(self) -> float:
        """Seconds per token after the first."""
        return (self.times[-1] - self.times[0]) / max(len(self.times) - 1, 1)

    def change(self, **fields: Any) -> None:
        self.view = replace(self.view, **fields)


class Twin:
    """One model's online requests without batch work."""

    def __init__(self, slots: int, chunk_tokens: int) -> None:
        self._slots = slots
        self._chunk_tokens = chunk_tokens
        self._present: dict[int, _VirtualRequest] = {}
        self._written: dict[int, _VirtualRequest] = {}
        """Requests that have all their expected tokens, while the real ones go on."""
        self._clock = 0.0
        self._expected: dict[int, float] | None = None
        self._shares = TenantShares()

    def add(self, new: SequenceView, now: float, most: int) -> None:
        """Add a request that arrives: ``position`` tokens of its prompt are cached, ``pending`` are to be computed,
        and it is expected to write ``most``."""
        if not self._present:
            self._clock = max(self._clock, now)
        self._present[new.ticket] = _VirtualRequest(new, now, most)
        self._shares.arrived(new.tenant, new.share)
        self._expected = None

    def extend(self, ticket: int, most: int) -> None:
        """Expect ``most`` tokens of a request that has written as many as were expected and goes on.

        If it has left the twin, it comes back with the tokens that it would have written meanwhile at its pace.
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
                virtual.change(position=virtual.view.position + 1)
            self._present[ticket] = virtual
            self._shares.arrived(virtual.view.tenant, virtual.view.share)
            self._expected = None

    def remove(self, ticket: int) -> None:
        """Remove a request whose real one has ended."""
        virtual = self._present.pop(ticket, None)
        if virtual is not None:
            self._shares.left(virtual.view.tenant)
        self._written.pop(ticket, None)
        self._expected = None

    def advance(self, now: float, model: StepTimes, budget: StepBudget) -> None:
        """Run every step that would have ended by now."""
        while self._present:
            here = [each for each in self._present.values() if each.arrived <= self._clock]
            if not here:
                self._clock = min(each.arrived for each in self._present.values())
                if self._clock > now:
                    return
                continue
            views = tuple(each.view for each in here)
            state = SchedulerState(views, self._slots, self._chunk_tokens, model, service=self._shares.service)
            step = plan(state, budget)
            if self._clock + step.predicted_seconds > now:
                return
            self._run(step, model)

    def token_time(self, ticket: int, token: int, model: StepTimes, budget: StepBudget) -> float:
        """The moment at which a request's token (counted from 0) was out, or is expected to be."""
        virtual = self._present.get(ticket) or self._written.get(ticket)
        if virtual is None:
            return self._clock
        if token < len(virtual.times):
            return virtual.times[token]
        if ticket not in self._present:
            # The real request writes more than expected: at the pace of its last tokens.
            return virtual.times[-1] + virtual.pace * (token - len(virtual.times) + 1)
        if self._expected is None:
            views = oldest_first(each.view for each in self._present.values())
            self._expected = dict(forecast(views, model, self._chunk_tokens, budget))
        return self._clock + self._expected[ticket]

    def _run(self, step: StepPlan, model: StepTimes) -> None:
        self._expected = None
        for ticket in step.swap_out:
            self._present[ticket].change(residency="waiting")
        for ticket in step.admit:
            self._present[ticket].change(residency="resident")
        clock = self._clock + model.step
        started: list[tuple[_VirtualRequest, float]] = []
        for ticket, tokens in step.prefill:
            each, left, before = self._present[ticket], tokens, clock
            position = each.view.position
            while left:
                chunk = min(self._chunk_tokens - position % self._chunk_tokens, left)
                clock += prompt_seconds(model, each.view, chunk, position)
                position, left = position + chunk, left - chunk
            each.change(position=position, pending=each.view.pending - tokens)
            self._shares.charge(each.view.tenant, clock - before)
            if not each.view.pending:
                each.change(generating=True, pending=1)
                started.append((each, clock))
        present = self._present
        decoding = [present[ticket] for ticket in step.decode if ticket in present]
        took = model.decode(len(decoding), sum(each.view.position for each in decoding))
        clock += took
        for each in decoding:
            self._shares.charge(each.view.tenant, took / len(decoding))
        for each, out in started:
            self._record(each, clock if model.mixed else out)
        for each in decoding:
            each.change(position=each.view.position + 1)
            self._record(each, clock)
        self._clock = clock

    def _record(self, each: _VirtualRequest, clock: float) -> None:
        each.times.append(clock)
        if len(each.times) >= each.most:
            self._written[each.view.ticket] = self._present.pop(each.view.ticket)
            self._shares.left(each.view.tenant)
