"""Several questions of one request, over a stand-in for answer()."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from antiphon.core.errors import EngineError
from antiphon.serving import several
from antiphon.serving.request import TextDelta


class Asked:
    """Answers a number with its words, one at a time; counts what is under way."""

    def __init__(self, *, fails: int | None = None) -> None:
        self.under_way = 0
        self.most = 0
        self.ended: list[int] = []
        self.held = asyncio.Event()
        self._fails = fails

    async def answer(self, number: int) -> str:
        return "".join([part.text async for part in self.stream(number)])

    async def stream(self, number: int) -> AsyncIterator[TextDelta]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            yield TextDelta(f"{number}a")
            if number == self._fails:
                raise EngineError("broken on purpose")
            await self.held.wait()
            yield TextDelta(f"{number}b")
            self.ended.append(number)
        finally:
            self.under_way -= 1


def questions(count: int) -> Any:
    return list(range(count))


async def test_answers_stand_in_the_order_of_their_questions_and_are_bounded_at_once() -> None:
    asked = Asked()
    answering = asyncio.create_task(several.answers(asked.answer, questions(20)))  # type: ignore[arg-type]
    while asked.under_way < several.AT_ONCE:
        await asyncio.sleep(0)
    asked.held.set()
    assert await answering == tuple(f"{number}a{number}b" for number in range(20))
    assert asked.most == several.AT_ONCE


async def test_streams_are_told_apart() -> None:
    asked = Asked()
    asked.held.set()
    texts = dict.fromkeys(range(12), "")
    async for number, part in several.stream(asked.stream, questions(12)):  # type: ignore[arg-type]
        assert isinstance(part, TextDelta)
        texts[number] += part.text
    assert texts == {number: f"{number}a{number}b" for number in range(12)}


async def test_the_first_that_fails_ends_the_others() -> None:
    asked = Asked(fails=1)
    with pytest.raises(EngineError):
        await several.answers(asked.answer, questions(12))  # type: ignore[arg-type]
    assert asked.under_way == 0
    assert asked.ended == []
    with pytest.raises(EngineError):
        async for _ in several.stream(asked.stream, questions(12)):  # type: ignore[arg-type]
            pass
    assert asked.under_way == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_a_reader_who_leaves_frees_every_place(count: int) -> None:
    asked = Asked()
    reading = several.stream(asked.stream, questions(count))  # type: ignore[arg-type]
    await anext(reading)
    assert asked.under_way > 0
    await reading.aclose()
    assert asked.under_way == 0
