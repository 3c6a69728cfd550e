"""The input file of a batch: a request in each line, checked whole before the first is answered, then read again.

Invariant: of a file nothing is in memory but one line (bounded) and, of each request, a short hash of its ``custom_id``
or a sketch of its prompt (some hundred bytes). Lines are counted as they stand in the file, blank ones included: a line
is the same request however often the file is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any, BinaryIO

import msgspec

from antiphon.batch.row_plan import Prefix, RowSketch, output_limit_of_body, parts_of_body, row_sketch
from antiphon.catalog.batch.batches import LineError

MOST_ERRORS = 100
"""Errors of a file that are listed."""

LONGEST_ID = 512
"""Characters of a ``custom_id``."""

_FIELDS = ("custom_id", "method", "url", "body")


class RequestFileLimits(msgspec.Struct, frozen=True):
    """Limits of an input file: requests, and bytes of each."""

    requests: int
    line_bytes: int


class BatchRequest(msgspec.Struct, frozen=True):
    """One request: its line counts from 0, its body is JSON as it stands in the file."""

    line: int
    custom_id: str
    body: bytes
    sketch: RowSketch


class FileCheck(msgspec.Struct, frozen=True):
    """The result of checking a file: its requests and their one model, or its errors."""

    requests: int
    model: str
    errors: tuple[LineError, ...]


class _Shape(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw


_decode = msgspec.json.Decoder(_Shape).decode


def check(
    stream: BinaryIO, endpoint: str, models: Collection[str], limits: RequestFileLimits, sha256: str
) -> FileCheck:
    """Check every line of a file for an endpoint and the models that may be asked; ``sha256`` is of the content, as it
    was put away."""
    found = _LineErrors(endpoint, frozenset(models))
    digest = hashlib.sha256()
    for line, _, content in _lines(stream, limits.line_bytes, digest):
        if content is None:
            found.add("line_too_long", f"The line is longer than {limits.line_bytes} bytes.", line)
        elif content.strip():
            found.check(line, content)
        if found.requests > limits.requests:
            found.add(
                "too_many_requests",
                f"A batch has at most {limits.requests} requests; split the file.",
                line,
                "input_file_id",
            )
            return found.checked()
    if digest.hexdigest() != sha256:
        found.add(
            "file_changed", "The file's content is not what was uploaded; upload it again.", None, "input_file_id"
        )
    elif found.requests == 0 and not found.errors:
        found.add("empty_file", "The file has no request.", None, "input_file_id")
    return found.checked()


def sketches(stream: BinaryIO, line_bytes: int, done: Collection[int]) -> Iterator[RowSketch]:
    """Sketches the requests of a checked file, without the lines that are done."""
    known: dict[int, Prefix] = {}
    for line, at, content in _lines(stream, line_bytes, None):
        if content is not None and content.strip() and line not in done:
            body = msgspec.json.decode(_decode(content).body)
            yield row_sketch(line, at, parts_of_body(body), output_limit_of_body(body), known)


def requests_of(stream: BinaryIO, line_bytes: int, rows: Iterable[RowSketch]) -> Iterator[BatchRequest]:
    """The requests of these rows, in their order; ``stream`` is read at their places."""
    for row in rows:
        stream.seek(row.at)
        shape = _decode(stream.readline(line_bytes + 1))
        yield BatchRequest(row.line, shape.custom_id, bytes(shape.body), row)


def _lines(stream: BinaryIO, longest: int, digest: Any) -> Iterator[tuple[int, int, bytes | None]]:
    """Each line by its number and where it begins; ``None`` for one that is longer than it may be, which is not
    held."""
    number = at = 0
    while content := stream.readline(longest + 1):
        began = at
        at += len(content)
        whole: bytes | None = content
        if digest is not None:
            digest.update(content)
        while not content.endswith(b"\n") and len(content) > longest:
            whole = None
            content = stream.readline(longest + 1)
            at += len(content)
            if digest is not None:
                digest.update(content)
        yield number, began, whole
        number += 1


class _LineErrors:
    """Errors found so far."""

    def __init__(self, endpoint: str, models: frozenset[str]) -> None:
        self.requests = 0
        self.errors: list[LineError] = []
        self._beyond = 0
        self._endpoint = endpoint
        self._models = models
        self._model = ""
        self._seen: set[bytes] = set()

    def add(self, code: str, message: str, line: int | None, param: str | None = None) -> None:
        """Adds an error; ``line`` counts from 0 and is shown from 1."""
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(LineError(code, message, None if line is None else line + 1, param))
        else:
            self._beyond += 1

    def checked(self) -> FileCheck:
        errors = list(self.errors)
        if self._beyond:
            errors.append(LineError("more_errors", f"{self._beyond} more errors are not listed."))
        return FileCheck(self.requests, self._model, tuple(errors))

    def check(self, line: int, content: bytes) -> None:
        self.requests += 1
        try:
            value = msgspec.json.decode(content.decode())
        except UnicodeDecodeError:
            self.add("invalid_encoding", "The line is not UTF-8.", line)
            return
        except (msgspec.DecodeError, RecursionError):
            self.add("invalid_json_line", "The line is not JSON.", line)
            return
        if not isinstance(value, dict):
            self.add("invalid_json_line", "The line is not a JSON object.", line)
            return
        before = len(self.errors) + self._beyond
        self._check_id(line, value.get("custom_id"))
        for name in value:
            if name not in _FIELDS:
                self.add("unknown_parameter", f"Unknown parameter: {name[:100]!r}.", line, name[:100])
        self._check_field(line, value, "method", "POST", "invalid_method", "The method of a request is POST.")
        self._check_field(
            line, value, "url", self._endpoint, "mismatched_endpoint", f"The batch is for {self._endpoint}."
        )
        if before == len(self.errors) + self._beyond:
            self._check_body(line, value.get("body"))

    def _check_id(self, line: int, given: Any) -> None:
        if given is None:
            self.add("missing_required_parameter", "There is no custom_id.", line, "custom_id")
        elif not isinstance(given, str) or not 0 < len(given) <= LONGEST_ID:
            self.add("invalid_type", f"`custom_id` must be a text of 1 to {LONGEST_ID} characters.", line, "custom_id")
        else:
            digest = hashlib.blake2b(given.encode(errors="surrogatepass"), digest_size=16).digest()
            if digest in self._seen:
                self.add("duplicate_custom_id", "An earlier line has the same custom_id.", line, "custom_id")
            self._seen.add(digest)

    def _check_field(self, line: int, value: dict[str, Any], name: str, expected: str, code: str, message: str) -> None:
        if name not in value:
            self.add("missing_required_parameter", f"There is no {name}.", line, name)
        elif value[name] != expected:
            self.add(code, message, line, name)

    def _check_body(self, line: int, body: Any) -> None:
        if body is None:
            self.add("missing_required_parameter", "There is no body.", line, "body")
        elif not isinstance(body, dict):
            self.add("invalid_type", "`body` must be a JSON object.", line, "body")
        elif not isinstance(body.get("model"), str) or not body["model"]:
            self.add("missing_required_parameter", "The body names no model.", line, "body.model")
        elif self._model and body["model"] != self._model:
            self.add(
                "mismatched_model",
                f"An earlier request asks {self._model!r}: a batch asks one model.",
                line,
                "body.model",
            )
        elif body["model"] not in self._models:
            shown = body["model"][:100]
            self.add("model_not_found", f"There is no application or model {shown!r}.", line, "body.model")
        else:
            self._model = body["model"]
