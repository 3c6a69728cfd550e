"""The one client of a server at a URL: its requests, its load, and who may send batch to it.

Gateways and workers reach the server through the process that holds this, so that there is one count of what the server
has and one judgement of how much more it may get.

Invariants:
- Every request ends with exactly one final event, also one that was cancelled before it was sent.
- A cancelled request's connection to the server is closed, and its place is free.
- Batch requests wait here, those ``ahead`` first and otherwise in order of arrival; online requests never do.
- A prompt of batch makes no online request wait in a server that keeps what it has computed of it: it is taken out of
  the server, and sent again. Of a request that has shown something nothing is taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from itertools import count

from msgspec.structs import replace

from antiphon.core.errors import AntiphonError, EngineError, OverloadedError, UnavailableError
from antiphon.engine.api.messages import (
    Delta,
    EngineDescription,
    EngineLoad,
    GenerationRequest,
    GenerationResult,
    GenerationUsage,
    Priority,
    RequestFailure,
    ServedModel,
    TextEmbeddingRequest,
    Tokenization,
    TokenizationRequest,
)
from antiphon.engine.api.port import Sink
from antiphon.engine.backends.remote.admission import SentRequest, UpstreamAdmission
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.backends.remote.model_watch import ModelWatch, PinnedModel, Record
from antiphon.engine.backends.remote.observation import ModelObservation

_log = logging.getLogger("antiphon.engine")

LOOK_SECONDS = 1.0
"""Age of the server's list of models at which it is asked again."""

REPORT_SECONDS = 0.5
"""Interval of reading a server's metrics."""

RETRY_SECONDS = 0.25
"""Interval at which batch requests try again though no request has ended: a pause may be over."""

MOST_PREEMPTIONS = 3
"""Times after which a batch request stays in the server."""

MOST_WAITING = 4096
"""Batch requests that may wait here."""


async def _unrecorded(model: str, seen: ModelObservation | None) -> PinnedModel | None:
    return None


