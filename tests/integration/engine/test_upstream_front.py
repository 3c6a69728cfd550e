"""The process in front of a server, behind a real socket: what its clients see of each other, and of the server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from antiphon.core.errors import EngineError, OverloadedError, UnavailableError, UnsupportedParameterError
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import (
    EngineLoad,
    GenerationRequest,
    GenerationResult,
    Priority,
    TokenizationRequest,
)
from antiphon.engine.api.server import serve
from antiphon.engine.backends.remote import admission
from antiphon.engine.backends.remote import front as front_module
from antiphon.engine.backends.remote.engine import RemoteEngine, Serves
from antiphon.engine.backends.remote.front import UpstreamFront
from antiphon.engine.scheduling.service_level import ServiceLevel

METRICS = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="words"}} 1.0
vllm:num_requests_waiting{{engine="0",model_name="words"}} {waiting}
vllm:num_requests_waiting_by_reason{{engine="0",model_name="words",reason="capacity"}} 7.0
vllm:kv_cache_usage_perc{{engine="0",model_name="words"}} {cache}
"""


class Server:
    """Answers with two words, when ``begin`` and when ``go`` is set; tells nobody apart."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, object]] = []
        self.now = self.listed = self.read = 0
        self.status = 200
        self.metrics: str | None = None
        self.begin, self.go = asyncio.Event(), asyncio.Event()
        self.begin.set()
        self.go.set()

    async def models(self, _: Request) -> Response:
        self.listed += 1
        return JSONResponse({"data": [{"id": "words", "max_model_len": 2048}]}, self.status)

    async def state(self, _: Request) -> Response:
        self.read += 1
        return Response(status_code=404) if self.metrics is None else PlainTextResponse(self.metrics)

    async def completions(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        if self.status != 200:
            return JSONResponse({"error": {"message": "Not now."}}, self.status, {"retry-after": "7"})
        self.now += 1

        async def lines() -> AsyncIterator[str]:
            try:
                await self.begin.wait()
                yield _event(" one", None)
                await self.go.wait()
                yield _event(" two", "stop")
                yield "data: [DONE]\n\n"
            finally:
                self.now -= 1

        return StreamingResponse(lines(), media_type="text/event-stream")


def _event(text: str, reason: str | None) -> str:
    choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
    return f"data: {msgspec.json.encode({'choices': [choice]}).decode()}\n\n"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch does not wait long for online requests that are not coming."""
    monkeypatch.setattr(admission, "_ALONE_SECONDS", 0.05)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    routes = [
        Route("/v1/models", made.models),
        Route("/v1/completions", made.completions, methods=["POST"]),
        Route("/metrics", made.state),
    ]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        made.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        uvicorn_server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off"))
        task = asyncio.create_task(uvicorn_server.serve(sockets=[listener]))
        await until(lambda: uvicorn_server.started)
        try:
            yield made
        finally:
            made.go.set()
            uvicorn_server.should_exit = True
            await task


class Fronted:
    """Clients of one front; ``stop`` drains it, ``ended`` when it has."""

    def __init__(self, path: Path) -> None:
        self.stop = asyncio.Event()
        self.first, self.second, self.worker = (EngineClient(path) for _ in range(3))
        self.ended: asyncio.Task[None]


@contextlib.asynccontextmanager
async def fronting(server: Server, folder: Path, serves: Serves = "openai") -> AsyncIterator[Fronted]:
    made, ready = Fronted(folder / "engine.sock"), asyncio.Event()
    front = await UpstreamFront(RemoteEngine(server.url, serves=serves)).start()
    made.ended = asyncio.create_task(serve(front, folder / "engine.sock", made.stop, drain_seconds=5, ready=ready.set))
    await ready.wait()
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        for client in (made.first, made.second, made.worker):
            await client.close()
        made.stop.set()
        server.go.set()
        await made.ended


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def load_of(client: EngineClient, shown: Callable[[EngineLoad], object]) -> EngineLoad:
    """The load, once it shows this."""
    async with asyncio.timeout(10):
        while not shown(load := (await client.describe()).load):
            await asyncio.sleep(0.005)
    return load


async def ask(
    client: EngineClient,
    priority: Priority = "online",
    level: ServiceLevel | None = None,
    *,
    ahead: bool = False,
    shown: asyncio.Event | None = None,
) -> GenerationResult:
    request = GenerationRequest("r", "words", "Say.", 16, priority=priority, level=level, ahead=ahead)
    async for event in client.generate(request):
        if isinstance(event, GenerationResult):
            return event
        if shown is not None:
            shown.set()
    raise AssertionError("no end")


