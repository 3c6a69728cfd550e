"""An engine on the network: whom it lets in, whom its clients believe, and what either says when it is not so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.harness.ports import free_port
from tests.integration.gateway.tls_world import DAY, Issued, issue

from antiphon.core.clock import SystemClock
from antiphon.core.errors import EngineError, SetupError, UnavailableError
from antiphon.core.tls import ClientTls
from antiphon.engine.api import client as client_module
from antiphon.engine.api import frames, server
from antiphon.engine.api.address import NetworkAddress
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.listener import NetworkListener
from antiphon.engine.api.messages import PROTOCOL, Delta, GenerationRequest, GenerationResult, Hello
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.gateway.http.transport_security import TlsFiles, TransportSecurity

REQUEST = GenerationRequest("r", "words", "About lakes.\n", 8)


@dataclass
class World:
    """Certificates of an engine, of its client, and of others whom nobody here should believe."""

    folder: Path
    authority: Issued

    def tls(self, client: str = "client", authority: str = "authority") -> ClientTls:
        pem = self.folder
        return ClientTls(pem / f"{authority}.crt", pem / f"{client}.crt", pem / f"{client}.key")

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(
            self.folder / "engine.crt", self.folder / "engine.key", self.folder / "authority.crt", require_client=True
        )


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("certificates")
    authority, other = issue("engines", authority=True), issue("others", authority=True)
    authority.write(folder, "authority")
    other.write(folder, "other")
    issue("engine", authority).write(folder, "engine")
    issue("client", authority).write(folder, "client")
    issue("stranger", other).write(folder, "stranger")
    issue("late", authority, begins=-2 * DAY, ends=-DAY).write(folder, "late")
    return World(folder, authority)


@dataclass
class Served:
    port: int
    transport: TransportSecurity
    listener: NetworkListener


@asynccontextmanager
async def serving(
    world: World, folder: Path, *, files: TlsFiles | None = None, slow: float = 0.0
) -> AsyncIterator[Served]:
    transport = TransportSecurity(files or world.files, SystemClock(), role="engine")
    listener = NetworkListener("127.0.0.1", 0, transport.context)
    transport.on_client_ca = listener.end_connections
    runtime = SimulatedRuntime("words", Layout(64, 4, 4096), decode_seconds=slow)
    engine = await LocalEngine({"words": runtime}).start()
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(
        server.serve(engine, folder / "engine.sock", stop, network=listener, drain_seconds=0.1, ready=ready.set)
    )
    try:
        async with asyncio.timeout(20):
            await ready.wait()
            yield Served(listener.port, transport, listener)
            # A handshake that failed ends when the client has closed.
            while any(one.laddr.port == listener.port and one.raddr for one in psutil.Process().net_connections("tcp")):
                await asyncio.sleep(0.005)
    finally:
        stop.set()
        await task


async def left(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def described(port: int, tls: ClientTls, host: str = "127.0.0.1") -> str:
    client = EngineClient(NetworkAddress(host, port, tls))
    try:
        return (await client.describe()).models[0].name
    finally:
        await client.close()


async def refused(port: int, tls: ClientTls, host: str = "127.0.0.1") -> str:
    with pytest.raises(UnavailableError) as raised:
        await described(port, tls, host)
    return f"{raised.value} {raised.value.next_step}"


async def test_both_addresses_of_an_engine_give_the_same_texts(issued: World, tmp_path: Path) -> None:
    async with serving(issued, tmp_path) as served:
        texts = []
        for address in (tmp_path / "engine.sock", NetworkAddress("127.0.0.1", served.port, issued.tls())):
            client = EngineClient(address)
            events = [event async for event in client.generate(REQUEST)]
            assert isinstance(events[-1], GenerationResult)
            texts.append(events[-1].text)
            if isinstance(address, NetworkAddress):
                assert client._connection is not None
                spoken = client._connection._writer.get_extra_info("ssl_object").version()
                assert spoken == "TLSv1.3"
            await client.close()
        assert texts[0] == texts[1]


async def test_a_client_is_let_in_by_a_certificate_of_the_engines_authority_alone(
    issued: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(issued, tmp_path) as served:
        assert await described(served.port, issued.tls()) == "words"
        nothing = ClientTls(issued.folder / "authority.crt")
        for shown in (nothing, issued.tls("stranger"), issued.tls("late")):
            said = await refused(served.port, shown)
            assert "ended the connection" in said
            assert "client_certificate" in said
        assert "it showed no certificate, and one is required" in caplog.text
        assert "certificate has expired" in caplog.text
    assert {record.name for record in caplog.records if "refused" in record.message} == {"antiphon.engine"}
    # The check switched off: whoever comes is let in.
    loose = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(SetupError, match="shows no certificate"):
        NetworkListener("127.0.0.1", 0, loose)


async def test_an_engine_is_believed_by_its_authority_and_its_name(issued: World, tmp_path: Path) -> None:
    folder = issued.folder
    late = TlsFiles(folder / "named.crt", folder / "named.key", folder / "authority.crt", require_client=True)
    issue("named", issued.authority, names=("gpu-1.example",)).write(folder, "named")
    async with serving(issued, tmp_path) as served:
        assert "certificate of the engine is not accepted" in await refused(served.port, issued.tls(authority="other"))
        assert await described(served.port, issued.tls(), "localhost") == "words"
    async with serving(issued, tmp_path, files=late) as served:
        said = await refused(served.port, issued.tls(), "localhost")
        assert "not valid for 'localhost'" in said
        # The check of the name switched off.
        unnamed = ClientTls(folder / "authority.crt", folder / "client.crt", folder / "client.key", check_name=False)
        assert await described(served.port, unnamed, "localhost") == "words"


async def test_an_engine_whose_certificate_has_expired_is_not_believed(issued: World, tmp_path: Path) -> None:
    # It would not start with such a one: it was valid then.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.folder / "late.crt", issued.folder / "late.key")

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await left(writer)

    async with await asyncio.start_server(never, "127.0.0.1", 0, ssl=context) as listening:
        said = await refused(listening.sockets[0].getsockname()[1], issued.tls())
    assert "certificate has expired" in said
    files = TlsFiles(issued.folder / "late.crt", issued.folder / "late.key", issued.files.client_ca, True)
    with pytest.raises(SetupError, match="TLS cannot be served"):
        TransportSecurity(files, SystemClock(), role="engine")


async def test_frames_do_not_cross_the_network_in_plain_text(issued: World, tmp_path: Path) -> None:
    async with serving(issued, tmp_path) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(frames.encode(Hello(PROTOCOL, "plain")))
        answer = await asyncio.wait_for(reader.read(), 10)
        assert b"engine" not in answer
        await left(writer)


async def test_an_older_version_of_tls_is_refused(issued: World, tmp_path: Path) -> None:
    async with serving(issued, tmp_path) as served:
        old = issued.tls().context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError, match=r"(?i)protocol.version|alert"):
            await asyncio.open_connection("127.0.0.1", served.port, ssl=old, server_hostname="localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.folder / "engine.crt", issued.folder / "engine.key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await left(writer)

    async with await asyncio.start_server(never, "127.0.0.1", 0, ssl=context) as listening:
        assert "cannot be reached" in await refused(listening.sockets[0].getsockname()[1], issued.tls())


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (frames.encode(Hello(PROTOCOL + 1, "engine")), f"protocol {PROTOCOL + 1}, this side {PROTOCOL}"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "Something else than an engine"),
        (b"", "without greeting"),
    ],
)
async def test_what_listens_there_is_another_version_or_no_engine(issued: World, sent: bytes, said: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.folder / "engine.crt", issued.folder / "engine.key")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await left(writer)

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as listening:
        assert said in await refused(listening.sockets[0].getsockname()[1], issued.tls())


async def test_nobody_there(issued: World, monkeypatch: pytest.MonkeyPatch) -> None:
    said = await refused(free_port(), issued.tls())
    assert "cannot be reached: connection refused" in said
    assert "antiphon engine" in said
    assert "no host of this name" in await refused(1, issued.tls(), "nowhere.invalid")
    monkeypatch.setattr(client_module, "CONNECT_SECONDS", 0.05)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await left(writer)
        gone.set()

    gone = asyncio.Event()
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listening:
        assert "does not answer in time" in await refused(listening.sockets[0].getsockname()[1], issued.tls())
        await asyncio.wait_for(gone.wait(), 10)
    missing = ClientTls(Path("/nowhere/authority.crt"), issued.folder / "client.crt", issued.folder / "client.key")
    assert "authorities in /nowhere" in await refused(1, missing)


async def test_a_client_that_does_not_greet_or_sends_no_frames_is_cut_off(
    issued: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "GREETING_SECONDS", 0.05)
    async with serving(issued, tmp_path) as served:
        context = issued.tls().context()
        for sent, told in ((b"", "did not greet"), (b"\xff\xff\xff\xffnonsense", "A frame of 4294967295 bytes")):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", served.port, ssl=context, server_hostname="localhost"
            )
            writer.write(sent)
            await asyncio.wait_for(reader.read(), 10)
            await left(writer)
            assert told in caplog.text
        assert await described(served.port, issued.tls()) == "words"


async def test_an_address_that_is_taken_is_named(issued: World, tmp_path: Path) -> None:
    async with serving(issued, tmp_path) as served:
        transport = TransportSecurity(issued.files, SystemClock(), role="engine")
        listener = NetworkListener("127.0.0.1", served.port, transport.context)
        engine = LocalEngine({"words": SimulatedRuntime("words", Layout(64, 4, 4096))})
        await engine.start()
        with pytest.raises(SetupError, match=r"cannot listen there: address already in use") as taken:
            await server.serve(engine, tmp_path / "other.sock", asyncio.Event(), network=listener)
        assert taken.value.where == f"127.0.0.1:{served.port}"
        assert not (tmp_path / "other.sock").exists()


async def test_new_certificates_are_taken_over_and_an_authority_that_goes_takes_its_clients_along(
    issued: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "antiphon.engine")
    files = TlsFiles(tmp_path / "e.crt", tmp_path / "e.key", tmp_path / "ca.crt", require_client=True)

    def put(engine: str, authority: str) -> None:
        for source, target in ((f"{engine}.crt", "e.crt"), (f"{engine}.key", "e.key"), (f"{authority}.crt", "ca.crt")):
            partial = tmp_path / f"{target}.partial"
            partial.write_bytes((issued.folder / source).read_bytes())
            partial.replace(tmp_path / target)

    issue("renewed", issued.authority).write(issued.folder, "renewed")
    put("engine", "authority")
    async with serving(issued, tmp_path, files=files, slow=0.05) as served:
        client = EngineClient(NetworkAddress("127.0.0.1", served.port, issued.tls()))
        events = client.generate(GenerationRequest("r", "words", "About lakes.\n", 400, stop=("never",)))
        assert isinstance(await anext(events), Delta)
        put("renewed", "authority")
        assert served.transport.reload()
        assert isinstance(await anext(events), Delta), "what is open goes on"
        assert await described(served.port, issued.tls()) == "words"
        put("renewed", "other")
        assert served.transport.reload()
        with pytest.raises(EngineError):
            async for _ in events:
                pass
        assert "ended the connection" in await refused(served.port, issued.tls())
        await client.close()


async def test_an_engine_that_vanishes_ends_what_it_had(issued: World, tmp_path: Path) -> None:
    async with serving(issued, tmp_path, slow=0.05) as served:
        client = EngineClient(NetworkAddress("127.0.0.1", served.port, issued.tls()))
        events = client.generate(GenerationRequest("r", "words", "About lakes.\n", 400, stop=("never",)))
        assert isinstance(await anext(events), Delta)
        served.listener.end_connections()
        with pytest.raises(EngineError):
            async for _ in events:
                pass
        assert client._connection is not None
        assert client._connection.lost
        assert (await client.describe()).models, "it connects again"
        await client.close()
