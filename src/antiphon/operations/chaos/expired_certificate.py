"""A server's certificate that has expired, made for one fault, and the handshake in which a client meets it.

Invariants: the key lives in this process alone and ends with it. Nothing of what a client sends within TLS is read: one
that accepts the certificate is cut off after the handshake. Without an authority the certificate is signed by itself,
and a client refuses it for that before it looks at the dates.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from antiphon.core.errors import InvalidInputError

_BEGAN, _ENDED = timedelta(days=91), timedelta(days=1)
_HANDSHAKE_SECONDS = 10.0
_PIECE = 65_536


class ExpiredCertificate:
    """Certificates that ended yesterday, for whatever name a client asks for.

    Args:
        names: hosts of those that send no name. ``authority``: PEM files of a certificate and its key, which signs.

    Raises:
        InvalidInputError: these files cannot be used.
    """

    def __init__(self, names: Collection[str], authority: tuple[Path, Path] | None, *, where: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._names = tuple(names)
        self._signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey] | None = None
        if authority is not None:
            try:
                certificate = x509.load_pem_x509_certificate(authority[0].read_bytes())
                key = load_pem_private_key(authority[1].read_bytes(), None)
            except (OSError, ValueError, TypeError) as error:
                raise _unusable(where, str(error)) from None
            known = isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
            if not known or key.public_key() != certificate.public_key():
                raise _unusable(where, "the key is not that of the certificate")
            self._signer = certificate, cast(ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, key)
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: bytes) -> bool:
        """Shake hands with a client whose first bytes were read; tells whether it accepted the certificate."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = self._context("").wrap_bio(incoming, outgoing, server_side=True)
        received = hello
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                while received:
                    incoming.write(received)
                    accepted = _shaken(server)
                    writer.write(outgoing.read())
                    await writer.drain()
                    if accepted is not None:
                        return accepted
                    received = await reader.read(_PIECE)
        return False

    def _context(self, name: str) -> ssl.SSLContext:
        known = self._contexts.get(name)
        if known is None:
            known = self._contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
                file = Path(folder) / "expired.pem"  # The context reads files alone; this one is gone at once.
                descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as written:
                    written.write(self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
                    written.write(self.certificate(name).public_bytes(Encoding.PEM))
                known.load_cert_chain(file)
            known.sni_callback = self._named
        return known

    def _named(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        if name and len(self._contexts) < 100:
            connection.context = self._context(name)

    def certificate(self, name: str, now: datetime | None = None) -> x509.Certificate:
        """The certificate for a name; it ended a day ago."""
        at = now or datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "expired by a chaos experiment")])
        issuer, key = (subject, self._key) if self._signer is None else (self._signer[0].subject, self._signer[1])
        names = [_general_name(one) for one in dict.fromkeys((*([name] if name else []), *self._names))]
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at - _BEGAN)
            .not_valid_after(at - _ENDED)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        return built.sign(key, hashes.SHA256())


def _shaken(server: ssl.SSLObject) -> bool | None:
    """Tells whether the handshake is over and the client accepted; ``None``: more of it is to come."""
    try:
        server.do_handshake()
    except ssl.SSLWantReadError:
        return None
    except ssl.SSLError:
        return False
    return True


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _unusable(where: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"The authority of the expired certificate cannot be used: {why}.", where=where,
        next_step="Name PEM files of a test authority under `authority` and `authority_key`, or leave both out.",
    )  # fmt: skip