class UpstreamFront:
    """Implements :class:`~antiphon.engine.api.port.EngineCore` over a server; it owns ``upstream``.

    Args:
        record, look_seconds, strict: see :class:`~antiphon.engine.backends.remote.model_watch.ModelWatch`.
        active: whether this process is the one that speaks with the server; another refuses every request.
    """

    def __init__(
        self,
        upstream: RemoteEngine,
        *,
        record: Record = _unrecorded,
        look_seconds: float = 0.0,
        strict: bool = False,
        active: Callable[[], bool] = lambda: True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._active = active
        self._monotonic = monotonic
        self._models = ModelWatch(
            self._stream, upstream.embed, self.describe, record, every=look_seconds, strict=strict, monotonic=monotonic
        )
        upstream.fingerprint = self._models.fingerprint
        self._admission = UpstreamAdmission(preempts=upstream.keeps_prefixes)
        self._tickets = 0
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._waiting: tuple[dict[asyncio.Future[SentRequest], GenerationRequest], ...] = ({}, {}, {})
        """Batch requests that wait, in order: those that were preempted, those ``ahead`` and the others."""
        self._prefilling: dict[SentRequest, asyncio.Future[None]] = {}
        """Batch requests in the server that may be preempted, with what is to be set then."""
        self._load = EngineLoad(gpus=upstream.gpus)
        self._held_until = float("-inf")
        self._described: EngineDescription | None = None
        self._described_at = float("-inf")
        self._looking: asyncio.Task[EngineDescription] | None = None
        self._away = False
        """Its list could not be read last."""
        self._online, self._drained = asyncio.Event(), asyncio.Event()
        self._drained.set()
        self._closed = False
        self._watching: list[asyncio.Task[None]] = []

    async def start(self) -> UpstreamFront:
        """Watch the server until :meth:`close` or :meth:`stop_watching`. Returns the front itself."""
        self._watching = [asyncio.create_task(self._retry()), asyncio.create_task(self._models.run())]
        if self._upstream.reports:
            self._watching.append(asyncio.create_task(self._read_reports()))
        return self

    async def stop_watching(self) -> None:
        """Let go of the server but for what is under way."""
        tasks, self._watching = self._watching, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run_until(self, stop: asyncio.Event) -> None:
        """Watch the server until ``stop``."""
        await self.start()
        try:
            await stop.wait()
        finally:
            await self.stop_watching()

    @property
    def models(self) -> dict[str, str]:
        """Fingerprints of the server's models, as they were described last."""
        described = self._described
        return {} if described is None else {model.name: model.fingerprint for model in described.models}

    async def describe(self) -> EngineDescription:
        """See :class:`~antiphon.engine.api.port.EngineCore`; the server is asked for its models once a second at most.

        ``slots`` are the requests that it may have at once for one more of batch to be sent."""
        self._require_active()
        if self._described is None or self._monotonic() - self._described_at > LOOK_SECONDS:
            # Of many that ask at once, one asks the server.
            looking = self._looking = self._looking or asyncio.create_task(self._look())
            return replace(await asyncio.shield(looking), load=self.load())
        return replace(self._described, load=self.load())

    async def _look(self) -> EngineDescription:
        away, self._away = self._away, True
        try:
            described = await self._upstream.describe()
        finally:
            self._looking = None
        self._away = False
        if away:
            self._models.serves_again()
        self._models.listed(self._upstream.entries)
        models = [replace(model, fingerprint=self._models.described(model.name)) for model in described.models]
        self._described, self._described_at = replace(described, models=tuple(models)), self._monotonic()
        return self._described

    def load(self) -> EngineLoad:
        """Requests of this project in the server, and those that wait here."""
        return replace(
            self._load,
            running_online=self._admission.online,
            running_batch=self._admission.batch,
            waiting_batch=sum(map(len, self._waiting)),
            slots=self._admission.limit(self._monotonic()),
            batch_held_seconds=max(self._held_until - self._monotonic(), 0.0),
        )

    def _require_active(self) -> None:
        if not self._active():
            raise UnavailableError(
                "Another process speaks with the server.", where="engine", next_step="Try again in a moment."
            )

    async def submit(self, request: GenerationRequest, sink: Sink) -> int:
        self._require_active()
        return self._begin(request.id, self._generate(request, sink), sink)

    async def submit_texts(self, request: TextEmbeddingRequest, sink: Sink) -> int:
        self._require_active()
        return self._begin(request.id, self._embed(request, sink), sink)

    def cancel(self, ticket: int) -> None:
        if (task := self._requests.get(ticket)) is not None:
            task.cancel()

    async def online(self, seconds: float) -> None:
        if self._admission.online:
            return
        self._online.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._online.wait()

    def hold_batch(self, seconds: float) -> None:
        """See :class:`~antiphon.engine.api.port.EngineCore`; what the server has already goes on there."""
        self._held_until = self._monotonic() + seconds
        self._admit()

    async def serve(self, models: Sequence[ServedModel]) -> EngineDescription:
        self._require_active()
        return await self._upstream.serve(models)

    async def tokenize(self, request: TokenizationRequest) -> Tokenization:
        return await self._upstream.tokenize(request)

    async def drain(self) -> None:
        await self._drained.wait()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self.stop_watching()
        tasks = list(self._requests.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._upstream.close()

    def _begin(self, request: str, work: Coroutine[None, None, None], sink: Sink) -> int:
        ticket = self._tickets = self._tickets + 1
        task = self._requests[ticket] = asyncio.create_task(work)
        task.add_done_callback(partial(self._ended, ticket, request, sink))
        self._drained.clear()
        return ticket

    def _ended(self, ticket: int, request: str, sink: Sink, task: asyncio.Task[None]) -> None:
        del self._requests[ticket]
        if not self._requests:
            self._drained.set()
        if task.cancelled():
            what = "The engine was closed." if self._closed else "The request was cancelled."
            sink(RequestFailure.of(request, EngineError(what)))
        elif isinstance(error := task.exception(), AntiphonError):
            sink(RequestFailure.of(request, error))
        elif error is not None:
            _log.error("A request to the server failed.", exc_info=error)
            sink(RequestFailure.of(request, EngineError("The engine failed.")))

    async def _generate(self, request: GenerationRequest, sink: Sink) -> None:
        await self._models.require(request.model)
        async with aclosing(self._stream(request)) as events:
            async for event in events:
                sink(event)

    async def _stream(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        for times in count():
            stays = times >= MOST_PREEMPTIONS or request.priority == "online" or not self._upstream.keeps_prefixes
            sent, failure = await self._admitted(request, again=times > 0), None
            generated = self._upstream.generate(request)
            try:
                async with aclosing(generated if stays else self._unless_preempted(sent, generated)) as events:
                    async for event in events:
                        if sent.waited is None:
                            self._served(sent)
                        if isinstance(event, GenerationResult):
                            self._count(request.priority, event.usage)
                        yield event
            except AntiphonError as error:
                failure = error
                raise
            finally:
                self._give_back(sent, failure)
            if stays or sent.waited is not None:
                return

    async def _unless_preempted(
        self, sent: SentRequest, generated: AsyncGenerator[Delta | GenerationResult, None]
    ) -> AsyncGenerator[Delta | GenerationResult, None]:
        """The events of a batch request; none when it was preempted before the first of them."""
        preempted = self._prefilling[sent] = asyncio.get_running_loop().create_future()
        async with aclosing(generated):
            first = asyncio.ensure_future(anext(generated))
            try:
                await asyncio.wait({first, preempted}, return_when=asyncio.FIRST_COMPLETED)
                if not first.done():
                    return
            finally:
                del self._prefilling[sent]
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
            yield first.result()
            async for event in generated:
                yield event

    async def _embed(self, request: TextEmbeddingRequest, sink: Sink) -> None:
        await self._models.require(request.model)
        embedded = await self._upstream.embed(request)
        self._models.used(request.model, embeds=True)
        sink(replace(embedded, fingerprint=self._models.described(request.model)))

    async def _admitted(self, request: GenerationRequest, *, again: bool = False) -> SentRequest:
        """Count a request as sent, once the server may have it; one that was preempted goes before others."""
        if request.priority == "online":
            self._online.set()
            sent = self._send(request)
            for preempted in self._prefilling.values():
                if not preempted.done():
                    preempted.set_result(None)
            return sent
        if not any(self._waiting) and self._admits(self._monotonic()):
            return self._send(request)
        if not again and sum(map(len, self._waiting)) >= MOST_WAITING:
            raise OverloadedError(f"{MOST_WAITING} batch requests wait for the server already.")
        waiting = self._waiting[0 if again else 1 if request.ahead else 2]
        place: asyncio.Future[SentRequest] = asyncio.get_running_loop().create_future()
        waiting[place] = request
        try:
            return await place
        except asyncio.CancelledError:
            waiting.pop(place, None)
            if place.done() and not place.cancelled():  # its turn came in the same moment
                self._give_back(place.result(), None)
            raise

    def _send(self, request: GenerationRequest) -> SentRequest:
        size = len(request.prompt) + sum(len(turn.content) for turn in request.messages) + 4 * len(request.prompt_ids)
        return self._admission.sent(self._monotonic(), request.priority, size, request.level)

    def _admit(self) -> None:
        """Give every place that is free to the next that waits."""
        now = self._monotonic()
        for waiting in self._waiting:
            while waiting and self._admits(now):
                place = next(iter(waiting))
                request = waiting.pop(place)
                if not place.done():
                    place.set_result(self._send(request))

    def _admits(self, now: float) -> bool:
        return now >= self._held_until and self._admission.admits(now)

    def _give_back(self, sent: SentRequest, failure: AntiphonError | None) -> None:
        known = self._admission.known
        self._admission.ended(sent, self._monotonic(), failure)
        if known and not self._admission.known:
            _log.warning("The server failed (%s): it gets one batch request at a time until it serves again.", failure)
        self._admit()

    def _served(self, sent: SentRequest) -> None:
        if not self._admission.known:
            _log.info("The server serves again.")
            self._models.serves_again()
        self._admission.first_token(sent, self._monotonic())
        self._admit()

    def _count(self, priority: Priority, usage: GenerationUsage) -> None:
        load, cached = self._load, usage.cached_prompt_tokens
        online, batch = load.generated_tokens_online, load.generated_tokens_batch
        if priority == "online":
            online += max(usage.completion_tokens, 1)  # Who watches the count must see each request that was served.
        else:
            batch += usage.completion_tokens
        self._load = replace(
            load,
            generated_tokens_online=online,
            generated_tokens_batch=batch,
            prefilled_tokens=load.prefilled_tokens + max(usage.prompt_tokens - cached, 0),
            reused_prefix_tokens=load.reused_prefix_tokens + cached,
        )

    async def _retry(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            self._admit()

    async def _read_reports(self) -> None:
        """Read the server's metrics again and again; one that has none is judged by waiting times."""
        failed = False
        while True:
            try:
                report = await self._upstream.report()
            except AntiphonError as error:
                if not failed:
                    _log.warning("The server's metrics cannot be read (%s).", error)
                failed = True
            else:
                if report is None:
                    _log.info("The server has no metrics: batch is admitted by waiting times.")
                    return
                failed = False
                self._admission.reported(report, self._monotonic())
                self._admit()
            await asyncio.sleep(REPORT_SECONDS)
