"""The servers that features grow to, over TLS: NATS, Redis and Valkey with certificates of a private authority."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.features.world import NOON, World, event
from tests.integration.gateway.tls_world import DAY, Issued, issue
from tests.servers import NatsProcess, RedisProcess, ServerProcess

from antiphon.catalog.features.events import StreamHomes
from antiphon.core.codec import PlainCodec
from antiphon.core.errors import InvalidInputError, SetupError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.core.tls import ClientTls
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.streaming.nats_access import Access
from antiphon.features.streaming.nats_log import NatsEventLog
from antiphon.features.streaming.nats_server import NatsServer

KINDS = ("nats", "redis", "valkey")


class Authority:
    """An authority, and the files of those that it vouches for."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder, self.root = folder, issue(name, authority=True)
        self.file, _ = self.root.write(folder, name)

    def files(self, name: str, by: Issued | None = None, **dates: object) -> tuple[Path, Path]:
        return issue(name, by or self.root, **dates).write(self.folder, name)  # type: ignore[arg-type]


class RedisOverTls(RedisProcess):
    """A Redis or Valkey that speaks TLS alone."""

    def command(self) -> list[str]:
        return [*super().command(), "--port", "0", "--tls-port", str(self.port)]

    def answers(self) -> bool:
        return ServerProcess.answers(self)


def process_of(kind: str, authority: Path, files: tuple[Path, Path], *, mutual: bool = False) -> ServerProcess:
    certificate, key = map(str, files)
    if kind == "nats":
        options = ["--tls", "--tlscert", certificate, "--tlskey", key, "--tlscacert", str(authority)]
        return NatsProcess(*options, *(["--tlsverify"] if mutual else []))
    options = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", str(authority)]
    return RedisOverTls(f"{kind}-server", *options, "--tls-auth-clients", "yes" if mutual else "no")


def describe(kind: str, port: int, tls: ClientTls, host: str = "localhost") -> str:
    if kind == "nats":
        log = NatsServer(f"tls://{host}:{port}", Access(tls=tls), timeout=2.0)
        try:
            return log.describe()
        finally:
            log.close()
    store = RedisServer(f"rediss://{host}:{port}/0", tls=tls, timeout=2.0)
    try:
        return store.describe()
    finally:
        store.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def mutual(authority: Authority) -> Iterator[Callable[[str], ServerProcess]]:
    """A server of a kind that asks for a certificate of the authority."""
    started: dict[str, ServerProcess] = {}

    def of(kind: str) -> ServerProcess:
        if kind not in started:
            started[kind] = process_of(kind, authority.file, authority.files("server"), mutual=True)
            started[kind].start()
        return started[kind]

    yield of
    for process in started.values():
        process.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_show_a_certificate_of_a_private_authority(
    kind: str, authority: Authority, mutual: Callable[[str], ServerProcess]
) -> None:
    process = mutual(kind)
    ours = ClientTls(authority.file, *authority.files("antiphon"))
    assert describe(kind, process.port, ours).lower().startswith(kind)
    assert describe(kind, process.port, ours, "127.0.0.1").lower().startswith(kind)
    field = "log" if kind == "nats" else "online"
    stranger = Authority(authority.folder, "stranger")
    late = authority.files("late", ends=-DAY / 2)
    for files in ((), stranger.files("foreign"), late):
        # What was sent meanwhile makes some servers reset the connection before their alert is read.
        with pytest.raises((SetupError, UnavailableError), match=r"ended the connection|does not answer") as told:
            describe(kind, process.port, ClientTls(authority.file, *files))
        assert f"{field}_client_certificate" in str(told.value)
    for trusted in (stranger.file, None):
        with pytest.raises(SetupError, match=r"is not accepted: (self-signed|unable to get local issuer)") as told:
            describe(kind, process.port, ClientTls(trusted, *authority.files("antiphon")))
        assert f"{field}_authority" in str(told.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dates", "names", "told"),
    [({"ends": -DAY / 2}, (), "certificate has expired"), ({"begins": DAY / 2}, (), "not yet valid"),
     ({}, ("other.example",), "[Hh]ostname mismatch")],
)  # fmt: skip
def test_a_certificate_out_of_its_dates_or_for_another_name_is_refused(
    kind: str, dates: dict[str, object], names: tuple[str, ...], told: str, authority: Authority
) -> None:
    files = authority.files("wrong", **dates, **({"names": names} if names else {}))
    process = process_of(kind, authority.file, files)
    process.start()
    try:
        with pytest.raises(SetupError, match=told):
            describe(kind, process.port, ClientTls(authority.file))
    finally:
        process.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_missing_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no such file") as told:
        describe(kind, 1, ClientTls(tmp_path / "none.pem"))
    assert "none.pem" in str(told.value)


def test_events_and_values_go_over_tls(
    authority: Authority, mutual: Callable[[str], ServerProcess], tmp_path: Path
) -> None:
    ours = ClientTls(authority.file, *authority.files("antiphon"))
    world = World(tmp_path)
    server = NatsServer(f"tls://localhost:{mutual('nats').port}", Access(tls=ours), timeout=2.0)
    store = RedisServer(f"rediss://localhost:{mutual('valkey').port}/0", tls=ours, timeout=2.0)
    try:
        log = NatsEventLog(server, StreamHomes(world.database), PlainCodec())
        log.append(Scope(), "departures", [event(f"e{number}", NOON) for number in range(3)])
        assert [each.offset for each in log.read(Scope(), "departures", 0, 10)] == [1, 2, 3]
        with store.answering():
            store.client.set("key", b"value")
            assert store.client.get("key") == b"value"
    finally:
        server.close()
        store.close()
        world.close()


def test_a_password_is_not_sent_to_a_server_that_does_not_offer_tls() -> None:
    """Whoever stands in between could answer in clear: nothing but a closed connection is what they get."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        port = listening.getsockname()[1]

        def answer() -> None:
            line, _ = listening.accept()
            with line:
                line.settimeout(10)
                line.sendall(
                    b'INFO {"server_id":"x","version":"2.10.27","max_payload":1048576,"auth_required":true}\r\n'
                )
                while part := line.recv(4096):
                    got.append(part)
                    line.sendall(b"PONG\r\n")

        between = threading.Thread(target=answer)
        between.start()
        server = NatsServer(f"tls://127.0.0.1:{port}", Access(password="s3cret"), timeout=2.0)
        try:
            with pytest.raises(SetupError, match="does not offer TLS; nothing was sent"):
                server.describe()
        finally:
            server.close()
        between.join(20)
    assert not between.is_alive()
    assert b"".join(got) == b""


@pytest.mark.parametrize(
    ("url", "tls", "told"),
    [
        ("redis://h/0", ClientTls(Path("authority.pem")), "does not ask for TLS"),
        ("rediss://h/0?ssl_cert_reqs=none", ClientTls(), "changes how certificates are verified"),
        ("rediss://h/0?ssl_check_hostname=false", ClientTls(), "changes how certificates are verified"),
    ],
)
def test_verification_cannot_be_turned_off(url: str, tls: ClientTls, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        RedisServer(url, tls=tls)
