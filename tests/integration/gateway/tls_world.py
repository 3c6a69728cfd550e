"""Certificates that nobody should accept, made without the product's own maker, and a gateway that serves TLS."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from antiphon.core.clock import SystemClock
from antiphon.gateway import health
from antiphon.gateway.http.tls_protocol import TlsAwareConnection, peer_certificate, tls_connection
from antiphon.gateway.http.transport_security import TlsFiles, TransportSecurity

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.pem)
        key.write_bytes(self.key_pem)
        return certificate, key


def issue(
    name: str,
    by: Issued | None = None,
    *,
    begins: timedelta = -DAY,
    ends: timedelta = DAY,
    authority: bool = False,
    names: tuple[str, ...] = ("localhost",),
    organization: str = "default",
) -> Issued:
    """A certificate by ``by``, or by itself; its dates are relative to now."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    alternative: list[x509.GeneralName] = [x509.DNSName(other) for other in names]
    alternative.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    )
    if not authority:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        built = built.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return Issued(built.sign(key if by is None else by.key, hashes.SHA256()), key)


@dataclass
class Served:
    """A gateway's TLS end, with a small application behind it."""

    port: int
    transport: TransportSecurity
    server: uvicorn.Server


async def _who(request: Request) -> JSONResponse:
    connection = tls_connection(request.scope)
    peer = peer_certificate(request.scope, datetime.now(UTC))
    return JSONResponse(
        {
            "scheme": request.url.scheme,
            "version": connection and connection.version,
            "peer": peer and [peer.organization, peer.common_name],
        }
    )


async def _slowly(request: Request) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"part\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(parts())


class _Ready:
    async def ready(self) -> dict[str, str | None]:
        return {}

    def notices(self) -> dict[str, str]:
        return {}

    @property
    def health(self) -> _Ready:
        return self


@asynccontextmanager
async def serve_tls(files: TlsFiles, *, poll: float = 0.02, clock: Any = None) -> AsyncIterator[Served]:
    """Serve on a free loopback port, with uvloop as the gateway does where the test runs on it."""
    transport = TransportSecurity(files, clock or SystemClock())
    app = Starlette(routes=[Route("/", _who), Route("/slowly", _slowly), Route("/readyz", health.readyz)])
    app.state.transport, app.state.services = transport, _Ready()
    config = uvicorn.Config(
        app,
        http=cast(Any, functools.partial(TlsAwareConnection, tls=transport.context)),
        log_config=None,
        lifespan="off",
        access_log=False,
    )
    # An event loop turns Nagle's algorithm off only where the socket names the protocol.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        async with asyncio.timeout(10):
            while not server.started:
                await asyncio.sleep(0.01)
        loop = asyncio.get_running_loop()

        def end_connections() -> None:
            for connection in tuple(server.server_state.connections):
                connection.shutdown()

        transport.on_client_ca = lambda: loop.call_soon_threadsafe(end_connections)
        watching = asyncio.create_task(transport.watch(poll))
        try:
            yield Served(listener.getsockname()[1], transport, server)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            server.should_exit = True
            await task


async def ask(port: int, context: ssl.SSLContext | None, name: str = "localhost", path: str = "/") -> bytes:
    """The whole answer to one request; OpenSSL's or the socket's error where there is none."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=name if context is not None else None
        )
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n".encode())
            if context is None:
                # The server leaves closing to whoever spoke the wrong protocol, so that the answer is not lost.
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                return head + await reader.readexactly(length)
            answer = await reader.read()
            if not answer:
                raise ConnectionResetError("closed without an answer")
            return answer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def shown(port: int) -> str:
    """The SHA-256 of the certificate that a new handshake is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return x509.load_der_x509_certificate(der).fingerprint(hashes.SHA256()).hex()


def trusting(
    *authorities: Issued | Path, client: tuple[Path, Path] | None = None, verify: bool = True
) -> ssl.SSLContext:
    """A client's context; ``verify=False`` is the client whose check is switched off."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for authority in authorities:
        if isinstance(authority, Path):
            context.load_verify_locations(authority)
        else:
            context.load_verify_locations(cadata=authority.pem.decode())
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if client is not None:
        context.load_cert_chain(*client)
    return context
