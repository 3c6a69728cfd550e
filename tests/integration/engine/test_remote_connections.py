"""A remote engine's connections: kept from one request to the next, as many as there are requests, never waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from antiphon.core.errors import EngineError
from antiphon.engine.api.messages import GenerationRequest, GenerationResult
from antiphon.engine.backends.remote import engine as remote
from antiphon.engine.backends.remote.engine import RemoteEngine

WORD = b'data: {"choices": [{"index": 0, "text": " word", "finish_reason": null}]}\n\n'
END = b'data: {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Server:
    """Streams one word; ``ending`` is what follows the body's last event, after ``pause`` seconds."""

    def __init__(self, ending: bytes = b"0\r\n\r\n", pause: float = 0.0) -> None:
        self.ending, self.pause = ending, pause
        self.connections = 0
        self.under_way = self.most_under_way = 0
        self.wait_for: int | None = None
        self._all_here = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                await reader.readexactly(length)
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
                if self.wait_for is not None:
                    if self.under_way == self.wait_for:
                        self._all_here.set()
                    await self._all_here.wait()
                writer.write(HEAD + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in (WORD, END)))
                await writer.drain()
                await asyncio.sleep(self.pause)
                self.under_way -= 1
                writer.write(self.ending)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(server: Server, gpus: int = 0) -> AsyncIterator[RemoteEngine]:
    async with asyncio.timeout(30), await asyncio.start_server(server, "127.0.0.1", 0, backlog=512) as listening:
        engine = RemoteEngine(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", gpus=gpus)
        try:
            yield engine
        finally:
            await engine.close()


async def text(engine: RemoteEngine) -> str:
    events = [event async for event in engine.generate(GenerationRequest("r", "any", "Say.", 8))]
    assert isinstance(events[-1], GenerationResult)
    return events[-1].text


async def test_one_connection_serves_request_after_request() -> None:
    server = Server()
    async with serving(server) as engine:
        assert [await text(engine) for _ in range(5)] == [" word"] * 5
    assert server.connections == 1


async def test_each_answer_says_how_many_gpus_its_engine_is_declared_to_have() -> None:
    for gpus in (0, 4):
        async with serving(Server(), gpus) as engine:
            *_, last = [event async for event in engine.generate(GenerationRequest("r", "any", "Say.", 8))]
        assert isinstance(last, GenerationResult)
        assert last.usage.gpus == gpus


async def test_the_end_of_a_body_that_comes_a_moment_later_keeps_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "_ENDING_SECONDS", 10.0)
    server = Server(pause=0.05)
    async with serving(server) as engine:
        assert [await text(engine) for _ in range(3)] == [" word"] * 3
    assert server.connections == 1


async def test_a_body_that_does_not_end_holds_nobody_up() -> None:
    server = Server(ending=b"", pause=5.0)
    async with serving(server) as engine:
        begin = time.monotonic()
        assert [await text(engine) for _ in range(3)] == [" word"] * 3
        assert time.monotonic() - begin < 4.0
    assert server.connections == 3


async def test_many_streams_are_open_at_once() -> None:
    server = Server()
    server.wait_for = 300
    async with serving(server) as engine:
        assert await asyncio.gather(*(text(engine) for _ in range(300))) == [" word"] * 300
    assert server.most_under_way == 300


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"%x\r\n%b\r\n" % (len(WORD), WORD))
        await writer.drain()
        writer.close()

    async with asyncio.timeout(30), await asyncio.start_server(break_off, "127.0.0.1", 0) as listening:
        engine = RemoteEngine(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        with pytest.raises(EngineError, match="broke"):
            await text(engine)
        await engine.close()


async def test_each_word_is_told_when_it_comes_and_what_came_together_at_once() -> None:
    heard, said = asyncio.Semaphore(0), asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        for events in (WORD, WORD * 3):
            writer.write(b"%x\r\n%b\r\n" % (len(events), events))
            await heard.acquire()  # Nothing more is said before the last was told.
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(END), END))
        writer.close()
        await writer.wait_closed()
        said.set()

    told = []
    async with asyncio.timeout(30), await asyncio.start_server(speak, "127.0.0.1", 0) as listening:
        engine = RemoteEngine(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        async for event in engine.generate(GenerationRequest("r", "any", "Say.", 8)):
            told.append(event.text)
            heard.release()
        await engine.close()
        await said.wait()
    assert told == [" word", " word word word", " word" * 4]
