"""An activator of an engine that was stopped: it answers at the engine's socket, and holds requests until that is up.

It serves the engine's frames in the supervisor's process while there is no engine: it tells what the engine served and
will serve, and its load, which is none but for what is held. A request that needs the engine is held, has the engine
started, and is told every second how long that is expected to take. When the engine has the socket again, what is held
is handed over: it is refused in the way in which clients go on at the process that took the socket over
(:class:`~antiphon.engine.api.client.EngineClient` with ``activator``).

Invariants:
- To ask what is served, or to declare what the engine has already, starts nothing.
- Every request that is held ends: it is handed over, fails with the start, or is cancelled.
- Between a start that failed and the next one no request is held: what stands in for the engine elsewhere (fallbacks,
  stored answers) is not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from antiphon.core.errors import AntiphonError, EngineError, OverloadedError, UnavailableError
from antiphon.engine.api.messages import (
    Delta,
    EngineDescription,
    GenerationRequest,
    Priority,
    RequestFailure,
    ServedModel,
    StoppedEngine,
    TextEmbeddingRequest,
    Tokenization,
    TokenizationRequest,
)
from antiphon.engine.api.port import Sink
from antiphon.engine.declared_models import DeclaredModels

TELL_SECONDS = 1.0
"""Interval at which a held request is told that the engine is being started."""

MOST_HELD = 4_096
"""Requests that may wait for a start; beyond it ``OverloadedError``."""


class _HeldRequest(msgspec.Struct, frozen=True):
    request: GenerationRequest | TextEmbeddingRequest
    sink: Sink


class EngineActivator:
    """Implements :class:`~antiphon.engine.api.port.EngineCore` for an engine that is stopped.

    Args:
        described: what the engine said of itself last.
        declared: the declaration that the engine reads when it starts.
        since: when it was stopped; ``start_seconds``: how long its start takes.
        need: called when a request needs the engine.
    """

    def __init__(
        self,
        described: EngineDescription,
        declared: DeclaredModels,
        *,
        since: datetime,
        start_seconds: float,
        need: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._described = described
        self._declared = declared
        self._stopped = StoppedEngine(since, start_seconds)
        self._need = need
        self._monotonic = monotonic
        self._start_at: float | None = None
        self._failure: AntiphonError | None = None
        self._tickets = 0
        self._held: dict[int, _HeldRequest] = {}
        self._waiting = 0
        self._online, self._handed_over = asyncio.Event(), asyncio.Event()
        self._telling: asyncio.Task[None] | None = None

    @property
    def needed(self) -> int:
        """Requests that are held and need the engine."""
        generating = (one.request for one in self._held.values())
        spare = sum(isinstance(one, GenerationRequest) and one.spare for one in generating)
        return len(self._held) - spare + self._waiting

    def starts(self) -> None:
        """The engine is being started from now."""
        self._start_at, self._failure = self._monotonic(), None

    def fail(self, error: AntiphonError) -> None:
        """The start has failed: what is held ends with the error, and so does what comes until the next one begins."""
        self._start_at, self._failure = None, error
        self._end(error)
        self._handed_over.set()
        self._handed_over = asyncio.Event()

    def rest(self) -> None:
        """The engine is started no more until a request needs it."""
        self._start_at = self._failure = None

    async def describe(self) -> EngineDescription:
        """See :class:`~antiphon.engine.api.port.EngineCore`: the models of the engine that is stopped.

        Raises:
            UnavailableError: its start has failed.
        """
        self._require_hope()
        load = replace(
            self._described.load,
            running_online=0,
            running_batch=0,
            waiting_online=self._count("online"),
            waiting_batch=self._count("batch"),
            batch_held_seconds=0.0,
            needing=self.needed,
        )
        stopped = replace(self._stopped, starting=self._start_at is not None)
        return replace(self._described, load=load, stopped=stopped)

    async def submit(self, request: GenerationRequest, sink: Sink) -> int:
        """Hold a request; see :class:`~antiphon.engine.api.port.EngineCore`."""
        ticket = self._hold(request, sink)
        if request.priority == "online":
            self._online.set()
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell())
        self._say(self._held[ticket])
        return ticket

    async def submit_texts(self, request: TextEmbeddingRequest, sink: Sink) -> int:
        """Hold texts; see :class:`~antiphon.engine.api.port.EngineCore`."""
        return self._hold(request, sink)

    def cancel(self, ticket: int) -> None:
        """See :class:`~antiphon.engine.api.port.EngineCore`."""
        if (held := self._held.pop(ticket, None)) is not None:
            held.sink(RequestFailure.of(held.request.id, EngineError("The request was cancelled.")))

    async def online(self, seconds: float) -> None:
        """See :class:`~antiphon.engine.api.port.EngineCore`."""
        if self._count("online"):
            return
        self._online.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._online.wait()

    def hold_batch(self, seconds: float) -> None:
        """See :class:`~antiphon.engine.api.port.EngineCore`: none computes here."""

    async def serve(self, models: Sequence[ServedModel]) -> EngineDescription:
        """See :class:`~antiphon.engine.api.port.EngineCore`: models that the engine does not have yet need it, others
        are only fewer at its next start."""
        self._require_hope()
        known = self._declared.read()
        if not set(models) <= set(known):
            await self._until_handed_over()
        if tuple(models) != known:
            self._declared.write(models)
            gone = {model.name for model in known} - {model.name for model in models}
            served = tuple(model for model in self._described.models if model.name not in gone)
            self._described = replace(self._described, models=served)
        return await self.describe()

    async def tokenize(self, request: TokenizationRequest) -> Tokenization:
        """See :class:`~antiphon.engine.api.port.EngineCore`: the vocabulary is the engine's."""
        await self._until_handed_over()
        raise AssertionError  # The engine answers.

    async def drain(self) -> None:
        """Hand over what is held: the engine has the socket."""
        self._end(_handed_over())
        self._handed_over.set()
        self._online.set()
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Hold nothing any more."""
        if self._telling is not None:
            self._telling.cancel()
        await self.drain()

    def _hold(self, request: GenerationRequest | TextEmbeddingRequest, sink: Sink) -> int:
        if self._failure is not None:
            self._need()
        self._require_hope()
        if len(self._held) >= MOST_HELD:
            raise OverloadedError(f"{MOST_HELD} requests wait for the engine to be started already.", where="engine")
        ticket = self._tickets = self._tickets + 1
        self._held[ticket] = _HeldRequest(request, sink)
        if not (isinstance(request, GenerationRequest) and request.spare):
            self._need()
        return ticket

    async def _until_handed_over(self) -> None:
        """Have the engine started, and fail with the error by which a client asks it, or that of the start."""
        if self._failure is None:
            self._waiting += 1
            self._need()
            try:
                await self._handed_over.wait()
            finally:
                self._waiting -= 1
        self._require_hope()
        raise _handed_over()

    def _require_hope(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def _end(self, error: AntiphonError) -> None:
        held, self._held = list(self._held.values()), {}
        for one in held:
            one.sink(RequestFailure.of(one.request.id, error))

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            for one in list(self._held.values()):
                self._say(one)

    def _say(self, held: _HeldRequest) -> None:
        if isinstance(held.request, GenerationRequest):
            held.sink(Delta(held.request.id, "", starting=self._remaining()))

    def _remaining(self) -> float:
        """Seconds that the start is expected to take still; one that takes longer than before says a second."""
        begun = self._monotonic() if self._start_at is None else self._start_at
        return max(begun + self._stopped.start_seconds - self._monotonic(), 1.0)

    def _count(self, priority: Priority) -> int:
        return sum(one.request.priority == priority for one in self._held.values())


def _handed_over() -> UnavailableError:
    return UnavailableError("The engine is up again.", where="engine", next_step="Ask it at its socket.")
