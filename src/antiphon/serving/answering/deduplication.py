"""Identical prompts generated once: at the same time (single flight), or for the lifetime of an engine's wrapper.

A flight belongs to one process; when its leader fails or goes away, the next in line makes the answer. Two engine
requests are identical when everything that decides their tokens is, sampling and seed included, so the second one gets
what the model would have written for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

import msgspec

from antiphon.engine.api.messages import (
    Delta,
    EngineDescription,
    GenerationRequest,
    GenerationResult,
    TextEmbeddingRequest,
    TextEmbeddings,
)
from antiphon.engine.api.port import GenerationEngine

T = TypeVar("T")


class SingleFlight:
    """Lets one request of each key run at a time; the others wait."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        """A lock lives as long as somebody holds it or waits for it."""

    @asynccontextmanager
    async def alone(self, key: Hashable) -> AsyncIterator[None]:
        """Hold the key while the block runs."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            yield


async def ahead(events: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The events of a generator that runs ahead of its reader: a slow reader does not keep what the generator holds."""
    waiting: asyncio.Queue[tuple[T] | None] = asyncio.Queue()

    async def run() -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    waiting.put_nowait((event,))
        finally:
            waiting.put_nowait(None)

    running = asyncio.create_task(run())
    try:
        while (item := await waiting.get()) is not None:
            yield item[0]
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class DeduplicatingEngine:
    """Implements ``Engine``. Keeps what it was given for as long as it lives, so give it a short life.

    Deltas are not passed on as they come: for work that nobody watches.
    """

    def __init__(self, engine: GenerationEngine) -> None:
        self._engine = engine
        self._flights = SingleFlight()
        self._generated: dict[GenerationRequest, tuple[Delta | GenerationResult, ...]] = {}

    async def describe(self) -> EngineDescription:
        """See the engine behind."""
        return await self._engine.describe()

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        """See the engine behind."""
        return await self._engine.embed(request)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        """See the engine behind; one that ends without its end is not kept."""
        same = msgspec.structs.replace(request, id="", traceparent=None)
        async with self._flights.alone(same):
            events = self._generated.get(same)
            if events is None:
                events = tuple([event async for event in self._engine.generate(request)])
                if events and isinstance(events[-1], GenerationResult) and events[-1].reason != "cancelled":
                    self._generated[same] = events
        for event in events:
            yield msgspec.structs.replace(event, id=request.id)
