"""Server-sent events while an engine is being started: what a client hears, and the status that it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from antiphon.core.errors import UnavailableError
from antiphon.gateway.http import event_stream
from antiphon.gateway.http.event_stream import EventStream


class Part(msgspec.Struct, frozen=True):
    """One item of a stream."""

    text: str


async def sent(items: AsyncGenerator[Any, None], starting: float | None) -> tuple[int, str]:
    """The status and the body of a response to a client that stays."""
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    stream = EventStream(
        items, headers={}, first=lambda: None, ended=lambda failure: None, starting=lambda: starting
    )  # fmt: skip
    await stream({"type": "http"}, receive, send)
    bodies = b"".join(message.get("body", b"") for message in messages)
    assert [message["type"] for message in messages].count("http.response.start") == 1
    return messages[0]["status"], bodies.decode()


async def late(error: Exception | None = None) -> AsyncGenerator[Part, None]:
    await asyncio.sleep(0.05)
    if error is not None:
        raise error
    yield Part("a")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "TELL_SECONDS", 0.01)


async def test_a_client_hears_of_the_start_in_comments_and_then_its_text() -> None:
    status, body = await sent(late(), 4.2)
    comments, _, rest = body.partition("data: ")
    assert status == 200
    assert set(filter(None, comments.split("\n"))) == {": the engine is being started, about 4 s"}
    assert rest == '{"text":"a"}\n\ndata: [DONE]\n\n'


async def test_a_start_that_fails_after_a_comment_is_an_event_and_before_it_a_status() -> None:
    failure = UnavailableError("The engine could not be started.", where="engine")
    status, body = await sent(late(failure), 4.2)
    assert (status, "could not be started" in body, "[DONE]" in body) == (200, True, False)
    status, body = await sent(late(failure), None)
    assert (status, "could not be started" in body) == (503, True)


async def test_without_a_start_nothing_is_said() -> None:
    assert await sent(late(), None) == (200, 'data: {"text":"a"}\n\ndata: [DONE]\n\n')
