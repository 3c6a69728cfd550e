"""Keeps stored answers fresh: after a publication, in idle time, the most demanded ones first.

Invariants:
- An answer is made anew only when its figures print otherwise than when it was made; one that would come out the same
  is confirmed without an engine.
- One answer at a time, and none while the engine has other batch work: jobs come first, and online always does.
- A round is bounded by what the application declares, and ends with the next publication. It begins once all requests
  from before its publication have been read: who asked in the last moment is asked for as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from antiphon.batch.demand import Demand, EntityDemand
from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, EngineError, OverloadedError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import EngineDescription
from antiphon.governance.identity.principal import Principal
from antiphon.serving.request import Answer, AnswerRequest

_log = logging.getLogger("antiphon.worker")

PRINCIPAL = "answers-refresher"
"""The principal of its requests, which policy may forbid. It is cleared for everything, because its answers are served
only where nothing is masked."""

HALF_LIVES = 4.0
"""Interval of past requests that a starting worker reads for demand: older ones would count a sixteenth."""

MOST_REQUESTS = 50_000
"""Requests read in one look."""

FEW = 8
"""Answers between two looks at publications."""

BEHIND = timedelta(seconds=2)
"""Receipts are stamped before they are committed: what is younger may still come."""


class AnswerSources(msgspec.Struct, frozen=True):
    """Dependencies of refreshed answers.

    Attributes:
        applications: names of those that have a live release. ``live``: that release.
        publication: the number of the current one, ``None`` before the first.
        describe: the engine's load.
    """

    applications: Callable[[Scope], Sequence[str]]
    live: Callable[[Scope, str], Release | None]
    publication: Callable[[Scope], int | None]
    receipts: Receipts
    texts: Blobs
    answer: Callable[[AnswerRequest], Awaitable[Answer]]
    describe: Callable[[], Awaitable[EngineDescription]]


class RefreshedCounts(msgspec.Struct, frozen=True):
    """Counts of the entities of all rounds so far: answers made anew, confirmed as they were, failed."""

    made: int = 0
    confirmed: int = 0
    failed: int = 0


class _ApplicationDemand(msgspec.Struct):
    demand: Demand
    seen: datetime
    refreshed: tuple[str, int] | None = None
    """Release and publication of the last round."""
    due: tuple[tuple[str, int], datetime] | None = None
    """Release and publication of the next round, and when they were first seen."""
    waiting: deque[EntityDemand] = msgspec.field(default_factory=deque)

    def begins(self, current: tuple[str, int], now: datetime) -> bool:
        """Tells if a round begins, with this release and publication or with those that were seen before them."""
        if self.due is None and self.refreshed != current:
            self.due = current, now
        if self.due is None or self.seen < self.due[1]:
            return False
        self.refreshed, self.due = self.due[0], None
        return True


class RefreshedAnswers:
    """Follows the demand of one scope and refreshes answers round by round.

    Args:
        half_life: of demand.
        every: seconds between looks at publications and requests while an application has refreshed answers.
        poll: seconds between looks while none has.
        wakeup: rings after a publication and when a release goes live.
        demand: tells otherwise than by decayed counts what will be asked for; a benchmark compares.
    """

    def __init__(
        self,
        scope: Scope,
        parts: AnswerSources,
        clock: Clock,
        *,
        half_life: timedelta,
        every: float = 2.0,
        poll: float | None = None,
        wakeup: Wakeup | None = None,
        demand: Callable[[], Demand] | None = None,
    ) -> None:
        self._scope = scope
        self._parts = parts
        self._clock = clock
        self._half_life = half_life
        self._every = every
        self._poll = every if poll is None else poll
        self._wakeup = wakeup or Wakeup()
        self._demand = demand or (lambda: Demand(half_life.total_seconds()))
        self._followed: dict[str, _ApplicationDemand] = {}
        self._principal = Principal(PRINCIPAL, scope.tenant, "service", clearance="restricted")
        self.counts = RefreshedCounts()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Refresh until ``stop``; what fails is tried again with the next look."""
        said = ""
        with self._wakeup as wakeup:
            while not stop.is_set():
                refreshed = 0
                try:
                    for name in await asyncio.to_thread(self.look):
                        refreshed += await self._some(name, stop)
                    said = ""
                except AntiphonError as error:
                    if str(error) != said:
                        said = str(error)
                        _log.warning("Answers cannot be refreshed now: %s", said)
                if not refreshed:
                    pause = self._every if self._followed or said else wakeup.rested(self._poll)
                    await wakeup.wait_until(stop, pause, found=False)

    def look(self) -> list[str]:
        """Reads the demand, starts rounds where a publication is new; returns applications with answers to refresh."""
        waiting: list[str] = []
        publication = self._parts.publication(self._scope)
        for name in self._parts.applications(self._scope):
            release = self._parts.live(self._scope, name)
            bound = 0 if release is None else release.bundle.application.reuse.refreshed
            if release is None or not bound:
                self._followed.pop(name, None)
                continue
            followed = self._read(name)
            now = self._clock.now()
            if publication is not None and followed.begins((release.id, publication), now):
                followed.waiting = deque(followed.demand.greatest(bound, now.timestamp()))
            if followed.waiting:
                waiting.append(name)
        return waiting

    async def step(self, application: str) -> bool:
        """Refresh one entity's answer; ``False`` when none of this application waits.

        Raises:
            UnavailableError, EngineError, OverloadedError: it waits still.
        """
        followed = self._followed.get(application)
        if followed is None or not followed.waiting:
            return False
        entity = followed.waiting[0]
        try:
            request = await asyncio.to_thread(self._request, application, entity)
            answer = await self._parts.answer(request)
        except (UnavailableError, EngineError, OverloadedError):
            raise
        except AntiphonError as error:
            _log.info("The answer about a demanded entity of %s is not refreshed: %s", application, error)
            self._count(failed=1)
        else:
            generated = answer.receipt.cache.origin == "generated"
            self._count(made=generated, confirmed=not generated)
        if followed.waiting and followed.waiting[0] is entity:
            followed.waiting.popleft()
        return True

    async def _some(self, application: str, stop: asyncio.Event) -> int:
        """Refresh a few answers of an application; then it is looked whether a publication is new."""
        before = self.counts.made
        done = 0
        while done < FEW and not stop.is_set() and await self._idle() and await self.step(application):
            done += 1
        made = self.counts.made - before
        if made:
            _log.info("Made %d demanded answers of %s anew, because figures have changed.", made, application)
        return done

    async def _idle(self) -> bool:
        described = await self._parts.describe()
        load = described.load
        return described.stopped is None and load.running_batch + load.waiting_batch == 0

    def _read(self, application: str) -> _ApplicationDemand:
        now = self._clock.now() - BEHIND
        followed = self._followed.get(application)
        if followed is None:
            followed = _ApplicationDemand(self._demand(), now - HALF_LIVES * self._half_life)
            self._followed[application] = followed
        if now <= followed.seen:
            return followed
        for one in self._parts.receipts.demanded(self._scope, application, followed.seen, now, MOST_REQUESTS):
            followed.demand.add(one.subject, one.prediction, one.created_at.timestamp())
        followed.seen = now
        return followed

    def _request(self, application: str, demand: EntityDemand) -> AnswerRequest:
        """The newest question about the entity, asked again as of now."""
        receipt = self._parts.receipts.get(self._scope, demand.prediction)

        def text(blob: str) -> bytes:
            return self._parts.texts.get(self._scope, blob)

        inputs: dict[str, Any] = {} if receipt.inputs_blob is None else msgspec.json.decode(text(receipt.inputs_blob))
        return AnswerRequest(
            scope=self._scope,
            principal=self._principal,
            application=application,
            entity=msgspec.json.decode(text(receipt.entity_blob), type=dict[str, str]),
            inputs=inputs,
            question=None if receipt.question_blob is None else text(receipt.question_blob).decode(),
            path="batch",
            refresh=True,
            spare=True,
        )

    def _count(self, *, made: int = 0, confirmed: int = 0, failed: int = 0) -> None:
        counts = self.counts
        self.counts = RefreshedCounts(counts.made + made, counts.confirmed + confirmed, counts.failed + failed)
