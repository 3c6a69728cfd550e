"""Closing of a connection whose other end may be stopped where it is, and says no goodbye.

Over TLS that goodbye is waited for, by asyncio for half a minute. And all who wait for a close share one future: one of
them who is cancelled would cancel the others.
"""

from __future__ import annotations

import asyncio

CLOSE_SECONDS = 2.0
"""Time limit of closing in order."""


async def close(writer: asyncio.StreamWriter, *, lost: bool = False) -> None:
    """Close a connection in order; without the other end after :data:`CLOSE_SECONDS`, at once when it is ``lost``."""
    writer.close()
    if lost:
        writer.transport.abort()
    closing = asyncio.ensure_future(writer.wait_closed())
    closing.add_done_callback(lambda done: done.cancelled() or done.exception())
    _, open_still = await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
    if open_still:
        writer.transport.abort()
