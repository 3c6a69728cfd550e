"""A client that goes away frees what was working for it, even while nothing is being sent.

Invariant: the work for a request never outlives its connection. During a silent prefill there is no write that
could fail, so the connection is watched by reading: the message that follows a whole body is its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive


class CallerLeftError(Exception):
    """The client closed the connection; nobody reads a response."""


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Run the block until it ends or the client goes away; the block is then cancelled where it waits.

    Works like :func:`asyncio.timeout`: a cancellation from outside passes through unchanged.

    Raises:
        CallerLeftError: the client went away; everything in the block has unwound.
    """
    task = asyncio.current_task()
    assert task is not None
    active, departed = True, False

    def cancel(watch: asyncio.Future[None]) -> None:
        nonlocal departed
        if active and not watch.cancelled():
            departed = True
            task.cancel()

    watch = asyncio.ensure_future(_departure(receive))
    watch.add_done_callback(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if departed and task.uncancel() == 0:
            raise CallerLeftError from None
        raise
    finally:
        active = False
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
