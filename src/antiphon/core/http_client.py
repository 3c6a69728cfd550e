"""Synchronous HTTP requests to one server that a setting names, bounded in time and in bytes.

Invariants: a connection is made to an address that was checked after its name was resolved, and to no other, so a name
that resolves differently the second time (DNS rebinding) leads nowhere else. Certificates are verified against the
URL's host. No redirect is followed, no proxy of the environment is used, and no compressed body is read. One deadline
covers a request from connecting to the last byte. Asynchronous code uses aiohttp with
:func:`antiphon.core.outgoing.connector`.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import msgspec

from antiphon.core import outgoing
from antiphon.core.errors import InvalidInputError
from antiphon.core.tls import ClientTls

MOST_IDLE = 16
"""Connections that are kept open between requests."""

_PIECE = 65_536
_Request = tuple[str, str, bytes | None, Mapping[str, str]]
"""Method, target, content and headers."""

_URL_CHARACTERS = "!$%&'()*+,/:;=?@[]~"


class ResponseError(OSError):
    """A response that is not read: too long, compressed, cut off, or not HTTP. The message is a predicate of it."""


class HttpResponse(msgspec.Struct, frozen=True):
    """Status and body of a response; a redirect is a response like any other."""

    status: int
    body: bytes


class HttpClient:
    """Sends requests below one URL. Safe to share between threads; close it when done.

    Args:
        url: what the path of each request is appended to.
        where: the setting that names the URL, for errors.
        secret: whether requests carry a secret; the URL is then https or of this machine.
        headers: sent with every request.
        timeout: seconds for one request, from connecting to the last byte. A name is resolved as the system does it,
            within the system's own bounds.
        most_bytes: length of the longest body that is read.
        tls: authorities to trust when the URL is https; ``None`` trusts those of the machine.

    Raises:
        InvalidInputError: a header is malformed, or the URL may not be called
            (:func:`antiphon.core.outgoing.check_url`).
    """

    def __init__(
        self,
        url: str,
        *,
        where: str,
        secret: bool,
        timeout: float,
        most_bytes: int,
        headers: Mapping[str, str] | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self._url = urlsplit(outgoing.check_url(url, where=where, secret=secret))
        self._target = self._url.path + (f"?{self._url.query}" if self._url.query else "")
        self._context = (tls or ClientTls()).context() if self._url.scheme == "https" else None
        if not all(value.isascii() and value.isprintable() for value in (headers or {}).values()):
            raise InvalidInputError("A header holds a character that HTTP does not allow.", where=where)
        self._where = where
        self._headers = {"accept": "application/json", "accept-encoding": "identity", **(headers or {})}
        self._timeout = timeout
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._idle: list[_PooledConnection] = []

    def get(self, path: str = "") -> HttpResponse:
        """Read a document; raises as :meth:`post`."""
        return self._request("GET", path, None, repeat=True)

    def post(self, path: str, body: Any, *, repeat: bool = True) -> HttpResponse:
        """Send a value as JSON.

        Args:
            repeat: send it again, on a new connection, when a connection that was kept breaks before the response.

        Raises:
            InvalidInputError: the host's name resolves to an address that may not be called.
            TimeoutError: the response was not there in time.
            ResponseError: the response may not be read.
            OSError: the server is not reached, its certificate is not accepted, or the connection broke.
        """
        return self._request("POST", path, msgspec.json.encode(body), repeat=repeat)

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _request(self, method: str, path: str, content: bytes | None, *, repeat: bool) -> HttpResponse:
        until = time.monotonic() + self._timeout
        target = quote(self._target + path, safe=_URL_CHARACTERS) or "/"
        headers = self._headers if content is None else {**self._headers, "content-type": "application/json"}
        request = (method, target, content, headers)
        kept = self._kept()
        if kept is not None:
            try:
                return self._exchange(kept, until, request)
            except TimeoutError:
                raise
            except OSError as error:
                if not repeat or isinstance(error, ResponseError):
                    raise
        fresh = _PooledConnection(self._url, outgoing.resolve(*_server(self._url), self._where), self._context, until)
        return self._exchange(fresh, until, request)

    def _exchange(self, connection: _PooledConnection, until: float, request: _Request) -> HttpResponse:
        keep = False
        try:
            response, keep = connection.exchange(until, request, self._most_bytes)
            return response
        finally:
            with self._lock:
                keep = keep and len(self._idle) < MOST_IDLE
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _kept(self) -> _PooledConnection | None:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None or connection.usable():
                return connection
            connection.close()


class _PooledConnection:
    """One connection to a server, made to one of these addresses."""

    def __init__(self, url: SplitResult, addresses: Any, context: Any, until: float) -> None:
        host, port = _server(url)
        self._channel = _Channel(_connected(addresses, port, until), until)
        try:
            if context is not None:
                self._channel.encrypt(context, host)
        except BaseException:
            self.close()
            raise
        self._http = http.client.HTTPConnection(host, port)
        # The Host header leaves out the port that is the scheme's own.
        self._http.default_port = 443 if url.scheme == "https" else 80
        self._http.auto_open = 0  # it would resolve the name again, and check nothing
        self._http.sock = self._channel
        self._used_at = 0.0

    def exchange(self, until: float, request: _Request, most_bytes: int) -> tuple[HttpResponse, bool]:
        """Send a request and read its response; tell whether the connection can be used again."""
        self._channel.until = until
        try:
            self._http.request(*request)
            response = self._http.getresponse()
            body = _body(response, most_bytes)
        except http.client.RemoteDisconnected:
            raise
        except http.client.HTTPException as error:
            raise ResponseError(f"is not HTTP ({type(error).__name__})") from error
        self._used_at = time.monotonic()
        return HttpResponse(response.status, body), self._http.sock is not None

    def usable(self) -> bool:
        """Tell whether the connection is young and the server has neither closed it nor sent what was not asked for."""
        return time.monotonic() - self._used_at < outgoing.KEPT_SECONDS and not self._channel.pending()

    def close(self) -> None:
        """Close the socket."""
        self._channel.end()


class _Channel(io.RawIOBase):
    """A socket as ``http.client`` uses it, on which reading and writing end at a deadline.

    A socket's own timeout starts anew with every byte; here it is set to the time that is left before each operation.
    """

    def __init__(self, connected: socket.socket, until: float) -> None:
        self._socket = connected
        self.until = until

    def encrypt(self, context: Any, host: str) -> None:
        self._socket.settimeout(_left(self.until))
        self._socket = context.wrap_socket(self._socket, server_hostname=host)

    def sendall(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            self._socket.settimeout(_left(self.until))
            rest = rest[self._socket.send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, _PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self.until))
        return self._socket.recv_into(buffer)

    def pending(self) -> bool:
        """Tell whether the server has sent something, or has closed."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Do nothing: ``http.client`` closes its socket, and its reader, before the body of a last response is read."""

    def end(self) -> None:
        self._socket.close()


def _server(url: SplitResult) -> tuple[str, int]:
    return str(url.hostname), url.port or (443 if url.scheme == "https" else 80)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("The time of the request is over.")
    return left


def _connected(addresses: Any, port: int, until: float) -> socket.socket:
    """Connect to the first address that answers; each gets its part of the time that is left."""
    failure: OSError = OSError("The name has no address.")
    for number, address in enumerate(addresses):
        try:
            connected = socket.create_connection((address, port), _left(until) / (len(addresses) - number))
        except OSError as error:
            failure = error
        else:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
    raise failure


def _body(response: http.client.HTTPResponse, most_bytes: int) -> bytes:
    if response.getheader("content-encoding", "identity").lower() != "identity":
        raise ResponseError("is compressed")
    body = bytearray()
    while piece := response.read(_PIECE):
        body += piece
        if len(body) > most_bytes:
            raise ResponseError(f"is longer than {most_bytes} bytes")
    if response.length:
        raise ResponseError("is cut off")
    return bytes(body)
