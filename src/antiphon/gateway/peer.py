"""Identity at the other end of a TLS connection, by the certificate that OpenSSL verified.

ASGI servers do not tell an application about the connection's certificate; here the protocol puts it into the scope,
parsed once a connection. A certificate names a principal by its common name and a tenant by its organization. Whether
such a principal exists, and what it may do, is decided by whoever calls :func:`peer_certificate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from antiphon.governance.certificates.checks import CertificateFacts

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
