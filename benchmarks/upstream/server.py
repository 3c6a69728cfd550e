"""An OpenAI-compatible server with so many slots, in which requests take fixed times.

A request that finds no slot waits in order of arrival. A first word takes a time that grows with the prompt, each
further one a fixed time. Nobody is told apart, and a client that goes away frees its slot.

    python -m benchmarks.upstream.server --port PORT --slots 10
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from typing import Any

import msgspec
import uvloop
from benchmarks.gateway import upstream

BASE_SECONDS, CHARACTER_SECONDS, WORD_SECONDS = 0.05, 0.000125, 0.03

_body = msgspec.json.Decoder(dict[str, Any])
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Slots:
    """Requests in the server, and those that wait."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._queue: deque[SlotConnection] = deque()

    def enter(self, connection: SlotConnection) -> None:
        self._queue.append(connection)
        self._fill()

    def leave(self, connection: SlotConnection) -> None:
        """A request has ended, or its client has gone away."""
        if connection.runs:
            connection.runs = False
            self._free += 1
        elif connection in self._queue:
            self._queue.remove(connection)
        self._fill()

    def _fill(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            self._queue.popleft().run()


class SlotConnection(upstream.Connection):
    """One connection that is kept alive; a request on it takes a slot while it is answered."""

    def __init__(self, slots: Slots, scale: float) -> None:
        super().__init__()
        self._slots = slots
        self._scale = scale
        self._asked: dict[str, Any] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.runs = False

    def on_message_complete(self) -> None:
        content, self._content = bytes(self._content), bytearray()
        if not content:
            self._send(msgspec.json.encode({"object": "list", "data": upstream.MODELS}))
            return
        self._asked = _body.decode(content)
        self._slots.enter(self)

    def run(self) -> None:
        """Begin to answer."""
        self.runs = True
        words, ending = upstream.events(self._asked, chat=False)
        first = self._scale * (BASE_SECONDS + CHARACTER_SECONDS * len(self._asked["prompt"]))
        self._later(first, [_HEAD + words[0], *words[1:]], ending)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._slots.leave(self)

    def _later(self, seconds: float, words: list[bytes], ending: bytes) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._say, words, ending)

    def _say(self, words: list[bytes], ending: bytes) -> None:
        self._transport.write(words[0] if len(words) > 1 else words[0] + ending)
        if len(words) > 1:
            self._later(self._scale * WORD_SECONDS, words[1:], ending)
        else:
            self._slots.leave(self)


async def serve(port: int, slots: int, scale: float) -> None:
    """Serve until the process is ended."""
    shared = Slots(slots)
    server = await asyncio.get_running_loop().create_server(lambda: SlotConnection(shared, scale), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=10)
    parser.add_argument("--scale", type=float, default=1.0, help="of all times; 0 answers at once")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.slots, options.scale))


if __name__ == "__main__":
    main()
