"""An engine in front of another that generates an identical request once.

Invariant: two requests are identical when everything that decides their tokens is, sampling and seed included; what the
second one gets is what the first one got, so nothing is told that the model did not write for this very prompt.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from antiphon.engine.api.messages import Delta, EngineDescription, GenerationRequest, GenerationResult
from antiphon.serving.answering.flights import Flights
from antiphon.serving.ports import GenerationEngine


class GeneratesOnce:
    """Implements ``GenerationEngine``. Keeps what it was given for as long as it lives, so give it a short life.

    Deltas are not passed on as they come: for work that nobody watches.
    """

    def __init__(self, engine: GenerationEngine) -> None:
        self._engine = engine
        self._flights = Flights()
        self._generated: dict[GenerationRequest, tuple[Delta | GenerationResult, ...]] = {}

    async def describe(self) -> EngineDescription:
        """See the engine behind."""
        return await self._engine.describe()

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
