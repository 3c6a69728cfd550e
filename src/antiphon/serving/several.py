"""Several questions of one request (``n`` choices, several prompts): answered beside each other, each for itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from antiphon.serving.request import Answer, AnswerRequest, TextDelta

AT_ONCE = 8
"""Questions of one request under way at once, so that it does not take everybody's places."""

Streaming = Callable[[AnswerRequest], AsyncGenerator[TextDelta | Answer, None]]

T = TypeVar("T")
Q = TypeVar("Q")


async def answers(answer: Callable[[Q], Awaitable[T]], questions: Sequence[Q]) -> tuple[T, ...]:
    """The answers, in the order of their questions. The first that fails ends the others."""
    if len(questions) == 1:
        return (await answer(questions[0]),)
    places = asyncio.Semaphore(AT_ONCE)

    async def one(question: Q) -> T:
        async with places:
            return await answer(question)

    return tuple(await _all([one(question) for question in questions]))


async def stream(
    streaming: Streaming, questions: Sequence[AnswerRequest]
) -> AsyncGenerator[tuple[int, TextDelta | Answer], None]:
    """Items of each question's stream, with the question's number, as they come. The first that fails ends all."""
    if len(questions) == 1:
        async with aclosing(streaming(questions[0])) as items:
            async for only in items:
                yield 0, only
        return
    places = asyncio.Semaphore(AT_ONCE)
    given: asyncio.Queue[tuple[int, TextDelta | Answer] | None] = asyncio.Queue()

    async def one(number: int, question: AnswerRequest) -> None:
        async with places, aclosing(streaming(question)) as items:
            async for item in items:
                given.put_nowait((number, item))

    async def every() -> None:
        try:
            await _all([one(number, question) for number, question in enumerate(questions)])
        finally:
            given.put_nowait(None)

    working = asyncio.create_task(every())
    try:
        while (item := await given.get()) is not None:
            yield item
        await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def _all(work: Sequence[Awaitable[T]]) -> list[T]:
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
