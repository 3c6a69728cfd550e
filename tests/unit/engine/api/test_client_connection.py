"""A connection that breaks between two messages: who waits is told, and nobody meets a transport's own error."""

import asyncio
from typing import Any, cast

from antiphon.core.errors import EngineError
from antiphon.engine.api.client import _ClientConnection
from antiphon.engine.api.messages import DescriptionRequest


class ClosedWriter:
    """What uvloop's transport does once it is closed, before its reader has heard of it."""

    def write(self, frame: bytes) -> None:
        raise RuntimeError("unable to perform operation on <UnixTransport closed=True>; the handler is closed")

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


class BrokenReader:
    async def readexactly(self, size: int) -> bytes:
        raise OSError(104, "Connection reset by peer")


async def test_a_write_to_a_closed_transport_tells_who_waits() -> None:
    connection = _ClientConnection(asyncio.StreamReader(), cast(Any, ClosedWriter()), "engine.sock")
    _, answers = connection.ask(DescriptionRequest("one"))
    assert isinstance(answers.get_nowait(), EngineError)
    assert connection.lost
    await connection.close()


async def test_a_read_that_breaks_does_not_break_the_next_connection() -> None:
    connection = _ClientConnection(cast(Any, BrokenReader()), cast(Any, ClosedWriter()), "engine.sock")
    while not connection.lost:
        await asyncio.sleep(0)
    await connection.close()  # raises nothing