async def learned(client: EngineClient) -> None:
    """Have the front learn what requests wait without batch."""
    for _ in range(8):
        await ask(client)


async def test_requests_wait_while_one_front_takes_the_place_of_another(server: Server, tmp_path: Path) -> None:
    waiting, hasty = EngineClient(tmp_path / "engine.sock", patience=20), EngineClient(tmp_path / "engine.sock")
    async with fronting(server, tmp_path) as old:
        server.go.clear()
        shown = asyncio.Event()
        begun = [asyncio.create_task(ask(waiting, shown=shown)), asyncio.create_task(ask(hasty))]
        await shown.wait()
        await until(lambda: server.now == 2)
        old.stop.set()
        await until(lambda: not (tmp_path / "engine.sock").exists())
        meanwhile = [asyncio.create_task(ask(waiting)) for _ in range(3)]
        counted = asyncio.create_task(waiting.tokenize(TokenizationRequest("t", "words", "Say.")))
        with pytest.raises(UnavailableError, match="shutting down"):
            await ask(hasty)
        server.go.set()
        assert {(await one).text for one in begun} == {" one two"}, "What it has it finishes."
        await old.ended
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await waiting.describe()  # Who looks is told at once.
        assert not any(one.done() for one in meanwhile)
    async with fronting(server, tmp_path):
        assert {(await one).text for one in meanwhile} == {" one two"}
        with contextlib.suppress(UnavailableError, UnsupportedParameterError):
            await counted
        assert (await ask(waiting)).text == " one two"
    for client in (waiting, hasty):
        await client.close()


async def test_what_had_shown_nothing_in_a_front_that_died_goes_on_in_the_next(server: Server, tmp_path: Path) -> None:
    client = EngineClient(tmp_path / "engine.sock", patience=20)
    server.go.clear()
    shown = asyncio.Event()
    async with fronting(server, tmp_path) as old:
        spoken = asyncio.create_task(ask(client, shown=shown))
        await shown.wait()
        server.begin.clear()
        quiet = asyncio.create_task(ask(client))
        await until(lambda: server.now == 2)
        old.stop.set()
        await until(lambda: not (tmp_path / "engine.sock").exists())
        assert client._connection is not None
        client._connection.hang_up("The engine died in the middle of an answer.")
        with pytest.raises(EngineError, match="died"):
            await spoken
        server.begin.set()
    async with fronting(server, tmp_path):
        assert (await quiet).text == " one two"
    await client.close()


async def test_a_request_waits_no_longer_than_it_may_for_a_successor(tmp_path: Path) -> None:
    client = EngineClient(tmp_path / "engine.sock", patience=0.1)
    began = asyncio.get_running_loop().time()
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await ask(client)
    assert asyncio.get_running_loop().time() - began >= 0.1


