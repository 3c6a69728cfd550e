"""Addresses of engine processes: the path of a Unix socket on this machine, or a host and port over mutual TLS.

Frames cross a network over TLS 1.3 only, and each side shows a certificate of the authority that the other one trusts.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.core.tls import ClientTls

SCHEME = "antiphon+tls"

SILENT_SECONDS = 10
"""A peer on the network that acknowledges nothing for about so long has vanished."""


class NetworkAddress(msgspec.Struct, frozen=True):
    """Host and port of an engine that listens on the network, and the certificates to meet it with."""

    host: str
    port: int
    tls: ClientTls

    def __str__(self) -> str:
        return f"{SCHEME}://{joined(self.host, self.port)}"


EngineAddress = Path | NetworkAddress
"""A path is that of a Unix socket."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(address: EngineAddress, seconds: float) -> Streams:
    """Connect to an engine, over the network with a handshake of at most so many seconds.

    Raises:
        InvalidInputError: a file of the certificates is missing or is not what it should be.
        OSError: the engine is not reached, or one side does not accept the other's certificate (``ssl.SSLError``).
    """
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(address)
    context = address.tls.context(ssl.TLSVersion.TLSv1_3)
    streams = await asyncio.open_connection(
        address.host, address.port, ssl=context, server_hostname=address.host, ssl_handshake_timeout=seconds
    )
    notice_silence(streams[1].get_extra_info("socket"))
    return streams


def notice_silence(connection: socket.socket) -> None:
    """Let the kernel end a TCP connection whose peer has vanished, whether anything is being sent or not."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", SILENT_SECONDS // 2),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", SILENT_SECONDS * 1000),
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def is_engine_url(url: str) -> bool:
    """True for the URL of an engine that speaks our frames."""
    return url.partition("://")[0].lower() == SCHEME


def parse_url(url: str, where: str) -> tuple[str, int]:
    """Host and port of ``antiphon+tls://HOST:PORT``.

    Raises:
        InvalidInputError: it is something else. The URL is not repeated: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or parts.username is not None or parts.path.strip("/") or parts.query:
        raise InvalidInputError(
            "The url is not that of an engine.",
            where=where,
            next_step=f'Write url = "{SCHEME}://HOST:PORT"; certificates stand in for users and passwords.',
        )
    return host, port


def parse_host_port(text: str, where: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[ADDRESS]:PORT``; raises ``InvalidInputError`` for anything else."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not host or "/" in host or "@" in host or not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise InvalidInputError(
            "An address to listen on is HOST:PORT.", where=where, next_step='For example "0.0.0.0:8790".'
        )
    return host, int(port)


def joined(host: str, port: int) -> str:
    """``HOST:PORT``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
