"""Clients of ours meet a certificate that has expired, by real handshakes before real servers, and refuse it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.harness.ports import free_port
from tests.integration.features.test_server_tls import Authority, describe, process_of
from tests.integration.gateway.tls_world import serve_tls, trusting
from tests.integration.operations.chaos.test_http_503 import counted
from tests.integration.operations.chaos.test_tcp_proxy import order
from tests.servers import PostgresProcess, ServerProcess

from antiphon.catalog.database import Database, backend_of
from antiphon.catalog.postgres_server import PostgresAccess
from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.outgoing import connector
from antiphon.core.settings_processes import ProxySettings
from antiphon.core.tls import ClientTls
from antiphon.gateway.http.transport_security import TlsFiles
from antiphon.operations.chaos.faults import ProxyExpiredCertificate
from antiphon.operations.chaos.guarded_fault import guarded
from antiphon.operations.chaos.proxy_control import proxies_that_answer
from antiphon.operations.chaos.tcp_proxy import serving

FAULT = ProxyExpiredCertificate("server", "600s")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def proxied(run: Path, behind: int, authority: Authority | None) -> AsyncIterator[int]:
    """A proxy before a server, whose expired certificate an authority signs; the proxy's port."""
    own = free_port()
    signer = (None, None) if authority is None else ("authority.crt", "authority.key")
    settings = ProxySettings(f"127.0.0.1:{own}", f"127.0.0.1:{behind}", *signer)
    async with serving({"server": settings}, run, run if authority is None else authority.folder):
        yield own


def catalog(server: PostgresProcess, port: int, tls: ClientTls, parameters: str = "") -> str:
    url = f"postgresql://{server.user}@localhost:{port}/postgres{parameters}"
    opened = Database.of(backend_of(url, PostgresAccess(server.password, tls=tls)))
    try:
        with opened.read() as connection:
            version = connection.exec_driver_sql("SELECT version()").scalar()
    finally:
        opened.close()
    return str(version)


@pytest.mark.parametrize("kind", ["redis", "nats", "postgresql"])
@pytest.mark.parametrize("signed", [True, False])
async def test_a_client_of_ours_refuses_it_and_is_served_again_afterwards(
    kind: str, signed: bool, authority: Authority, tmp_path: Path
) -> None:
    files, trusted = authority.files("server"), ClientTls(authority.file)
    server: ServerProcess
    use: Callable[[int], str]
    if kind == "postgresql":
        server = database = PostgresProcess(certificate=files)
        use = lambda port: catalog(database, port, trusted)  # noqa: E731
    else:
        server = process_of(kind, authority.file, files)
        use = lambda port: describe(kind, port, trusted)  # noqa: E731
    await asyncio.to_thread(server.start)
    try:
        async with proxied(tmp_path, server.port, authority if signed else None) as port:
            assert (await asyncio.to_thread(use, port)).lower().startswith(kind)
            assert await asyncio.to_thread(proxies_that_answer, tmp_path) == {"server": "tls"}
            async with guarded(order(tmp_path, FAULT)):
                with pytest.raises(SetupError, match="certificate") as refused:
                    await asyncio.to_thread(use, port)
                if kind != "postgresql":  # Its driver keeps the reason to itself.
                    assert ("certificate has expired" if signed else "self-signed") in str(refused.value)
            assert (await asyncio.to_thread(use, port)).lower().startswith(kind)
    finally:
        server.remove()
    (told,) = counted(tmp_path)
    assert told.endswith("handshakes refused, 0 accepted")
    assert not told.startswith("0 ")


async def test_a_client_that_does_not_verify_accepts_it_is_counted_and_told_nothing(
    authority: Authority, tmp_path: Path
) -> None:
    files = authority.files("server")
    async with serve_tls(TlsFiles(*files)) as served, proxied(tmp_path, served.port, authority) as port:
        async with guarded(order(tmp_path, FAULT)):
            async with session(ClientTls(authority.file).context()) as verifying:
                with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
                    await asked(verifying, port)
            async with session(trusting(verify=False)) as careless:
                with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
                    await asked(careless, port)
        async with session(ClientTls(authority.file).context()) as verifying:
            assert await asked(verifying, port) == 200
    (told,) = counted(tmp_path)
    assert told.startswith("1 handshakes refused, ")
    assert not told.endswith(" 0 accepted")


async def test_connections_that_there_are_are_reset_and_those_without_tls_are_left_alone(
    authority: Authority, tmp_path: Path
) -> None:
    files = authority.files("server")
    async with serve_tls(TlsFiles(*files)) as served, proxied(tmp_path, served.port, authority) as port:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=ClientTls(authority.file).context(), server_hostname="localhost"
        )
        plain_reader, plain_writer = await asyncio.open_connection("127.0.0.1", port)
        plain_writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = await plain_reader.readuntil(b"\r\n\r\n")
        async with guarded(order(tmp_path, FAULT)):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 20)
            fresh_reader, fresh = await asyncio.open_connection("127.0.0.1", port)
            fresh.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await fresh_reader.readuntil(b"\r\n\r\n"))[:12] == answer[:12]
        for one in (writer, plain_writer, fresh):
            one.close()


@pytest.mark.parametrize(
    ("names", "told"),
    [(("authority.crt", None), "one of both is missing"), (("authority.crt", "none.key"), "No such file"),
     (("authority.crt", "other.key"), "not that of the certificate")],
)  # fmt: skip
async def test_an_authority_that_cannot_sign_is_told_when_the_proxy_starts(
    names: tuple[Any, Any], told: str, authority: Authority, tmp_path: Path
) -> None:
    authority.files("other")
    settings = ProxySettings(f"127.0.0.1:{free_port()}", "127.0.0.1:1", *names)
    with pytest.raises(InvalidInputError, match=told):
        async with serving({"server": settings}, tmp_path, authority.folder):
            pass


@asynccontextmanager
async def session(context: ssl.SSLContext) -> AsyncIterator[Any]:
    async with aiohttp.ClientSession(connector=connector("test", context)) as opened:
        yield opened


async def asked(session: Any, port: int) -> int:
    try:
        async with session.get(f"https://localhost:{port}/") as response:
            return int(response.status)
    except aiohttp.ClientConnectorCertificateError as error:
        raise error.certificate_error from None
