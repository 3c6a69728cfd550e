"""Server-sent events: the first item decides the status, the last comes after the receipt is committed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from antiphon.gateway.http import problem
from antiphon.gateway.http.departure import CallerLeftError, while_connected

DONE = b"data: [DONE]\n\n"
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
    """

    def __init__(
        self,
        items: AsyncGenerator[Any, None],
        *,
        headers: dict[str, str],
        first: Callable[[], None],
        ended: Callable[[BaseException | None], None],
        named: bool = False,
    ) -> None:
        self._items = items
        self._headers = headers
        self._first = first
        self._ended = ended
        self._named = named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        failure: BaseException | None = None
        headers = [(name.encode(), value.encode()) for name, value in (_HEADERS | self._headers).items()]
        try:
            async with while_connected(receive), aclosing(self._items) as items:
                async for item in items:
                    if not started:
                        started = True
                        self._first()
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                    name = f"event: {item.type}\n".encode() if self._named else b""
                    await send(_part(name + b"data: " + msgspec.json.encode(item) + b"\n\n"))
                await send(_part(b"" if self._named else DONE, more=False))
        except CallerLeftError as error:
            failure = error
        except Exception as error:
            failure = error
            if started and self._named:
                await send(_part(b"", more=False))
            elif started:
                event = msgspec.json.encode(problem.ProblemBody(problem.describe(error)))
                await send(_part(b"data: " + event + b"\n\n", more=False))
            else:
                await problem.response(error, self._headers)(scope, receive, send)
        finally:
            self._ended(failure)


def _part(content: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}
