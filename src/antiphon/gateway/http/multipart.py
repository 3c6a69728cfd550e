"""Forms with a file (``multipart/form-data``, RFC 7578), read as they arrive.

The file is never in memory as a whole, nor in a temporary file in the clear.

Invariants:
- What has arrived and was not written yet is at most what the server hands over at once.
- What is no content of the file (other fields, headers of parts, what stands before the first boundary and after the
  last one) is at most :data:`MOST_AROUND` bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from antiphon.core.errors import InvalidInputError, TooLargeError

MOST_FIELDS = 16
LONGEST_FIELD = 4_096
"""Bytes of a field that is no file."""

MOST_AROUND = 128 * 1024
"""Bytes of a form beside its file."""

_PIECE = 1 << 18


class Form(msgspec.Struct, frozen=True):
    """The fields of a form beside the content of its file. ``filename`` is ``None`` when there was no file."""

    fields: dict[str, str]
    filename: str | None


async def read(request: Request, file: str, write: Callable[[bytes], None]) -> Form:
    """Read a form to its end; the file's content goes to ``write``, piece by piece, in a thread.

    Args:
        file: name of the field that is the file.

    Raises:
        InvalidInputError: it is no such form, or is cut off, or has a field twice.
        TooLargeError: a field that is no file is too long, or there are too many, or too much stands around the file.
        starlette.requests.ClientDisconnect: the client went away before its end.
        Whatever ``write`` raises.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidInputError(
            "The body is no form with a file.", where="content-type", next_step="Send multipart/form-data."
        )
    parts = _Parts(file)
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        async for piece in request.stream():
            parts.arrived += len(piece)
            parser.write(piece)
            parts.require_little_around()
            if len(parts.content) >= _PIECE:
                await run_in_threadpool(write, parts.taken())
        parser.finalize()
    except FormParserError as error:
        raise InvalidInputError(
            "The form is malformed.", where="body", next_step="Send multipart/form-data as RFC 7578 says."
        ) from error
    if not parts.ended:
        raise InvalidInputError("The form is cut off.", where="body", next_step="Send it to its closing boundary.")
    await run_in_threadpool(write, parts.taken())
    return Form(parts.fields, parts.filename)


class _Parts:
    """Collects the parts of a form from the parser's callbacks."""

    def __init__(self, file: str) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.content = bytearray()
        self.ended = False
        self.arrived = self._file_bytes = 0
        self._file = file
        self._name = ""
        self._is_file = False
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._take,
            "on_part_end": self._keep,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._named,
            "on_end": self._end,
        }

    def taken(self) -> bytes:
        """The file's content that has not been written yet."""
        content = bytes(self.content)
        self.content.clear()
        return content

    def require_little_around(self) -> None:
        """Raise when what has arrived beside the file's content is too much."""
        if self.arrived - self._file_bytes > MOST_AROUND:
            raise TooLargeError(
                f"The form has more than {MOST_AROUND} bytes beside its file.",
                where="body",
                next_step="End the body with the form's closing boundary, and keep fields and headers of parts short.",
            )

    def _begin(self) -> None:
        self._headers, self._header, self._value = {}, (bytearray(), bytearray()), bytearray()

    def _end_header(self) -> None:
        self._headers[bytes(self._header[0]).lower()] = bytes(self._header[1])
        self._header = (bytearray(), bytearray())

    def _named(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode(errors="replace")
        filename = options.get(b"filename")
        self._is_file = self._name == self._file
        if not self._name or (self._is_file and filename is None) or (not self._is_file and filename is not None):
            raise InvalidInputError(
                "A part of the form is not what it should be.",
                where=self._name[:100] or "body",
                next_step=f"Send the file as {self._file!r} with a filename, and everything else without one.",
            )
        if self._name in self.fields or (self._is_file and self.filename is not None):
            raise InvalidInputError(
                f"{self._name[:100]!r} is given twice.", where=self._name[:100], next_step="Give it once."
            )
        if len(self.fields) >= MOST_FIELDS:
            raise TooLargeError("The form has too many fields.", where="body", next_step=f"Send at most {MOST_FIELDS}.")
        if self._is_file:
            self.filename = (filename or b"").decode(errors="replace")

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.content += data[start:end]
            self._file_bytes += end - start
            return
        self._value += data[start:end]
        if len(self._value) > LONGEST_FIELD:
            raise TooLargeError(
                "The field is too long.", where=self._name[:100], next_step=f"Send at most {LONGEST_FIELD} bytes."
            )

    def _keep(self) -> None:
        if self._is_file:
            return
        try:
            self.fields[self._name] = self._value.decode()
        except UnicodeDecodeError:
            raise InvalidInputError(
                f"The field {self._name[:100]!r} is not UTF-8.", where=self._name[:100], next_step="Send it in UTF-8."
            ) from None

    def _end(self) -> None:
        self.ended = True
