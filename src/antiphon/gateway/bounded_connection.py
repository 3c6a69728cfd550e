"""One connection of the gateway, bounded before any of our code runs.

Invariant: a connection holds at most :data:`LARGEST_HEAD` bytes of a request's head, and whoever has not sent a whole
request within :data:`REQUEST_SECONDS` of beginning to (or of connecting) is cut off. Without this a few thousand
clients that send one byte a minute would take every descriptor, and one endless header all of the memory.

A large body may take longer, by a second for each :data:`SLOWEST` bytes of it that have arrived: whoever holds a
connection open pays for it.

The bound is on *sending* a request: an answer may take as long as it takes, and a connection that is kept alive
between requests has the server's own time limit.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 64 * 1024
"""Bytes of request line and headers."""

REQUEST_SECONDS = 30.0
"""From a request's first byte (the first one's: from connecting) to its last."""

SLOWEST = 128 * 1024
"""Bytes a second at which a large body must arrive at least."""

MOST_UNREAD = 1 << 20
"""Bytes of a body that still arrive after its request was answered."""

_TOO_LARGE = (b"431 Request Header Fields Too Large", b"The head of the request is too large.")
_TOO_SLOW = (b"408 Request Timeout", b"The request did not arrive in time.")


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol over httptools with bounds on head and time; give it as ``Config(http=…)``."""

    largest_head = LARGEST_HEAD
    request_seconds = REQUEST_SECONDS
    slowest = SLOWEST

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head = 0
        self._in_head = True
        self._completed = False
        self._refused = False
        self._unread = 0
        self._received = 0
        self._began = 0.0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._met()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._completed = False
        super().data_received(data)
        # What counts is how much arrives without completing a head: what is complete was measured there.
        if self._in_head:
            self._head = 0 if self._completed else self._head + len(data)
            if self._head > self.largest_head:
                self._refuse(*_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._received = True, 0
        if self._deadline is None:
            self._expect()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.largest_head:
            self._refuse(*_TOO_LARGE)
        self._in_head, self._head = False, 0
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
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
        self._in_head, self._completed = True, True
        self._unread = 0
        if not self._refused:
            super().on_message_complete()

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
        if self.cycle is None or self.cycle.response_complete:
            self._refuse(*_TOO_SLOW)
        else:
            # A handler reads the body: it learns that the client is gone.
            self.transport.close()

    def _refuse(self, status: bytes, why: bytes) -> None:
        self._met()
        self._refused = True
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: "
                + str(len(why)).encode() + b"\r\nconnection: close\r\n\r\n" + why
            )  # fmt: skip
            self.transport.close()
