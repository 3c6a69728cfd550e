"""An identical request is generated once; whatever else decides its tokens makes it another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from antiphon.core.errors import EngineError
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult, GenerationUsage
from antiphon.serving.answering.deduplication import DeduplicatingEngine

ASKED = GenerationRequest("one", "model", "a prompt", 8)


class Counting:
    """An engine that says how often it was asked, and fails as often as it is told to."""

    def __init__(self, failures: int = 0, reason: Any = "stop") -> None:
        self.asked = 0
        self.failures = failures
        self.reason = reason

    async def describe(self) -> Any:
        return "described"

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        self.asked += 1
        number = self.asked
        yield Delta(request.id, f"text {number}")
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise EngineError("It fell over.")
        yield GenerationResult(
            request.id, self.reason, f"text {number}", GenerationUsage(3, 0, 2, 0, 1, 0.0, 0.0, 0.0, 0.0), "print"
        )


async def told(engine: DeduplicatingEngine, request: GenerationRequest) -> list[Delta | GenerationResult]:
    return [event async for event in engine.generate(request)]


async def test_what_comes_again_is_what_came_first_under_its_own_id() -> None:
    behind = Counting()
    engine = DeduplicatingEngine(behind)
    first = await told(engine, ASKED)
    again = await told(engine, msgspec.structs.replace(ASKED, id="two", traceparent="another trace"))
    assert behind.asked == 1
    assert [event.text for event in again] == [event.text for event in first]
    assert {event.id for event in again} == {"two"}


async def test_of_several_at_once_one_is_generated() -> None:
    behind = Counting()
    engine = DeduplicatingEngine(behind)
    await asyncio.gather(*(told(engine, msgspec.structs.replace(ASKED, id=str(number))) for number in range(5)))
    assert behind.asked == 1


@pytest.mark.parametrize(
    "change",
    [{"prompt": "b"}, {"seed": 1}, {"temperature": 0.5}, {"json_schema": "{}"}, {"model": "other"}, {"max_tokens": 9}],
)
async def test_what_decides_the_tokens_makes_another_request(change: dict[str, Any]) -> None:
    behind = Counting()
    engine = DeduplicatingEngine(behind)
    await told(engine, ASKED)
    await told(engine, msgspec.structs.replace(ASKED, **change))
    assert behind.asked == 2


async def test_what_failed_or_was_given_up_is_asked_again() -> None:
    failing = Counting(failures=1)
    engine = DeduplicatingEngine(failing)
    with pytest.raises(EngineError):
        await told(engine, ASKED)
    assert (await told(engine, ASKED))[-1].text == "text 2"
    cancelled = Counting(reason="cancelled")
    engine = DeduplicatingEngine(cancelled)
    await told(engine, ASKED)
    await told(engine, ASKED)
    assert cancelled.asked == 2
