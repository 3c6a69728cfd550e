"""The input file of a batch: every line is checked, every mistake is named, nothing large is held."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from antiphon.batch import lines
from antiphon.batch.lines import RequestFileLimits

CHAT = "/v1/chat/completions"
BOUNDS = RequestFileLimits(1_000, 10_000)


def line(custom_id: Any, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"model": "tiny", "messages": [], **body}}


def text(rows: list[Any], end: bytes = b"\n") -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in rows) + end


def checked(content: bytes, sha256: str | None = None) -> lines.FileCheck:
    sha256 = sha256 or hashlib.sha256(content).hexdigest()
    return lines.check(io.BytesIO(content), CHAT, ("tiny", "desk"), BOUNDS, sha256)


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (b'"text"', "invalid_json_line", None),
        (b'{"custom_id": "\xff"}', "invalid_encoding", None),
        (b'{"a": ' * 5_000, "line_too_long", None),
        (b"[" * 9_000, "invalid_json_line", None),
        (line("r0"), "duplicate_custom_id", "custom_id"),
        (line(7), "invalid_type", "custom_id"),
        (line(""), "invalid_type", "custom_id"),
        (line("x" * 513), "invalid_type", "custom_id"),
        (line(None), "missing_required_parameter", "custom_id"),
        ({**line("x"), "method": "GET"}, "invalid_method", "method"),
        ({**line("x"), "url": "/v1/completions"}, "mismatched_endpoint", "url"),
        ({**line("x"), "extra": 1}, "unknown_parameter", "extra"),
        ({**line("x"), "body": "text"}, "invalid_type", "body"),
        ({"custom_id": "x", "method": "POST", "url": CHAT}, "missing_required_parameter", "body"),
        ({"custom_id": "x", "url": CHAT, "body": {"model": "tiny"}}, "missing_required_parameter", "method"),
        (line("x", model="desk"), "mismatched_model", "body.model"),
        (line("x", model=None), "missing_required_parameter", "body.model"),
        (line("x", model=["tiny"]), "missing_required_parameter", "body.model"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_not(bad: Any, code: str, param: str | None) -> None:
    found = checked(text([line("r0"), bad, line("r2")]))
    assert [(error.code, error.line, error.param) for error in found.errors] == [(code, 2, param)]


def test_what_is_wrong_with_the_whole_file_is_told() -> None:
    def codes(content: bytes, **more: Any) -> list[str]:
        return [error.code for error in checked(content, **more).errors]

    assert codes(b"") == codes(b"\n \n") == ["empty_file"]
    assert codes(text([line("a")]), sha256="other") == ["file_changed"]
    assert codes(text([line(f"r{number}") for number in range(1_001)])) == ["too_many_requests"]
    assert codes(text([line("a", model="nobody")])) == ["model_not_found"]
    found = checked(text([b"{"] * 150))
    assert (len(found.errors), found.errors[-1].code) == (101, "more_errors")
    assert found.errors[-1].message.startswith("50 ")


def test_a_good_file_gives_its_requests_however_it_ends() -> None:
    for end in (b"", b"\n", b"\r\n", b"\n\n"):
        content = text([b"", line("a"), b" ", line("b", user="é"), line("c")], end)
        found = checked(content)
        assert (found.errors, found.requests, found.model) == ((), 3, "tiny")
        stream = io.BytesIO(content)
        left = list(lines.sketches(stream, BOUNDS.line_bytes, {3}))
        read = list(lines.requests_of(stream, BOUNDS.line_bytes, left))
        assert [(request.line, request.custom_id) for request in read] == [(1, "a"), (4, "c")]
        assert json.loads(read[0].body) == {"model": "tiny", "messages": []}


def test_a_line_of_the_longest_length_is_taken_and_one_byte_more_is_not() -> None:
    pad = BOUNDS.line_bytes - len(json.dumps(line("a", user="")))
    whole = json.dumps(line("a", user="x" * pad)).encode()
    assert len(whole) == BOUNDS.line_bytes
    assert checked(whole).errors == checked(whole + b"\n").errors == ()
    for end in (b"", b"\n"):
        assert [error.code for error in checked(whole + b" " + end).errors] == ["line_too_long"]


def test_a_large_file_is_never_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    with file.open("wb") as stream:
        for number in range(900):
            stream.write(json.dumps(line(f"r{number}", user="x" * 9_000)).encode() + b"\n")
        stream.write(b"y" * 8_000_000 + b"\n")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    tracemalloc.start()
    try:
        with file.open("rb") as stream:
            found = lines.check(stream, CHAT, ("tiny",), BOUNDS, digest)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ([error.code for error in found.errors], found.requests) == (["line_too_long"], 900)
    assert peak < 1_000_000, f"{file.stat().st_size} bytes were checked in {peak}"