async def test_every_client_sees_what_the_others_have_in_the_server(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        server.go.clear()
        asked = [asyncio.create_task(ask(client)) for client in (fronted.first, fronted.second, fronted.second)]
        waiting = [asyncio.create_task(ask(fronted.worker, "batch")) for _ in range(3)]
        await load_of(
            fronted.worker, lambda load: load.running_online == 3 and load.running_batch + load.waiting_batch == 3
        )
        server.go.set()
        assert {result.text for result in await asyncio.gather(*asked, *waiting)} == {" one two"}
        load = await load_of(fronted.first, lambda load: not load.running_batch)
        assert (load.running_online, load.waiting_batch) == (0, 0)
        assert load.generated_tokens_online >= 3


async def test_a_look_ends_with_an_online_request_of_another_client(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        server.go.clear()
        look = asyncio.create_task(fronted.worker.describe_when_online(60.0))
        asked = asyncio.create_task(ask(fronted.first))
        assert (await look).load.running_online == 1
        server.go.set()
        await asked


async def test_many_looks_ask_the_server_once(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        await asyncio.gather(*(client.describe() for client in (fronted.first, fronted.second) for _ in range(20)))
        assert server.listed == 1


async def test_batch_gets_what_online_leaves(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        await learned(fronted.first)
        server.go.clear()
        asked = [asyncio.create_task(ask(fronted.first)) for _ in range(6)]
        await until(lambda: server.now == 6)
        waiting = [asyncio.create_task(ask(fronted.worker, "batch")) for _ in range(6)]
        load = await load_of(fronted.worker, lambda load: load.running_online == 6 and load.waiting_batch == 5)
        assert (load.running_batch, load.waiting_batch) == (1, 5)  # One, so that none starves.
        assert load.slots <= 6
        server.go.set()
        await asyncio.gather(*asked, *waiting)


async def test_held_batch_work_is_not_sent_and_online_is(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        await learned(fronted.first)
        held = await fronted.worker.hold_batch(60.0)
        assert held.load.batch_held_seconds > 50
        waiting = asyncio.create_task(ask(fronted.worker, "batch"))
        await load_of(fronted.first, lambda load: load.waiting_batch == 1)
        before = len(server.bodies)
        await ask(fronted.first)
        assert len(server.bodies) == before + 1
        assert not waiting.done()
        await fronted.first.hold_batch(0)
        assert (await waiting).text == " one two"


async def test_online_never_waits_here(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        server.go.clear()
        asked = [asyncio.create_task(ask(client)) for client in (fronted.first, fronted.second) for _ in range(20)]
        await until(lambda: server.now == 40)
        server.go.set()
        await asyncio.gather(*asked)


async def test_a_prompt_of_batch_leaves_a_vllm_for_an_online_request_and_is_sent_again(
    server: Server, tmp_path: Path
) -> None:
    async with fronting(server, tmp_path, "vllm") as fronted:
        server.begin.clear()
        batch = asyncio.create_task(ask(fronted.worker, "batch"))
        await until(lambda: server.now == 1)
        for number in range(front_module.MOST_PREEMPTIONS):
            online = asyncio.create_task(ask(fronted.first))
            load = await load_of(fronted.worker, lambda load: load.running_online == load.waiting_batch == 1)
            assert load.running_batch == 0
            await until(lambda: server.now == 1)  # The server was told.
            server.begin.set()
            await online
            server.begin.clear()
            await until(lambda number=number: len(server.bodies) == 2 * number + 3)
            await until(lambda: server.now == 1)
        online = asyncio.create_task(ask(fronted.first))  # By now it stays.
        await until(lambda: server.now == 2)
        server.begin.set()
        assert (await online).text == (await batch).text == " one two"
        assert len(server.bodies) == 2 * front_module.MOST_PREEMPTIONS + 2


async def test_what_has_shown_something_is_not_preempted(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path, "vllm") as fronted:
        server.go.clear()
        shown = asyncio.Event()
        batch = asyncio.create_task(ask(fronted.worker, "batch", shown=shown))
        await shown.wait()
        online = asyncio.create_task(ask(fronted.first))
        await until(lambda: server.now == 2)
        server.go.set()
        assert (await online).text == (await batch).text
        assert len(server.bodies) == 2


async def test_a_server_that_keeps_nothing_of_a_prompt_goes_on_with_it(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        server.begin.clear()
        batch = asyncio.create_task(ask(fronted.worker, "batch"))
        await until(lambda: server.now == 1)
        online = asyncio.create_task(ask(fronted.first))
        await until(lambda: server.now == 2)
        server.begin.set()
        await asyncio.gather(online, batch)
        assert len(server.bodies) == 2


async def test_a_request_that_is_given_up_is_given_up_at_the_server(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        server.go.clear()
        asked = [asyncio.create_task(ask(fronted.first, priority)) for priority in ("online", "batch")]
        stays = asyncio.create_task(ask(fronted.second))
        await until(lambda: server.now == 2)
        for task in asked:  # One runs, the other waits for its turn.
            task.cancel()
        await until(lambda: server.now == 1)
        load = await load_of(fronted.second, lambda load: load.running_online == 1)
        assert load.waiting_batch == 0
        server.go.set()
        assert (await stays).text == " one two"


async def test_a_client_that_vanishes_takes_its_requests_along(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        server.go.clear()
        asked = asyncio.create_task(ask(fronted.first))
        stays = asyncio.create_task(ask(fronted.second))
        await until(lambda: server.now == 2)
        await fronted.first.close()
        with pytest.raises(EngineError):
            await asked
        await until(lambda: server.now == 1)
        server.go.set()
        await stays


async def test_errors_keep_their_class_and_the_moment_to_come_back(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        server.status = 429
        with pytest.raises(OverloadedError) as refused:
            await ask(fronted.first)
        assert refused.value.retry_after == 7.0
        server.status = 503
        with pytest.raises(UnavailableError):
            await ask(fronted.first)
        server.status = 500
        with pytest.raises(EngineError):
            await ask(fronted.first, "batch")
        with pytest.raises(EngineError):
            await fronted.first.describe()
        with pytest.raises(UnsupportedParameterError):
            await fronted.first.tokenize(TokenizationRequest("t", "words", "Say."))
        assert server.now == 0


async def test_after_an_error_there_is_one_batch_request_until_the_server_serves(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "FIRST", 8.0)
    async with fronting(server, tmp_path) as fronted:
        await learned(fronted.first)
        server.status = 500
        with pytest.raises(EngineError):
            await ask(fronted.first)
        server.status = 200
        server.begin.clear()
        waiting = [asyncio.create_task(ask(fronted.worker, "batch")) for _ in range(4)]
        await load_of(fronted.worker, lambda load: (load.running_batch, load.waiting_batch) == (1, 3))
        server.go.clear()
        server.begin.set()
        await load_of(fronted.worker, lambda load: load.running_batch == 4)
        server.go.set()
        await asyncio.gather(*waiting)


async def test_those_ahead_go_before_other_batch_requests(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        server.go.clear()
        asked = asyncio.create_task(ask(fronted.worker, "batch"))  # The only one while nothing is known.
        await until(lambda: server.now == 1)
        order: list[str] = []

        async def noted(name: str, *, ahead: bool) -> None:
            await ask(fronted.worker, "batch", ahead=ahead)
            order.append(name)

        waiting = [asyncio.create_task(noted("plain", ahead=False))]
        await load_of(fronted.first, lambda load: load.waiting_batch == 1)
        waiting.append(asyncio.create_task(noted("ahead", ahead=True)))
        await load_of(fronted.first, lambda load: load.waiting_batch == 2)
        server.go.set()
        await asyncio.gather(asked, *waiting)
        assert order == ["ahead", "plain"]


async def test_it_drains_before_it_stops(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        server.go.clear()
        asked = asyncio.create_task(ask(fronted.first))
        await until(lambda: server.now == 1)
        fronted.stop.set()
        with pytest.raises((UnavailableError, EngineError)):
            await ask(fronted.first)
        server.go.set()
        assert (await asked).text == " one two"
        await fronted.ended


async def test_any_server_is_told_nothing_that_openai_does_not_know(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path) as fronted:
        await ask(fronted.worker, "batch")
        await ask(fronted.first, "online", ServiceLevel(slowdown=0.1))
        assert not {"priority", "vllm_xargs", "ignore_eos"} & {name for body in server.bodies for name in body}


async def test_vllm_is_told_priority_and_level_and_gets_batch_while_nothing_waits_in_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_module, "REPORT_SECONDS", 0.01)
    server.metrics = METRICS.format(waiting=0.0, cache=0.5)
    async with fronting(server, tmp_path, "vllm") as fronted:
        server.go.clear()
        waiting = [asyncio.create_task(ask(fronted.worker, "batch")) for _ in range(12)]
        await until(lambda: server.now == 12)
        server.metrics = METRICS.format(waiting=3.0, cache=0.5)
        read = server.read
        await until(lambda: server.read > read + 1)
        shown = asyncio.Event()
        more = asyncio.create_task(ask(fronted.worker, "batch", shown=shown))
        await load_of(fronted.worker, lambda load: load.waiting_batch == 1)
        server.metrics = METRICS.format(waiting=0.0, cache=0.5)
        await until(lambda: server.now == 13)
        await shown.wait()
        await ask_while_held(server, fronted)
        server.go.set()
        await asyncio.gather(more, *waiting)
    assert [body["priority"] for body in server.bodies].count(1) == 13
    assert server.bodies[-1]["vllm_xargs"] == {"antiphon_ttft": 1.0, "antiphon_slowdown": 0.1}


async def ask_while_held(server: Server, fronted: Fronted) -> None:
    """One online request beside batch that waits; it is given up once the server has it."""
    before = server.now
    level = ServiceLevel(ttft=1.0, slowdown=0.1)
    online = asyncio.create_task(ask(fronted.first, "online", level))
    await until(lambda: server.now == before + 1)
    online.cancel()
    await until(lambda: server.now == before)


async def test_a_vllm_without_metrics_is_judged_by_waiting_times(server: Server, tmp_path: Path) -> None:
    async with fronting(server, tmp_path, "vllm") as fronted:
        server.go.clear()
        waiting = [asyncio.create_task(ask(fronted.worker, "batch")) for _ in range(6)]
        load = await load_of(fronted.worker, lambda load: load.running_batch and load.waiting_batch)
        assert (load.running_batch, load.waiting_batch) == (1, 5)
        server.go.set()
        await asyncio.gather(*waiting)
