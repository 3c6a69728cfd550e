"""An OpenAI-compatible server that costs next to nothing: what both gateways are put in front of.

It answers ``/v1/chat/completions``, ``/v1/completions`` and ``/v1/models`` as OpenAI does, streamed or whole, with
``max_tokens`` words. A model named ``paced-N`` waits N milliseconds before each word, any other none. Every streamed
word is an event and an HTTP chunk of its own. Nothing is checked that a gateway checks: no key, no types.

    python -m benchmarks.gateway.upstream --port PORT
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from typing import Any

import httptools
import msgspec
import uvloop

WORD = " word"
DEFAULT_TOKENS = 16
MODELS = [{"id": name, "object": "model", "max_model_len": 65_536} for name in ("simulated", "paced-200")]

_numbers = itertools.count()
_body = msgspec.json.Decoder(dict[str, Any])


class Connection(asyncio.Protocol):
    """One connection that is kept alive; requests on it are answered one after another."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_body(self, body: bytes) -> None:
        self._content += body

    def on_message_complete(self) -> None:
        content, self._content = bytes(self._content), bytearray()
        if not content:
            self._send(msgspec.json.encode({"object": "list", "data": MODELS}))
            return
        asked = _body.decode(content)
        chat = self._path.endswith(b"/chat/completions")
        if not asked.get("stream"):
            self._send(whole(asked, chat))
            return
        words, ending = events(asked, chat)
        wait = pace(asked)
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        if wait:
            asyncio.get_running_loop().call_later(wait, self._tick, words, ending, wait)
            return
        self._transport.writelines([*words, ending])

    def _tick(self, words: list[bytes], ending: bytes, wait: float) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(words.pop())
        if words:
            asyncio.get_running_loop().call_later(wait, self._tick, words, ending, wait)
        else:
            self._transport.write(ending)

    def _send(self, content: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(content), content)
        )


def pace(asked: dict[str, Any]) -> float:
    """Seconds before each word."""
    name = str(asked.get("model", ""))
    return int(name.removeprefix("paced-")) / 1e3 if name.startswith("paced-") else 0.0


def tokens_of(asked: dict[str, Any]) -> int:
    return int(asked.get("max_completion_tokens") or asked.get("max_tokens") or DEFAULT_TOKENS)


def usage(asked: dict[str, Any]) -> dict[str, int]:
    tokens = tokens_of(asked)
    return {"prompt_tokens": 12, "completion_tokens": tokens, "total_tokens": 12 + tokens}


def whole(asked: dict[str, Any], chat: bool) -> bytes:
    """The answer in one piece."""
    text = WORD * tokens_of(asked)
    inner = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return msgspec.json.encode(
        {
            **_head(asked, "chat.completion" if chat else "text_completion"),
            "choices": [{"index": 0, "finish_reason": "length", **inner}],
            "usage": usage(asked),
        }
    )


def events(asked: dict[str, Any], chat: bool) -> tuple[list[bytes], bytes]:
    """The chunk of each word; then, in one piece, those of the end, of the usage if it was asked for, of ``[DONE]``."""
    head = _head(asked, "chat.completion.chunk" if chat else "text_completion")

    def event(**fields: Any) -> bytes:
        return _chunk(b"data: " + msgspec.json.encode(head | fields) + b"\n\n")

    def choice(text: str, reason: str | None) -> list[dict[str, Any]]:
        inner: dict[str, Any] = {"delta": {"content": text} if text else {}} if chat else {"text": text}
        return [{"index": 0, "finish_reason": reason, **inner}]

    words = [event(choices=choice(WORD, None))] * tokens_of(asked)
    ending = event(choices=choice("", "length"))
    if (asked.get("stream_options") or {}).get("include_usage"):
        ending += event(choices=[], usage=usage(asked))
    return words, ending + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _head(asked: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": f"u{next(_numbers)}", "object": kind, "created": 1_700_000_000, "model": asked.get("model", "")}


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


async def serve(port: int, address: str) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Connection, address, port, backlog=2048)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", default="127.0.0.1")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.address))


if __name__ == "__main__":
    main()
