"""uvicorn's HTTP protocol over TLS: the handshake is bounded like a head, and the application is told who is at the
other end of the connection, by the certificate that OpenSSL verified.

ASGI servers do not tell an application about the connection's certificate; here the protocol puts it into the scope,
parsed once a connection. A certificate names a principal by its common name and a tenant by its organization. Whether
such a principal exists, and what it may do, is decided by whoever calls :func:`peer_certificate`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Generator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from antiphon.gateway.http.bounded_connection import BoundedConnection
from antiphon.governance.certificates.checks import CertificateFacts, described

HANDSHAKE_SECONDS = 15.0
EXTENSION = "antiphon.tls"


class TlsConnection(msgspec.Struct, frozen=True):
    """The result of a TLS handshake; ``peer`` is the client's verified certificate, if it showed one."""

    version: str
    cipher: str
    peer: CertificateFacts | None = None


def tls_connection(scope: Mapping[str, Any]) -> TlsConnection | None:
    """The request's TLS connection; ``None`` over plain HTTP."""
    found = scope.get("extensions", {}).get(EXTENSION)
    return found if isinstance(found, TlsConnection) else None


def peer_certificate(scope: Mapping[str, Any], now: datetime) -> CertificateFacts | None:
    """The client's certificate, verified at the handshake and still inside its dates; ``None`` without one."""
    connection = tls_connection(scope)
    if connection is None or connection.peer is None or connection.peer.wrong_date(now) is not None:
        return None
    return connection.peer


class TlsAwareConnection(BoundedConnection):
    """Puts a :class:`TlsConnection` into each scope; read once, at the handshake.

    Args:
        tls: makes the handshake of each connection; ``None`` speaks plain HTTP. It is made here, and not by the
            listener, so that a connection counts from its first moment on and not when its handshake is complete.
    """

    handshake_seconds = HANDSHAKE_SECONDS

    def __init__(self, *args: Any, tls: ssl.SSLContext | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._context = tls
        self._tls: TlsConnection | None = None
        self._ready = False
        self._early = b""
        self._handshake: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        if self._context is None:
            self._ready = True
            super().connection_made(transport)
            return
        self._register(transport)
        loop = asyncio.get_running_loop()
        secured = _EagerCoroutine(
            loop.start_tls(
                transport, self, self._context, server_side=True, ssl_handshake_timeout=self.handshake_seconds
            )
        )
        self._handshake = loop.create_task(self._shake_hands(transport, secured))

    def data_received(self, data: bytes) -> None:
        if not self._ready:
            self._early += data  # The handshake is complete, and connection_made comes in a moment.
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ready:
            self._forget()
        else:
            super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._tls is not None:
            extensions: dict[str, Any] = {EXTENSION: self._tls}
            self.scope["extensions"] = extensions

    async def _shake_hands(self, transport: Any, upgrade: _EagerCoroutine) -> None:
        try:
            secured: Any = await upgrade
            shaken = secured.get_extra_info("ssl_object")
            # It may have been dropped meanwhile, for the sake of others.
            self._tls = None if shaken is None or secured.is_closing() else _read(shaken)
        # ssl.SSLError is an OSError, TransportSecurity tells why; a certificate that cannot be read is a ValueError.
        except (OSError, ValueError, asyncio.CancelledError):
            pass
        if self._tls is None:
            transport.abort()
            self._forget()
            return
        self._ready = True
        super().connection_made(secured)
        if early := self._early:
            self._early = b""
            self.data_received(early)


class _EagerCoroutine:
    """A coroutine that has run to its first suspension by now, and goes on when it is awaited.

    uvloop reads from a new connection before any task has run: whoever is to read its first bytes is there at once.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._awaited = coroutine.send(None)

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            while True:
                try:
                    yield self._awaited
                except BaseException as error:
                    self._awaited = self._coroutine.throw(error)
                else:
                    self._awaited = self._coroutine.send(None)
        except StopIteration as end:
            return end.value


def _read(connection: ssl.SSLObject) -> TlsConnection:
    cipher = connection.cipher()
    shown = connection.getpeercert(binary_form=True)
    peer = None
    if shown is not None:
        from cryptography import x509

        peer = described(x509.load_der_x509_certificate(shown))
    return TlsConnection(connection.version() or "", cipher[0] if cipher else "", peer)
