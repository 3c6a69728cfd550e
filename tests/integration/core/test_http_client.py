"""The synchronous HTTP client against servers on real sockets: honest, slow, endless, redirecting and not trusted."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from antiphon.core import http_client, outgoing
from antiphon.core.errors import InvalidInputError
from antiphon.core.http_client import HttpClient, HttpResponse, ResponseError
from antiphon.core.tls import ClientTls
from antiphon.governance.certificates.authority import AUTHORITY, SERVER, SERVER_KEY, CertificateSpec, init

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
Answer = Callable[[Any, int], None]
"""Serves one connection, given its socket and its number."""


class Server:
    """Accepts connections on the loopback; ``requests`` holds every request that came whole."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.stop = threading.Event()
        self._answer, self._context = answer, context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(peer, self.connections), daemon=True).start()

    def _serve(self, peer: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), peer:
            if self._context is None:
                self._answer(peer, number)
            else:
                with self._context.wrap_socket(peer, server_side=True) as encrypted:
                    self._answer(encrypted, number)

    def request(self, peer: Any) -> bool:
        """Read one request; false when the client has closed."""
        head = b""
        while b"\r\n\r\n" not in head:
            piece = peer.recv(65_536)
            if not piece:
                return False
            head += piece
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        whole = head.index(b"\r\n\r\n") + 4 + (int(length[0].split(b":")[1]) if length else 0)
        while len(head) < whole:
            head += peer.recv(65_536)
        self.requests.append(head)
        return True

    def close(self) -> None:
        self.stop.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextmanager
