"""A connection that breaks between two messages: who waits is told, and nobody meets a transport's own error."""

import asyncio
from typing import Any, cast

import pytest

from antiphon.core.errors import EngineError
from antiphon.engine.api.client import _ClientConnection
from antiphon.engine.api.messages import DescriptionRequest


class ClosedWriter:
    """What uvloop's transport does once it is closed, before its reader has heard of it."""

    def write(self, frame: bytes) -> None:
        raise RuntimeError("unable to perform operation on <UnixTransport closed=True>; the handler is closed")

    @property
    def transport(self) -> Any:
        return self

    def close(self) -> None: ...

    def abort(self) -> None: ...

    async def wait_closed(self) -> None: ...


class SilentWriter(ClosedWriter):
    """One whose other end does not say goodbye. As asyncio's does, it has all who wait for its close wait for one
    future."""

    def __init__(self) -> None:
        self.closed = asyncio.get_running_loop().create_future()

    def abort(self) -> None:
        self.closed.set_result(None)

    async def wait_closed(self) -> None:
        await self.closed


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


async def test_one_who_gives_up_closing_does_not_cancel_the_next() -> None:
    writer = SilentWriter()
    connection = _ClientConnection(asyncio.StreamReader(), cast(Any, writer), "engine.sock")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await connection.close()
    await connection.close()
    assert writer.closed.result() is None
