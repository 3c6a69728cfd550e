"""An engine's listener on the network: TLS only, and each client shows a certificate."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable

from antiphon.core.errors import SetupError
from antiphon.engine.api.address import joined, notice_silence

HANDSHAKE_SECONDS = 5.0
"""A client that has not finished the handshake by then is cut off."""


class NetworkListener:
    """Host, port and TLS of a listener. Port 0 takes a free one, which ``port`` names once it listens.

    Args:
        context: demands a certificate of clients; there is no listener without TLS.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        if context.verify_mode is not ssl.CERT_REQUIRED:
            raise SetupError("An engine lets no client in that shows no certificate.", where=joined(host, port))
        self.host = host
        self.port = port
        self._context = context
        self._writers: set[asyncio.StreamWriter] = set()

    def __str__(self) -> str:
        return joined(self.host, self.port)

    async def start(
        self, converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> asyncio.Server:
        """Listen; ``converse`` gets the connection of each client that was let in.

        Raises:
            SetupError: the address is taken or is not this machine's.
        """

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            notice_silence(writer.get_extra_info("socket"))
            self._writers.add(writer)
            try:
                await converse(reader, writer)
            finally:
                self._writers.discard(writer)

        try:
            server = await asyncio.start_server(
                accept, self.host, self.port, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except OSError as error:
            number = error.errno or 0
            reason = os.strerror(number).lower() if number > 0 else "there is no such address"
            raise SetupError(
                f"The engine cannot listen there: {reason}.",
                where=joined(self.host, self.port),
                next_step="Choose another --listen HOST:PORT.",
            ) from error
        self.port = server.sockets[0].getsockname()[1]
        return server

    def end_connections(self) -> None:
        """End every connection: what vouched for it is trusted no more."""
        for writer in list(self._writers):
            writer.transport.abort()
