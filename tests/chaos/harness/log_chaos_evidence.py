"""What a NATS server holds of a stream, asked in its own protocol over a socket: none of the product's code, nor its
client, is used to look."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any

import msgspec
from tests.chaos.harness.feature_chaos_evidence import Event

_PART = 200


def stream_state(port: int, stream: str) -> dict[str, Any]:
    """The server's ``state`` of a stream: messages, first_seq, last_seq, num_deleted."""
    (found,) = _asked(port, [(f"$JS.API.STREAM.INFO.{stream}", {})])
    state: dict[str, Any] = found["state"]
    return state


def stream_events(port: int, stream: str, after: int, end: int) -> list[Event]:
    """Every message after a sequence, as the event in it; an event at offset 0 stands for one that is missing."""
    asked = [(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": number}) for number in range(after + 1, end + 1)]
    return [
        _event(found["message"]) if "message" in found else (0, f"nothing at {after + place}", "", 0.0, 0, 0)
        for place, found in enumerate(_asked(port, asked), start=1)
    ]


def _event(message: dict[str, Any]) -> Event:
    # A message is MessagePack [schema, codec, key id, bytes] with JSON inside: id, µs, µs, payload, and more.
    identity, event_time, available_at, payload, *_ = json.loads(
        msgspec.msgpack.decode(base64.b64decode(message["data"]))[3]
    )
    return message["seq"], identity, payload["shop"], payload["amount"], event_time, available_at


def _asked(port: int, asked: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line, line.makefile("rb") as said:
        line.sendall(b'CONNECT {"verbose":false}\r\nSUB answer.* 1\r\n')
        for start in range(0, len(asked), _PART):
            part = asked[start : start + _PART]
            for place, (subject, body) in enumerate(part):
                content = json.dumps(body).encode()
                line.sendall(f"PUB {subject} answer.{place} {len(content)}\r\n".encode() + content + b"\r\n")
            answers: dict[int, dict[str, Any]] = {}
            while len(answers) < len(part):
                row = said.readline()
                assert row, "the server ended"
                if row.startswith(b"MSG"):
                    _, subject, *_, size = row.decode().split()
                    answers[int(subject.rpartition(".")[2])] = json.loads(said.read(int(size)))
            found += [answers[place] for place in range(len(part))]
    return found
