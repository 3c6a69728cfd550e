"""A remote engine over https: whom it is believed, and where its key does not go."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.integration.gateway.tls_world import serve_tls

from antiphon.core.errors import InvalidInputError, UnavailableError
from antiphon.core.tls import ClientTls
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.gateway.http.transport_security import TlsFiles
from antiphon.governance.certificates.authority import CertificateSpec, init

MODELS = b'{"object": "list", "data": [{"id": "theirs", "object": "model"}]}'


@asynccontextmanager
async def remote(folder: Path, seen: list[bytes], *, mutual: bool = False) -> AsyncIterator[int]:
    """A server of OpenAI's ``/v1/models`` with this certificate; what it is sent is kept."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "current" / "server.crt", folder / "current" / "server.key")
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "current" / "authority.crt")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: "
            + str(len(MODELS)).encode() + b"\r\n\r\n" + MODELS
        )  # fmt: skip
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init(tmp_path / "tls", CertificateSpec(), datetime.now(UTC))
    return tmp_path / "tls"


async def described(port: int, tls: ClientTls | None, host: str = "localhost") -> str:
    engine = RemoteEngine(f"https://{host}:{port}/v1", key="planted", tls=tls)
    try:
        return (await engine.describe()).models[0].name
    finally:
        await engine.close()


async def test_the_authority_that_is_named_is_believed_and_no_other(folder: Path, tmp_path: Path) -> None:
    init(tmp_path / "other", CertificateSpec(), datetime.now(UTC))
    init(tmp_path / "named", CertificateSpec(names=("elsewhere.example",), addresses=()), datetime.now(UTC))
    seen: list[bytes] = []
    async with remote(folder, seen) as port:
        trusted = ClientTls(folder / "current" / "authority.crt")
        assert await described(port, trusted) == "theirs"
        assert b"planted" in seen.pop()
        for wrong in (None, ClientTls(tmp_path / "other" / "current" / "authority.crt")):
            with pytest.raises(UnavailableError, match="certificate is not accepted"):
                await described(port, wrong)
    async with remote(tmp_path / "named", seen) as port:
        known = tmp_path / "named" / "current" / "authority.crt"
        with pytest.raises(UnavailableError, match="certificate is not accepted"):
            await described(port, ClientTls(known))
        assert seen == [], "the key was sent to nobody who was not believed"
        # The check switched off: the same server gets the key.
        assert await described(port, ClientTls(known, check_name=False)) == "theirs"
    assert b"planted" in seen.pop()


async def test_a_remote_engine_that_asks_for_a_certificate_is_shown_it(folder: Path) -> None:
    seen: list[bytes] = []
    current = folder / "current"
    async with remote(folder, seen, mutual=True) as port:
        shown = ClientTls(current / "authority.crt", current / "client.crt", current / "client.key")
        assert await described(port, shown) == "theirs"
        with pytest.raises(UnavailableError, match=r"cannot be reached|TLS alert"):
            await described(port, ClientTls(current / "authority.crt"))
    files = TlsFiles(current / "server.crt", current / "server.key", current / "authority.crt", True)
    async with serve_tls(files) as served:  # it lets its clients hear why
        with pytest.raises(UnavailableError, match="TLS alert") as raised:
            await described(served.port, ClientTls(current / "authority.crt"))
        assert "client_certificate" in str(raised.value.next_step)
    with pytest.raises(InvalidInputError, match=r"The client certificate .* and its key"):
        ClientTls(current / "authority.crt", current / "client.crt", current / "server.key").context()


def test_a_certificate_that_is_replaced_while_it_is_read_is_read_again(folder: Path) -> None:
    current = folder / "current"
    named = [str(current / "server.crt"), str(current / "client.crt")]  # the first does not fit the key

    class Moved(type(current)):  # type: ignore[misc]
        def __fspath__(self) -> str:
            return named.pop(0)

    assert ClientTls(current / "authority.crt", Moved(current / "client.crt"), current / "client.key").context()
    assert not named


async def test_a_key_does_not_cross_a_network_in_plain_text(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="clear text"):
        RemoteEngine("http://models.example/v1", key="planted")
    await RemoteEngine("http://127.0.0.1:1/v1", key="planted").close()
    await RemoteEngine("http://models.example/v1").close()
    with pytest.raises(InvalidInputError, match="cannot be used"):
        RemoteEngine("https://models.example/v1", tls=ClientTls(folder / "nothing"))
