"""Followed HTTP/1 connections: where each answer begins and ends, so that a share of them can be replaced by a 503.

Invariants: without a fault bytes pass unchanged and in their order. An answer is replaced whole or not at all, whatever
length its body declares, so that the next answer on the connection is the one to the next request. What cannot be
followed (another protocol after an upgrade, a malformed head) passes as it is from then on. Framing: RFC 9112,
sections 6 and 7.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

REQUEST_LINE = re.compile(rb"([A-Z]{3,16}) \S+ HTTP/1\.[01]\r?\n")

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) (\d{3})\b")
_LONGEST_HEAD = 1 << 18
_LONGEST_SIZE_LINE = 1 << 14

Frame = int | Literal["chunked", "rest"]
"""The bytes that follow a head: so many, chunks with trailers, or all until the connection ends."""


class MessagePiece(msgspec.Struct, frozen=True):
    """A piece of one direction: a whole head, or bytes that follow one; ``last``: its message ends with it."""

    content: bytes
    head: bool = False
    last: bool = False


class MessageStream:
    """One direction of a connection, divided into the heads of its messages and what follows each.

    Args:
        frame: the frame of what follows a head; ``None``: the direction is followed no further.
    """

    def __init__(self, frame: Callable[[bytes], Frame | None]) -> None:
        self._frame = frame
        self._waiting = bytearray()
        self._state: Literal["head", "body", "size", "chunk", "trailers", "rest"] = "head"
        self._left = 0

    def divide(self, received: bytes) -> Iterator[MessagePiece]:
        """Yields the pieces that are whole by now; nothing received means the end, and yields what was held back."""
        self._waiting += received
        if not received:
            self._state = "rest"
        while self._waiting:
            match self._state:
                case "head":
                    piece = self._head()
                case "body" | "chunk":
                    piece = self._bytes()
                case "size" | "trailers":
                    piece = self._line()
                case _:
                    piece = MessagePiece(self._taken(len(self._waiting)))
            if piece is None:
                return
            yield piece

    def follow_no_further(self) -> None:
        """Pass what is still to come as it is."""
        self._state = "rest"

    def _head(self) -> MessagePiece | None:
        blank = len(self._waiting) - len(self._waiting.lstrip(b"\r\n"))
        if blank:  # Permitted before a request line (RFC 9112, 2.2).
            return MessagePiece(self._taken(blank))
        end = _HEAD_END.search(self._waiting)
        if end is None:
            if len(self._waiting) <= _LONGEST_HEAD:
                return None
            self._state = "rest"
            return MessagePiece(b"")
        head = self._taken(end.end())
        frame = self._frame(head)
        if frame is None:
            self._state = "rest"
            return MessagePiece(head)
        if isinstance(frame, int):
            self._left, self._state = frame, "body" if frame else "head"
        else:
            self._state = "size" if frame == "chunked" else "rest"
        return MessagePiece(head, head=True, last=frame == 0)

    def _bytes(self) -> MessagePiece:
        content = self._taken(min(self._left, len(self._waiting)))
        self._left -= len(content)
        if self._left:
            return MessagePiece(content)
        whole = self._state == "body"
        self._state = "head" if whole else "size"
        return MessagePiece(content, last=whole)

    def _line(self) -> MessagePiece | None:
        end = self._waiting.find(b"\n")
        if end < 0:
            if len(self._waiting) <= _LONGEST_SIZE_LINE:
                return None
            self._state = "rest"
            return MessagePiece(b"")
        line = self._taken(end + 1)
        if self._state == "trailers":
            if line.strip():
                return MessagePiece(line)
            self._state = "head"
            return MessagePiece(line, last=True)
        try:
            size = int(line.partition(b";")[0].strip(), 16)
        except ValueError:
            size = -1
        if size < 0:
            self._state = "rest"
        elif size == 0:
            self._state = "trailers"
        else:
            self._state, self._left = "chunk", size + 2  # With the line's end that follows a chunk.
        return MessagePiece(line)

    def _taken(self, count: int) -> bytes:
        found = bytes(self._waiting[:count])
        del self._waiting[:count]
        return found


class HttpExchange:
    """Both directions of one connection.

    Args:
        retry_after: asked at each answer: seconds that are told with the 503 in its place, ``None``: it passes.
    """

    def __init__(self, retry_after: Callable[[], int | None]) -> None:
        self._retry_after = retry_after
        self._methods: deque[bytes] = deque()
        self._requests = MessageStream(self._request_frame)
        self._answers = MessageStream(self._answer_frame)
        self._method: bytes | None = None
        self._replaceable = self._replacing = self._endless = self._lost = False

    def request(self, received: bytes) -> bytes:
        """The bytes to pass on to the server; none received means that the client sends no more."""
        return b"".join(piece.content for piece in self._requests.divide(received))

    def answer(self, received: bytes) -> bytes:
        """The bytes to pass on to the client; none received means that the server sends no more."""
        passed = bytearray()
        for piece in self._answers.divide(received):
            content = piece.content
            if piece.head and self._replaceable and (seconds := self._retry_after()) is not None:
                self._replacing = True
                passed += unavailable(content, seconds, body=self._method != b"HEAD", endless=self._endless)
            elif not self._replacing:
                passed += content
            if piece.last:
                self._replacing = False
        return bytes(passed)

    def _request_frame(self, head: bytes) -> Frame | None:
        line = REQUEST_LINE.match(head)
        frame = None if line is None else _declared(head)
        if line is None or frame is None:
            self._lost = True
            return None
        self._methods.append(line[1])
        return 0 if frame == "rest" else frame  # A request without a declared length has no body.

    def _answer_frame(self, head: bytes) -> Frame | None:
        line = _STATUS_LINE.match(head)
        if line is None or self._lost:
            return None
        status = int(line[2])
        self._replaceable = False
        if 100 <= status < 200 and status != 101:
            return 0  # The answer itself is still to come.
        self._method = self._methods.popleft() if self._methods else None
        if status == 101 or (self._method == b"CONNECT" and 200 <= status < 300):
            self._requests.follow_no_further()
            return None
        # One that nothing was asked for (408 before an end) is not anybody's answer.
        self._replaceable = self._method is not None
        frame = 0 if self._method == b"HEAD" or status in (204, 304) else _declared(head)
        self._endless = frame == "rest"
        return frame


def unavailable(head: bytes, retry_after: int, *, body: bool = True, endless: bool = False) -> bytes:
    """The 503 in the place of an answer; it says as much about the connection as the answer's head does.

    Args:
        body: with one, which the answer to a HEAD has not. ``endless``: the answer ends with the connection.
    """
    text = b"Unavailable: a chaos experiment answers.\n"
    connection = _field(head, b"connection")
    line = _STATUS_LINE.match(head)
    old = line is not None and line[1] == b"0"
    if endless or (old and b"keep-alive" not in connection.lower()):
        connection = b"close"
    lines = [
        b"HTTP/1.%d 503 Service Unavailable" % (not old), b"Retry-After: %d" % retry_after,
        b"Content-Type: text/plain", b"Content-Length: %d" % len(text),
        *([b"Connection: " + connection] if connection else []),
    ]  # fmt: skip
    return b"\r\n".join(lines) + b"\r\n\r\n" + (text if body else b"")


def _declared(head: bytes) -> Frame | None:
    """The frame that a head's fields declare; ``None`` of lengths that contradict each other."""
    coding = _field(head, b"transfer-encoding")
    if coding:
        return "chunked" if coding.lower().rpartition(b",")[2].strip() == b"chunked" else "rest"
    lengths = {one.strip() for one in _field(head, b"content-length").split(b",")} - {b""}
    if not lengths:
        return "rest"
    (length, *others) = lengths
    return int(length) if length.isdigit() and not others else None


def _field(head: bytes, name: bytes) -> bytes:
    """The values of a field, joined as one."""
    pairs = (line.partition(b":") for line in head.splitlines()[1:])
    return b", ".join(value.strip() for key, _, value in pairs if key.strip().lower() == name)
