"""uvicorn's HTTP protocol, telling the application who is at the other end of its TLS connection."""

from __future__ import annotations

import ssl
from typing import Any

from antiphon.gateway.bounded_connection import BoundedConnection
from antiphon.gateway.peer import EXTENSION, TlsConnection
from antiphon.governance.certificate_checks import described


class TlsAwareConnection(BoundedConnection):
    """Puts a :class:`~antiphon.gateway.peer.TlsConnection` into each scope; read once, at the handshake."""

    _tls: TlsConnection | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("ssl_object")
        self._tls = None if connection is None else _read(connection)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._tls is not None:
            extensions: dict[str, Any] = {EXTENSION: self._tls}
            self.scope["extensions"] = extensions


def _read(connection: ssl.SSLObject) -> TlsConnection:
    cipher = connection.cipher()
    shown = connection.getpeercert(binary_form=True)
    peer = None
    if shown is not None:
        from cryptography import x509

        peer = described(x509.load_der_x509_certificate(shown))
    return TlsConnection(connection.version() or "", cipher[0] if cipher else "", peer)
