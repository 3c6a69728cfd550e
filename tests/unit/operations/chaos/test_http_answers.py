"""Answers of a followed HTTP connection pass unchanged, or are replaced whole, however their bytes are cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.operations.chaos.http_answers import HttpExchange

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /"
UPLOAD = b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nGET /\r\n0\r\nT: 1\r\n\r\n"

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nHTTP/1.1 200"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na\r\nb\r\n0\r\nTrailer: x\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
UNCHANGED = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 900\r\n\r\n"
OF_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
ENDLESS = b"HTTP/1.0 200 OK\r\n\r\nuntil the connection ends"

TURNS = [
    (GET, LENGTH), (GET, CHUNKED), (GET, EMPTY), (GET, UNCHANGED), (HEAD, OF_HEAD), (POST, CONTINUE + LENGTH),
    (UPLOAD, CHUNKED), (b"\r\n" + GET, LENGTH),
]  # fmt: skip


def cut(whole: bytes, at: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(whole), *(one % (len(whole) + 1) for one in at)})
    return [whole[begin:end] for begin, end in pairwise(edges)]


def bodies(passed: bytes, turns: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """What a client makes of the answers, one to each of its requests."""
    found = []
    for request, _ in turns:
        while True:
            head, _, passed = passed.partition(b"\r\n\r\n")
            if b" 100 " not in head:
                break
        status = head.split()[1]
        body = b""
        if not request.startswith(b"HEAD") and status not in (b"204", b"304"):
            if b"chunked" in head:
                body, _, passed = passed.partition(b"0\r\nTrailer: x\r\n\r\n")
            else:
                length = int(head.partition(b"Content-Length: ")[2].split()[0])
                body, passed = passed[:length], passed[length:]
        found.append(status + b" " + body)
    assert passed == b""
    return found


CUTS = st.lists(st.integers(0, 10_000), max_size=40)


@given(st.lists(st.sampled_from(TURNS), min_size=1, max_size=6), CUTS, CUTS, st.lists(st.booleans(), min_size=6))
def test_every_request_gets_its_own_answer_or_a_503_in_its_place(
    turns: list[tuple[bytes, bytes]], requests: list[int], answers: list[int], broken: list[bool]
) -> None:
    choices = iter(broken)
    exchange = HttpExchange(lambda: 7 if next(choices) else None)
    sent = b"".join(request for request, _ in turns)
    assert b"".join(map(exchange.request, cut(sent, requests))) == sent
    whole = b"".join(answer for _, answer in turns)
    found = bodies(b"".join(map(exchange.answer, cut(whole, answers))), turns)
    expected = bodies(whole, turns)
    for one, passed, replaced, (request, _) in zip(found, expected, broken, turns, strict=False):
        if not replaced:
            assert one == passed
        else:
            assert one.startswith(b"503 "), one
            assert bool(one[4:]) != request.startswith(b"HEAD")


def test_a_503_says_when_to_come_back_and_what_becomes_of_the_connection() -> None:
    def in_place_of(answer: bytes) -> bytes:
        exchange = HttpExchange(lambda: 7)
        exchange.request(GET)
        return exchange.answer(answer) + exchange.answer(b"")

    head = in_place_of(LENGTH).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 7\r\n" in head
    assert b"Connection" not in head
    assert b"\r\nConnection: close" in in_place_of(LENGTH.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
    endless = in_place_of(ENDLESS)
    assert endless.startswith(b"HTTP/1.0 503")
    assert b"\r\nConnection: close" in endless
    assert b"until" not in endless, "its body is passed over to the end"
    kept = in_place_of(LENGTH.replace(b"1.1 200 OK\r\n", b"1.0 200 OK\r\nConnection: keep-alive\r\n", 1))
    assert b"\r\nConnection: keep-alive" in kept


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (GET, b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x05hello HTTP/1.1 200 OK\r\n\r\n"),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
        (GET, b"no HTTP at all\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
        (b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"),
        (b"PUT /a HTTP/1.1\r\nContent-Length: 1, 2\r\n\r\n", LENGTH),
        (GET, b"x" * 300_000),
    ],
    ids=["upgrade", "tunnel", "another protocol", "unasked", "contradiction", "no end of a head"],
)
def test_what_cannot_be_followed_passes_as_it_is(request_: bytes, answer: bytes) -> None:
    exchange = HttpExchange(lambda: 7)
    assert exchange.request(request_) == request_
    assert exchange.answer(answer) + exchange.answer(b"") == answer
    assert exchange.request(b"\x00\xff") + exchange.request(b"") == b"\x00\xff"


def test_a_part_of_a_message_is_passed_on_at_its_end() -> None:
    exchange = HttpExchange(lambda: None)
    assert exchange.request(GET[:9]) == b""
    assert exchange.request(b"") == GET[:9]
    assert exchange.answer(CHUNKED[:-9]) + exchange.answer(b"") == CHUNKED[:-9]
