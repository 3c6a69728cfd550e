"""One connection of the gateway, bounded before any of our code runs.

Invariants:
- A connection holds at most :data:`LARGEST_HEAD` bytes of a request's head, as many of what stands around a body
  (sizes and extensions of chunks, trailers), and :data:`LARGEST_AHEAD` bytes, with what one read brings, of what a
  client sends before the present request is answered. Requests of one connection are parsed one at a time; what is
  beyond that stays with the client.
- Whoever has not sent a whole request within :data:`REQUEST_SECONDS` of beginning to (or of connecting) is cut off, and
  so is who reads nothing of an answer for :data:`STALLED_SECONDS`. Without this a few thousand clients that send one
  byte a minute would take every descriptor, and one endless header all of the memory.

A large body may take longer, by a second for each :data:`SLOWEST` bytes of it that have arrived: whoever holds a
connection open pays for it. An answer may take as long as it takes, and a connection that is kept alive between
requests has the server's own time limit.

All connections together are bounded by :class:`~antiphon.gateway.http.connections.Connections`.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from antiphon.gateway.http.connections import LAST_REQUEST_SECONDS, ConnectionEntry, Connections, Stage

LARGEST_HEAD = 64 * 1024
"""Bytes of request line and headers; also of trailers, and of chunks' sizes and extensions beyond a share."""

LARGEST_AHEAD = 64 * 1024
"""Bytes behind a request that is not answered yet, after which nothing more is read."""

REQUEST_SECONDS = 30.0
"""From a request's first byte (the first one's: from connecting) to its last."""

STALLED_SECONDS = 60.0
"""Time for which a client may leave an answer unread."""

SLOWEST = 128 * 1024
"""Bytes a second at which a large body must arrive at least."""

MOST_UNREAD = 1 << 20
"""Bytes of a body that still arrive after its request was answered."""

_FRAMING_SHARE = 8
"""Bytes around the chunks of a body for each byte in them: chunks of one byte need five."""

_PIECE = 4 * 1024
"""Bytes of a chunked body that are parsed at once: where it ends is known only when it was parsed, and what follows
would be parsed with it."""

_END_OF_HEAD = b"\r\n\r\n"
_ONCE = (b"host", b"authorization", b"content-type")
"""Headers that a request has at most once: with two, we and a proxy might read different ones."""
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+;=:\[\]-]*\Z")

_TOO_LARGE = (b"431 Request Header Fields Too Large", b"The head of the request is too large.")
_TOO_MUCH_FRAMING = (b"431 Request Header Fields Too Large", b"The body's chunks have too much around them.")
_TOO_SLOW = (b"408 Request Timeout", b"The request did not arrive in time.")
_HOST_UNCLEAR = (b"400 Bad Request", b"A request names its host exactly once, in a valid Host header.")
_GIVEN_TWICE = (b"400 Bad Request", b"A header that may be given once is given twice.")


