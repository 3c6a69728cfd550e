"""Open-loop arrivals at an engine behind the product's own port, and batch work kept in it beside them.

Times are the caller's: from the moment a request was due to be sent, also when sending was late, to the moment each
token was read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from benchmarks.colocation.outcome import Served
from benchmarks.colocation.traces import BATCH_OUTPUT_TOKENS, BATCH_PROMPT_TOKENS, Request, prompt_text

from antiphon.core.errors import AntiphonError
from antiphon.engine.api.messages import GenerationRequest, GenerationResult, Priority
from antiphon.engine.api.port import GenerationEngine
from antiphon.engine.scheduling.service_level import ServiceLevel

MODEL = "smollm2-135m"
DRAIN_SECONDS = 60.0

T = TypeVar("T")


class OpenLoop:
    """One run. ``begin`` is the window's begin on the asyncio loop's clock.

    Args:
        batch: requests of the endless batch that are in the engine at once.
        level: what online requests ask for.
        number: of the first request; prompts are made from it.
    """

    def __init__(
        self,
        engine: GenerationEngine,
        online: Sequence[Request],
        seconds: float,
        *,
        batch: int,
        level: ServiceLevel | None,
        number: int,
    ) -> None:
        self._engine = engine
        self._seconds = seconds
        self._batch = batch
        self._level = level
        self._number = number
        self._loop = asyncio.get_running_loop()
        self.begin = 0.0
        self.served = [Served(request.at, request.prompt_tokens, request.output_tokens, []) for request in online]
        self.batch_tokens = 0
        self.latest_sending = 0.0

    @property
    def now(self) -> float:
        return self._loop.time() - self.begin

    async def warm_up(self, prompts: Sequence[int]) -> None:
        """Requests of these lengths at once, so that no online request is the first of its kind."""
        await asyncio.gather(*(self._spend(tokens, 16, "online") for tokens in prompts))

    async def run(self, at_end: Callable[[], Awaitable[T]]) -> T:
        """The window, and what is left of its online requests; returns what ``at_end`` says when the window ends."""
        self.begin = self._loop.time()
        endless = [asyncio.create_task(self._endless()) for _ in range(self._batch)]
        online = [asyncio.create_task(self._serve(served)) for served in self.served]
        try:
            await asyncio.sleep(self._seconds - self.now)
            told = await at_end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    await asyncio.gather(*online)
        finally:
            for task in (*endless, *online):
                task.cancel()
            await asyncio.gather(*endless, *online, return_exceptions=True)
        for task in endless:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        return told

    async def _serve(self, served: Served) -> None:
        await asyncio.sleep(served.at - self.now)
        self.latest_sending = max(self.latest_sending, self.now - served.at)
        with contextlib.suppress(AntiphonError):  # A refused request keeps its missing tokens, which count as never.
            await self._spend(served.prompt_tokens, served.output_tokens, "online", served.tokens)

    async def _endless(self) -> None:
        while True:
            await self._spend(BATCH_PROMPT_TOKENS, BATCH_OUTPUT_TOKENS, "batch")

    async def _spend(self, prompt: int, output: int, priority: Priority, times: list[float] | None = None) -> None:
        self._number += 1
        level = self._level if priority == "online" else None
        text = prompt_text(prompt, self._number)
        request = GenerationRequest(
            str(self._number), MODEL, text, output, priority=priority, level=level, ignore_end=True
        )
        told = 0
        async for event in self._engine.generate(request):
            # An engine that tells no tokens tells a text for each, but for those without, such as half a character: the
            # end says how many there were.
            written = (
                event.usage.completion_tokens
                if isinstance(event, GenerationResult)
                else told + max(len(event.tokens), 1)
            )
            if times is not None:
                times.extend([self.now] * (written - told))
            elif self.begin and self.now <= self._seconds:
                self.batch_tokens += written - told
            told = written
