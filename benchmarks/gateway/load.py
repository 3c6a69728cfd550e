"""The load generator, a process of its own: many connections that are kept alive, and the times of each answer.

One JSON :class:`Load` a line on stdin; for each it writes a JSON :class:`Found` to a file and says so. It speaks
HTTP/1.1 by hand and looks at an answer no closer than it must (the status, the first byte of the body, the end), so
that it is not what is measured: ``python -m benchmarks.gateway`` asks the bare upstream with it first, and prints that
ceiling.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import uvloop

from antiphon.core.child_process import start_child

OPEN_AT_ONCE = 64
LONGEST_SECONDS = 150.0
"""For one answer; what takes longer counts as refused."""


class Target(msgspec.Struct, frozen=True):
    """Where to send requests: a port of this machine, a bearer's key, and the model to ask."""

    port: int
    key: str
    model: str


class Load(msgspec.Struct, frozen=True):
    """What to send.

    Attributes:
        targets: asked by turns, one request each, over connections of their own.
        connections: requests in flight at once, to each target.
        seconds: how long new requests begin; 0 for no limit.
        requests: of each connection; 0 for no limit.
        tokens, stream, chat: what each request asks for.
    """

    targets: tuple[Target, ...]
    connections: int
    seconds: float = 0.0
    requests: int = 0
    tokens: int = 16
    stream: bool = False
    chat: bool = True


class Found(msgspec.Struct, frozen=True):
    """What came back.

    Attributes:
        seconds: from the first request to the last answer.
        cpu_seconds: of this process meanwhile.
        answers: by target, (first byte, last byte) of each answer in seconds since its request, in order of their ends.
        refused: how many answers were not whole or not 200, and one of them.
        most_open: the most answers that had begun and not ended at once.
    """

    seconds: float
    cpu_seconds: float
    answers: tuple[tuple[tuple[float, float], ...], ...]
    refused: int
    example: str
    most_open: int


class Connection(asyncio.Protocol):
    """One connection: :meth:`ask` sends a request and waits for the whole answer."""

    open = 0
    most_open = 0

    def __init__(self) -> None:
        self.content = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def ask(self, request: bytes, stream: bool) -> asyncio.Future[tuple[float, float]]:
        """(first byte, last byte) in seconds; :class:`ConnectionError` with what came when it is no whole 200."""
        self.answer: asyncio.Future[tuple[float, float]] = asyncio.get_running_loop().create_future()
        self.content, self.stream, self.first, self.body = b"", stream, 0.0, -1
        self.began = time.perf_counter()
        self.transport.write(request)
        self.limit = asyncio.get_running_loop().call_later(LONGEST_SECONDS, self.transport.abort)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.content += data
        if self.body < 0:
            self.body = self.content.find(b"\r\n\r\n")
            if self.body < 0:
                return
            self.body += 4
            head = self.content[: self.body].lower()
            if not head.startswith(b"http/1.1 200 "):
                self.transport.close()
                return
            found = head.partition(b"content-length:")[2]
            self.length = int(found.split(b"\r\n", 1)[0]) if found else -1
        if not self.first:
            if len(self.content) == self.body:
                return
            self.first = time.perf_counter() - self.began
            Connection.open += 1
            Connection.most_open = max(Connection.most_open, Connection.open)
        if self.length >= 0:
            ended = len(self.content) - self.body >= self.length
        else:
            ended = self.content.endswith(b"\r\n0\r\n\r\n")
            if ended and self.stream and b"data: [DONE]" not in self.content[-64:]:
                self.transport.close()
                return
        if ended:
            self.limit.cancel()
            Connection.open -= 1
            self.answer.set_result((self.first, time.perf_counter() - self.began))

    def connection_lost(self, exc: Exception | None) -> None:
        if hasattr(self, "answer") and not self.answer.done():
            self.limit.cancel()
            Connection.open -= bool(self.first)
            self.answer.set_exception(ConnectionError(repr(self.content[:400])))


def request_of(target: Target, load: Load, number: int) -> bytes:
    """A request that nobody has sent before."""
    said = f"Round {number} of {time.monotonic_ns()}: what do you see?"
    body: dict[str, Any] = {"model": target.model, "max_tokens": load.tokens, "stream": load.stream}
    body |= {"messages": [{"role": "user", "content": said}]} if load.chat else {"prompt": said}
    content = msgspec.json.encode(body)
    path = "/v1/chat/completions" if load.chat else "/v1/completions"
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {target.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def send(load: Load) -> Found:
    """Send the load; whoever is refused connects again and goes on."""
    numbers = itertools.count()
    answers: list[list[tuple[float, float]]] = [[] for _ in load.targets]
    refusals: list[str] = []
    opening = asyncio.Semaphore(OPEN_AT_ONCE)
    Connection.open = Connection.most_open = 0
    loop = asyncio.get_running_loop()

    async def connect(target: Target) -> Connection:
        async with opening:
            return (await loop.create_connection(Connection, "127.0.0.1", target.port))[1]

    async def converse(lines: list[Connection]) -> None:
        for turn in itertools.count():
            if (load.requests and turn == load.requests) or (load.seconds and time.perf_counter() >= end):
                break
            for place in range(len(lines)):
                at = (place + turn) % len(lines)  # who goes first changes with each turn
                try:
                    request = request_of(load.targets[at], load, next(numbers))
                    answers[at].append(await lines[at].ask(request, load.stream))
                except ConnectionError as error:
                    refusals.append(str(error))
                    lines[at] = await connect(load.targets[at])
        for line in lines:
            line.transport.close()

    groups = [await asyncio.gather(*map(connect, load.targets)) for _ in range(load.connections)]
    spent, began = _cpu_seconds(), time.perf_counter()
    end = began + load.seconds
    await asyncio.gather(*(converse(list(group)) for group in groups))
    return Found(
        time.perf_counter() - began,
        _cpu_seconds() - spent,
        tuple(tuple(found) for found in answers),
        len(refusals),
        refusals[0] if refusals else "",
        Connection.most_open,
    )


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Loader(AbstractContextManager["Loader"]):
    """The load generator's process, as its parent sees it.

    Args:
        prefix: what it is started under (``taskset -c 1``).
        file: where it writes what it found.
    """

    def __init__(self, prefix: tuple[str, ...], environment: Mapping[str, str], file: Path) -> None:
        self._file = file
        self._process = start_child(
            (*prefix, sys.executable, "-m", "benchmarks.gateway.load", str(file)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
        )

    def send(self, load: Load) -> Found:
        """Send a load and wait for what comes back.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(load) + b"\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise RuntimeError(f"The load generator ended with {self._process.wait(10)}.")
        return msgspec.json.decode(self._file.read_bytes(), type=Found)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16_384)), hard))
    for line in sys.stdin:
        found = uvloop.run(send(msgspec.convert(json.loads(line), Load)))
        Path(sys.argv[1]).write_bytes(msgspec.json.encode(found))
        print("found", flush=True)


if __name__ == "__main__":
    main()