class _ReadFlow(FlowControl):
    """uvicorn resumes reading whenever an application asks for a body; here only while little is held ahead."""

    held = 0
    largest = LARGEST_AHEAD

    def resume_reading(self) -> None:
        if self.held <= self.largest:
            super().resume_reading()


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol over httptools with bounds on memory and time; give it as ``Config(http=…)``.

    Args:
        connections: those of the whole server; without them only this one is bounded.
    """

    largest_head = LARGEST_HEAD
    largest_ahead = LARGEST_AHEAD
    request_seconds = REQUEST_SECONDS
    stalled_seconds = STALLED_SECONDS
    slowest = SLOWEST

    def __init__(self, *args: Any, connections: Connections | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._open_connections = connections
        self._entry: ConnectionEntry | None = None
        self._ahead = b""
        self._head = 0
        self._in_head = True
        self._begun = False
        self._refused = False
        self._chunked = False
        self._left: int | None = 0
        self._framing = 0
        self._since_body = 0
        self._unread = 0
        self._received = 0
        self._began = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self._flow = _ReadFlow(transport)
        self._flow.largest = self.largest_ahead
        self._register(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._met()
        if self._ending is not None:
            self._ending.cancel()
        self.resume_writing()
        self._ahead = b""
        self._forget()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End with the present answer, or with that of a request that still comes within the time for the last one."""
        if self._answering:
            self.end()
        elif self._ending is None:
            known = self._open_connections
            patience = LAST_REQUEST_SECONDS if known is None else known.last_request_seconds
            self._ending = asyncio.get_running_loop().call_later(patience, self.end)

    def end(self) -> None:
        """End with the present answer, at once when there is none."""
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._take(self._ahead + data if self._ahead else data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._begun = True
        self._received = self._framing = self._since_body = 0
        if self._deadline is None:
            self._expect()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers are no headers (RFC 9110, section 6.5.1): they came after whoever reads headers has read them.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        wrong = self._wrong_head()
        if wrong is not None:
            self._refuse(*wrong)
        self._in_head, self._head = False, 0
        if not self._refused:
            super().on_headers_complete()
            if self._ending is not None:
                self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._since_body = 0
        if self._refused:
            return
        if self.cycle.response_complete:
            # Already answered (too large, no key): a little is read on, so that the client gets to see the answer.
            self._unread += len(body)
            if self._unread > MOST_UNREAD:
                self.transport.close()
            return
        self._received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._met()
        self._in_head, self._begun = True, False
        self._unread = 0
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._hold(b"" if self.transport.is_closing() else self._ahead)
        super().on_response_complete()
        if self._ahead and not self.pipeline:
            self._take(self._ahead)
        else:
            self._settle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_progress(self.transport.get_write_buffer_size())
        self._settle()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if self.flow is not None:
            super().resume_writing()
            self._settle()

    @property
    def _answering(self) -> bool:
        """A whole request is here whose answer is not complete."""
        return bool(self.pipeline) or not (self._begun or self.cycle is None or self.cycle.response_complete)

    def _take(self, data: bytes) -> None:
        """Parse what belongs to one request; what is behind it is held until that is answered."""
        self._hold(b"")
        begin = 0  # Not the rest by itself after each piece: a large body would be copied again and again.
        while begin < len(data) and not self._refused and not self.transport.is_closing():
            if self._answering:
                self._hold(data[begin:])
                break
            size = self._piece(data, begin)
            piece = data[begin : begin + size]
            begin += size
            if self._in_head:
                self._head += len(piece)
                if self._head > self.largest_head + len(_END_OF_HEAD):
                    self._refuse(*_TOO_LARGE)
                    break
                super().data_received(piece)
            else:
                self._take_body(piece)
        self._settle()

    def _take_body(self, piece: bytes) -> None:
        before = self._received + self._unread
        self._since_body += len(piece)
        if self._left is not None:
            self._left -= len(piece)
        super().data_received(piece)
        if self._begun and self._chunked and not self._refused:
            self._framing += len(piece) - (self._received + self._unread - before)
            bound = self.largest_head
            share = bound + _FRAMING_SHARE * (self._received + self._unread)
            if self._since_body > bound or self._framing > share:
                self._refuse(*_TOO_MUCH_FRAMING)

    def _piece(self, data: bytes, begin: int) -> int:
        """The number of bytes from there that may be parsed without going far beyond the end of the present request."""
        if self._in_head:
            end = data.find(_END_OF_HEAD, begin)
            return len(data) - begin if end < 0 else end + len(_END_OF_HEAD) - begin
        return _PIECE if self._left is None else max(self._left, 1)

    def _wrong_head(self) -> tuple[bytes, bytes] | None:
        size, hosts = len(self.url), 0
        seen: set[bytes] = set()
        self._left = 0
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name in _ONCE:
                if name in seen:
                    return _HOST_UNCLEAR if name == b"host" else _GIVEN_TWICE
                seen.add(name)
                if name == b"host":
                    hosts = 1
                    if not _HOST.match(value.strip(b" \t")):
                        return _HOST_UNCLEAR
            elif name == b"content-length":
                self._left = int(value)
            elif name == b"transfer-encoding":
                self._left = None
        self._chunked = self._left is None
        if size > self.largest_head:
            return _TOO_LARGE
        return _HOST_UNCLEAR if not hosts and self.parser.get_http_version() == "1.1" else None

    def _hold(self, ahead: bytes) -> None:
        self._ahead = ahead
        before, self._flow.held = self._flow.held, len(ahead)
        if self._flow.held > self.largest_ahead:
            self.flow.pause_reading()
        elif before > self.largest_ahead:
            self.flow.resume_reading()

    def _register(self, transport: asyncio.Transport) -> None:
        if self._open_connections is not None and self._entry is None:
            peer = transport.get_extra_info("peername")
            address = str(peer[0]) if isinstance(peer, tuple) else ""
            self._entry = self._open_connections.open(address, transport.abort)

    def _forget(self) -> None:
        if self._open_connections is not None and self._entry is not None:
            self._open_connections.close(self._entry)

    def _settle(self) -> None:
        """Tell the whole server's count how this connection stands."""
        if self._open_connections is None or self._entry is None:
            return
        if self.flow.write_paused:
            stage = Stage.STALLED
        elif self._answering:
            stage = Stage.ANSWERING
        elif not self._begun:
            stage = Stage.HEAD if self.cycle is None else Stage.IDLE
        elif self._in_head or self.cycle.response_complete:
            stage = Stage.HEAD
        else:
            stage = Stage.BODY
        self._open_connections.move(self._entry, stage)
        held = len(self._ahead) + self._head
        if held != self._entry.bytes:
            self._open_connections.hold(self._entry, held)

    def _await_progress(self, unsent: int) -> None:
        loop = asyncio.get_running_loop()
        self._stalled = loop.call_later(self.stalled_seconds, self._look_for_progress, unsent)

    def _look_for_progress(self, before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent >= before:
            self.transport.abort()
        else:
            self._await_progress(unsent)

    def _expect(self) -> None:
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._deadline = loop.call_later(self.request_seconds, self._too_slow)

    def _met(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        loop = asyncio.get_running_loop()
        until = self._began + self.request_seconds + self._received / self.slowest
        if loop.time() < until - 0.001:
            self._deadline = loop.call_at(until, self._too_slow)
            return
        self._deadline = None
        if self._answering:
            self._expect()  # It is we who do not read on.
        elif self.cycle is None or self.cycle.response_complete:
            self._refuse(*_TOO_SLOW)
        else:
            # A handler reads the body: it learns that the client is gone.
            self.transport.close()

    def _refuse(self, status: bytes, why: bytes) -> None:
        self._met()
        self._refused = True
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: "
                + str(len(why)).encode() + b"\r\nconnection: close\r\n\r\n" + why
            )  # fmt: skip
        self.transport.close()
