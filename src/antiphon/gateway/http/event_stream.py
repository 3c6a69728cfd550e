"""Server-sent events: the first item decides the status, the last comes after the receipt is committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from antiphon.gateway.http import problem
from antiphon.gateway.http.departure import CallerLeftError, while_connected

DONE = b"data: [DONE]\n\n"

TELL_SECONDS = 1.0
"""Interval of comments to a client that waits for an engine's start."""
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class EventStream:
    """An ASGI response that sends each item as one ``data:`` line and ends with ``[DONE]``.

    The headers wait for the first item, so that a request that fails before it has the error's status. A later
    failure is sent as an ``error`` event, in the shape that OpenAI's clients raise, and without ``[DONE]``.

    Args:
        named: each item's ``type`` is the name of its event, and the items themselves tell how they end.
        starting: seconds until the engine is expected up, while it is being started. A client that waits for that is
            told by comments, which its parser passes over, and has the status 200 from then on.
    """

    def __init__(
        self,
        items: AsyncGenerator[Any, None],
        *,
        headers: dict[str, str],
        first: Callable[[], None],
        ended: Callable[[BaseException | None], None],
        named: bool = False,
        starting: Callable[[], float | None] | None = None,
    ) -> None:
        self._items = items
        self._headers = headers
        self._first = first
        self._ended = ended
        self._named = named
        self._starting = starting
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shown = False
        failure: BaseException | None = None
        telling = None if self._starting is None else asyncio.create_task(self._tell_start(self._starting, send))
        try:
            async with while_connected(receive), aclosing(self._items) as items:
                async for item in items:
                    if not shown:
                        shown = True
                        await _end(telling)
                        self._first()
                        await self._start(send)
                    name = f"event: {item.type}\n".encode() if self._named else b""
                    await send(_part(name + b"data: " + msgspec.json.encode(item) + b"\n\n"))
                await send(_part(b"" if self._named else DONE, more=False))
        except CallerLeftError as error:
            failure = error
        except Exception as error:
            failure = error
            await _end(telling)
            if self._started and self._named:
                await send(_part(b"", more=False))
            elif self._started:
                event = msgspec.json.encode(problem.ProblemBody(problem.describe(error)))
                await send(_part(b"data: " + event + b"\n\n", more=False))
            else:
                await problem.response(error, self._headers)(scope, receive, send)
        finally:
            await _end(telling)
            self._ended(failure)

    async def _start(self, send: Send) -> None:
        """Send the headers, unless they were."""
        if not self._started:
            self._started = True
            headers = [(name.encode(), value.encode()) for name, value in (_HEADERS | self._headers).items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _tell_start(self, starting: Callable[[], float | None], send: Send) -> None:
        """Tell by a comment every second how long the engine's start takes still."""
        while True:
            await asyncio.sleep(TELL_SECONDS)
            if (seconds := starting()) is not None:
                await self._start(send)
                await send(_part(f": the engine is being started, about {seconds:.0f} s\n\n".encode()))


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _part(content: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}
