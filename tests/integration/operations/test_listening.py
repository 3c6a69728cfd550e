"""Sockets that a gateway listens on: what is written to their connections is sent at once."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack

import pytest

from antiphon.core.supervision import LISTENERS, inherited_listeners
from antiphon.operations.listening import listen


@pytest.mark.parametrize("inherited", [False, True], ids=["own", "inherited"])
async def test_a_servers_connections_wait_for_no_acknowledgment(
    inherited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(one) for one in listen("127.0.0.1", 0)]
        if inherited:
            passed = [os.dup(one.fileno()) for one in listeners]
            monkeypatch.setenv(LISTENERS, ",".join(map(str, passed)))
            listeners = [stack.enter_context(one) for one in inherited_listeners() or ()]
        (listener,) = listeners
        connected: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            connected.set_result(bool(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
            writer.close()

        async with await asyncio.start_server(accept, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            # An event loop turns Nagle's algorithm off only where the socket names the protocol.
            assert await asyncio.wait_for(connected, 10)
            writer.close()
            await writer.wait_closed()
