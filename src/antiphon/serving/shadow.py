"""Shadow: a candidate answers a request that was answered already, off the user's path.

Invariants: whatever happens to a shadow, the user's answer has left before it begins and nothing of it is raised into
the user's path; what waits and what runs is bounded, and what finds no room is counted, not queued.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable

import msgspec

from antiphon.catalog.releases.rollouts import Assignment, ShadowPair
from antiphon.catalog.serving.receipt import STAND_IN_ROLES
from antiphon.core.clock import Clock
from antiphon.core.errors import DeadlineExceededError
from antiphon.core.logs import described
from antiphon.serving.answering import evidence
from antiphon.serving.answering.context import Arrival
from antiphon.serving.answering.probabilities import outcome_probabilities
from antiphon.serving.history import NO_HISTORY, History
from antiphon.serving.request import Answer, AnswerRequest, DecodingOverrides, MirroredAnswer

_log = logging.getLogger(__name__)


class ShadowLimits(msgspec.Struct, frozen=True):
    """Bounds of the shadow.

    Attributes:
        concurrency: shadows that are answered at once; the engine serves them as it serves batch rows.
        waiting: answered requests that may wait for their shadow; the newest is dropped when there are as many.
        after: seconds between the user's answer and its shadow, so that its last bytes leave first.
        seconds: how long a shadow may take before its pair says that it was not finished in time.
    """

    concurrency: int = 8
    waiting: int = 64
    after: float = 0.05
    seconds: float = 300.0


def mirrored(
    arrival: Arrival, assigned: Assignment, answer: Answer, history: History = NO_HISTORY
) -> AnswerRequest | None:
    """The same question to the candidate; ``None`` when it is not to be mirrored: a candidate is compared with what
    the live release says, not with what stood in for it.

    It has the moment of the answered one, sees at least its publication, and the earlier turns as it showed them. Its
    decoding is the candidate's own. Nobody waits for it, whatever tier the answered one had.
    """
    if assigned.mirror is None or assigned.rollout is None or answer.receipt.role in STAND_IN_ROLES:
        return None
    application = assigned.release.bundle.application
    return msgspec.structs.replace(
        arrival.request,
        request_id=arrival.request_id,
        path="batch",
        tier="default",
        role="shadow",
        release=assigned.mirror.id,
        as_of=answer.receipt.as_of,
        minimum_publication=answer.publication,
        refresh=False,
        overrides=DecodingOverrides(),
        hints={},
        turn=b"",
        prediction=None,
        messages=arrival.request.messages[-1:] if history.turns else arrival.request.messages,
        conversation=None,
        previous=None,
        history=history if history.turns else None,
        mirrors=MirroredAnswer(
            rollout=assigned.rollout,
            prediction=answer.prediction,
            text_blob=answer.receipt.text_blob,
            probabilities=outcome_probabilities(application.shape, answer.receipt.classes, answer.text),
            seconds=answer.receipt.timing.total - answer.receipt.timing.start,
        ),
        spare=True,
    )


async def _at_once() -> None:
    return None


class Shadows:
    """Answers mirrored requests off the user's path, a few at a time.

    Args:
        answer: answers a request and commits its pair with its receipt.
        record: keeps the pair of a request that the candidate had no answer to.
        engine_up: returns once the engine is up: one that nobody needs is not started for a shadow.
        clock: stamps such a pair.

    Attributes:
        counts: of requests to be mirrored: ``offered``, ``dropped``, ``paired`` (answered by both), ``failed``.
    """

    def __init__(
        self,
        answer: Callable[[AnswerRequest], Awaitable[object]],
        record: Callable[[ShadowPair], Awaitable[None]],
        clock: Clock,
        bounds: ShadowLimits,
        engine_up: Callable[[], Awaitable[None]] = _at_once,
    ) -> None:
        self._answer = answer
        self._engine_up = engine_up
        self._record = record
        self._clock = clock
        self._bounds = bounds
        self._waiting: deque[tuple[float, AnswerRequest]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._closing = False
        self.counts = Counter[str]()

    def offer(self, arrival: Arrival, assigned: Assignment, answer: Answer, history: History = NO_HISTORY) -> None:
        """Mirror the request later, when its assignment says so and there is room. Neither waits nor raises."""
        try:
            request = mirrored(arrival, assigned, answer, history)
            if request is None or self._closing:
                return
            self.counts["offered"] += 1
            if len(self._waiting) >= self._bounds.waiting:
                self._drop(1)
                return
            loop = asyncio.get_running_loop()
            self._waiting.append((loop.time() + self._bounds.after, request))
            if len(self._running) < self._bounds.concurrency:
                # In a context of its own: the user's span has ended when the shadow begins.
                task = loop.create_task(self._work(), context=contextvars.Context())
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        except Exception:
            _log.exception("a request cannot be mirrored")

    async def close(self, seconds: float = 5.0) -> None:
        """Take nothing more, and give what waits and runs so long to end; the rest is dropped."""
        self._closing = True
        late: set[asyncio.Task[None]] = set()
        if self._running:
            _, late = await asyncio.wait(set(self._running), timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._drop(len(self._waiting) + len(late))
        self._waiting.clear()

    async def _work(self) -> None:
        while self._waiting:
            due, request = self._waiting.popleft()
            if not self._closing:
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                await self._engine_up()
            await self._mirror(request)

    async def _mirror(self, request: AnswerRequest) -> None:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._bounds.seconds):
                await self._answer(request)
        except TimeoutError:
            await self._fail(request, DeadlineExceededError.code, began)
        except Exception as error:
            code = evidence.code_of(error)
            _log.info("the shadow of request %s fails (%s): %s", request.request_id, code, described(error))
            await self._fail(request, code, began)
        else:
            self.counts["paired"] += 1

    async def _fail(self, request: AnswerRequest, code: str, began: float) -> None:
        self.counts["failed"] += 1
        if request.mirrors is None:
            return
        seconds = time.perf_counter() - began
        try:
            await self._record(evidence.unpaired(request.mirrors, request.scope, code, seconds, self._clock.now()))
        except Exception:
            _log.exception("the pair of prediction %s is not recorded", request.mirrors.prediction)

    def _drop(self, requests: int) -> None:
        if requests and not self.counts["dropped"]:
            _log.warning("more requests are mirrored than the candidate answers; the newest are dropped from now on")
        self.counts["dropped"] += requests