def serving(answer: Callable[[Server, Any, int], None], context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server: Server
    server = Server(lambda peer, number: answer(server, peer, number), context)
    try:
        yield server
    finally:
        server.close()


def always(content: bytes = OK) -> Callable[[Server, Any, int], None]:
    def answer(server: Server, peer: Any, _: int) -> None:
        while server.request(peer):
            peer.sendall(content)

    return answer


def client(server: Server, *, scheme: str = "http", host: str = "127.0.0.1", **more: Any) -> HttpClient:
    settings: dict[str, Any] = {"where": "test.url", "secret": False, "timeout": 5.0, "most_bytes": 100_000, **more}
    return HttpClient(f"{scheme}://{host}:{server.port}/base", **settings)


def lead(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Every name resolves to these addresses, one after another; the names that were looked up."""
    answers, names = iter(addresses), []

    def lookup(host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        if host[0].isdigit():
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        names.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(outgoing.socket, "getaddrinfo", lookup)
    return names


def test_requests_share_a_connection() -> None:
    with serving(always()) as server, contextlib.closing(client(server, headers={"x-own": "1"})) as http:
        assert http.get() == http.post("/more", {"a": 1}) == http.post("/no such?b=ä", None) == HttpResponse(200, b"hi")
        assert server.connections == 1
    lines = [head.split(b"\r\n")[0] for head in server.requests]
    assert lines == [
        b"GET /base HTTP/1.1", b"POST /base/more HTTP/1.1", b"POST /base/no%20such?b=%C3%A4 HTTP/1.1"
    ]  # fmt: skip
    assert server.requests[1].endswith(b'\r\n\r\n{"a":1}')
    assert b"x-own: 1" in server.requests[1]
    assert f"host: 127.0.0.1:{server.port}".encode() in server.requests[1].lower()


def test_threads_do_not_mix_their_answers() -> None:
    def echo(server: Server, peer: Any, _: int) -> None:
        while server.request(peer):
            path = server.requests[-1].split(b" ")[1]
            peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhead" if path == b"/base" else OK)

    with serving(echo) as server, contextlib.closing(client(server)) as http, ThreadPoolExecutor(24) as threads:
        found = list(threads.map(lambda _: http.post("", {"x": "y" * 5_000}).status, range(300)))
        assert found == [200] * 300
        assert len(http._idle) <= http_client.MOST_IDLE
        assert server.connections < 300


@pytest.mark.parametrize("end", ["content-length: 5\r\n\r\nhello", "connection: close\r\n\r\nhello",
                                 "transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"])  # fmt: skip
def test_a_body_ends_as_http_says(end: str) -> None:
    def once(server: Server, peer: Any, _: int) -> None:
        server.request(peer)
        peer.sendall(f"HTTP/1.1 201 Created\r\n{end}".encode())

    with serving(once) as server, contextlib.closing(client(server)) as http:
        assert http.get() == HttpResponse(201, b"hello")


# ------------------------------------------------------------------ addresses


def test_a_name_that_is_rebound_to_a_metadata_service_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(always(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))) as server:
        names = lead(monkeypatch, "127.0.0.1", "169.254.169.254")
        with contextlib.closing(client(server, host="rebound.example")) as http:
            assert http.get().status == 200
            assert names == ["rebound.example"]  # once: what was checked is what was connected to
            with pytest.raises(InvalidInputError, match="not called"):
                http.get()
        assert len(server.requests) == 1


def test_without_the_check_the_rebound_name_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(always()) as server:
        lead(monkeypatch, "169.254.169.254")
        called: list[Any] = []

        def connect(address: Any, timeout: float) -> socket.socket:
            called.append(address)
            raise ConnectionRefusedError

        monkeypatch.setattr(outgoing, "require_callable", lambda addresses, where: None)
        monkeypatch.setattr(http_client.socket, "create_connection", connect)
        with contextlib.closing(client(server, host="rebound.example")) as http, pytest.raises(ConnectionRefusedError):
            http.get()
        assert called == [("169.254.169.254", server.port)]


def test_one_forbidden_address_among_several_forbids_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 80)) for each in ("127.0.0.1", "169.254.169.254")]
    monkeypatch.setattr(outgoing.socket, "getaddrinfo", lambda *_, **__: found)
    with serving(always()) as server, contextlib.closing(client(server, host="two.example")) as http:
        with pytest.raises(InvalidInputError, match="not called"):
            http.get()
        assert server.connections == 0


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with serving(always()) as server:
        addresses = ["127.0.0.3", "127.0.0.1"]  # nothing listens on the first
        until = time.monotonic() + 5
        http_client._connected(addresses, server.port, until).close()
        with pytest.raises(ConnectionRefusedError):
            http_client._connected(addresses[:1], server.port, until)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer(status: int) -> None:
    with serving(always()) as inner:
        location = f"http://127.0.0.1:{inner.port}/secret"
        redirect = f"HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()
        with serving(always(redirect)) as outer, contextlib.closing(client(outer)) as http:
            assert http.get() == http.post("", {}) == HttpResponse(status, b"")
        assert inner.connections == 0


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(always()) as proxy, serving(always()) as server, contextlib.closing(client(server)) as http:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert http.get().status == 200
        assert proxy.connections == 0


def test_headers_hold_no_line_break() -> None:
    with serving(always()) as server, pytest.raises(InvalidInputError, match="header"):
        client(server, headers={"authorization": "Bearer a\r\nx: y"})


# ------------------------------------------------------------------ bounds


def drip(server: Server, peer: Any, first: bytes, piece: bytes) -> None:
    server.request(peer)
    peer.sendall(first)
    while not server.stop.wait(0.02):
        peer.sendall(piece)


ENDLESS = {
    "a body by drips": (b"HTTP/1.1 200 OK\r\ncontent-length: 90000\r\n\r\n", b"x"),
    "a head by drips": (b"HTTP/1.1 200 OK\r\nx: ", b"y"),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a chunk by drips": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9999\r\n", b"x"),
    "trailers": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
    "silence": (b"", b""),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_one_deadline_covers_the_whole_response(kind: str) -> None:
    answer = lambda server, peer, _: drip(server, peer, *ENDLESS[kind])  # noqa: E731
    with serving(answer) as server, contextlib.closing(client(server, timeout=0.3)) as http:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            http.get()
        assert 0.25 < time.monotonic() - began < 3


def test_the_deadline_covers_the_handshake_and_sending() -> None:
    with serving(lambda server, peer, _: server.stop.wait(10) and None) as server:  # reads nothing, says nothing
        with contextlib.closing(client(server, scheme="https", timeout=0.3)) as http, pytest.raises(TimeoutError):
            http.get()
        with contextlib.closing(client(server, timeout=0.3)) as http, pytest.raises(TimeoutError):
            http.post("", "x" * 20_000_000)


def flood(head: bytes, piece: bytes) -> Callable[[Server, Any, int], None]:
    def answer(server: Server, peer: Any, _: int) -> None:
        server.request(peer)
        peer.sendall(head)
        while not server.stop.is_set():
            peer.sendall(piece)

    return answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (flood(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536), "longer than 100000 bytes"),
        (flood(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n", b"x" * 65_536), "longer than 100000 bytes"),
        (
            flood(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"ffff\r\n" + b"x" * 65_535 + b"\r\n"),
            "longer than 100000 bytes",
        ),
        (flood(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 1_000), "not HTTP"),
        (flood(b"HTTP/1.1 200 OK\r\nx: ", b"y" * 65_536), "not HTTP"),
        (always(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b"), "compressed"),
        (always(b"SSH-2.0-OpenSSH_9.6\r\n"), "not HTTP"),
        (lambda server, peer, _: server.request(peer) and peer.sendall(OK[:-1]), "cut off"),
        (
            lambda server, peer, _: (
                server.request(peer) and peer.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nx")
            ),
            "not HTTP",
        ),
    ],
)
def test_what_is_no_bounded_response_is_not_read(answer: Callable[[Server, Any, int], None], said: str) -> None:
    with (
        serving(answer) as server,
        contextlib.closing(client(server)) as http,
        pytest.raises(ResponseError, match=said),
    ):
        http.get()


# ------------------------------------------------------------------ connections that were kept


def hangs_up_after(answers: int) -> Callable[[Server, Any, int], None]:
    def answer(server: Server, peer: Any, number: int) -> None:
        for _ in range(answers):
            if not server.request(peer):
                return
            peer.sendall(OK)
        server.request(peer)  # taken, and not answered

    return answer


def test_a_request_on_a_kept_connection_that_breaks_is_sent_once_more() -> None:
    with serving(hangs_up_after(1)) as server, contextlib.closing(client(server)) as http:
        for requests in (1, 3, 5):  # each but the first goes out twice
            assert http.get().status == 200
            assert len(server.requests) == requests


def test_what_must_not_be_repeated_is_not() -> None:
    with serving(hangs_up_after(1)) as server, contextlib.closing(client(server)) as http:
        http.post("/rotate", {}, repeat=False)
        with pytest.raises(ConnectionError):
            http.post("/rotate", {}, repeat=False)
        assert len(server.requests) == 2


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    closed = threading.Event()

    def once(server: Server, peer: Any, _: int) -> None:
        if server.request(peer):
            peer.sendall(OK)
            peer.shutdown(socket.SHUT_RDWR)
            closed.set()

    with serving(once) as server, contextlib.closing(client(server)) as http:
        http.post("", {}, repeat=False)
        assert closed.wait(5)
        http.post("", {}, repeat=False)
        assert server.connections == 2


# ------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return init(tmp_path_factory.mktemp("tls"), CertificateSpec(("localhost",), ("127.0.0.1",)), datetime.now(UTC))


@pytest.fixture
def encrypted(authority: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / SERVER, authority / SERVER_KEY)
    with serving(always(), context) as server:
        yield server


def test_a_certificate_is_verified_against_the_name(
    encrypted: Server, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = ClientTls(authority / AUTHORITY)
    with contextlib.closing(client(encrypted, scheme="https", host="localhost", tls=trusting)) as http:
        assert http.get() == http.get() == HttpResponse(200, b"hi")
        assert encrypted.connections == 1
    with contextlib.closing(client(encrypted, scheme="https", tls=trusting)) as http:
        assert http.get().status == 200
    before = len(encrypted.requests)
    lead(monkeypatch, "127.0.0.1")
    with (
        contextlib.closing(client(encrypted, scheme="https", host="other.example", tls=trusting)) as http,
        pytest.raises(ssl.SSLCertVerificationError, match="other\\.example"),
    ):
        http.get()
    assert len(encrypted.requests) == before


def test_an_unknown_authority_is_not_trusted(encrypted: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(client(encrypted, scheme="https")) as http, pytest.raises(ssl.SSLCertVerificationError):
        http.get()
    assert encrypted.requests == []
    unverified = ssl._create_unverified_context()
    monkeypatch.setattr(ClientTls, "context", lambda self: unverified)  # the switch
    with contextlib.closing(client(encrypted, scheme="https")) as http:
        assert http.get().status == 200


def test_an_expired_certificate_is_not_accepted(tmp_path: Path) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    current = init(tmp_path, CertificateSpec(), long_ago)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(current / SERVER, current / SERVER_KEY)
    trusting = ClientTls(current / AUTHORITY)
    with (
        serving(always(), context) as server,
        contextlib.closing(client(server, scheme="https", host="localhost", tls=trusting)) as http,
        pytest.raises(ssl.SSLCertVerificationError, match="expired"),
    ):
        http.get()
