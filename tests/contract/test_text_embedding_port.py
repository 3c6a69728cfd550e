"""One suite for every engine that makes vectors: in this process, behind a socket, at an OpenAI-compatible URL."""

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import numpy
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from antiphon.core.errors import AntiphonError, InvalidInputError, NotFoundError, PromptTooLongError
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import GenerationRequest, TextEmbeddingRequest, TextEmbeddings, TokenizationRequest
from antiphon.engine.api.port import Engine
from antiphon.engine.api.server import serve
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.backends.simulated.encoder import SimulatedEncoder
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout

TOKENS, DIMENSIONS = 8, 16


async def local(token_seconds: float = 0.0) -> LocalEngine:
    runtimes = {"words": SimulatedRuntime("words", Layout(slots=4, context_tokens=2048))}
    encoder = SimulatedEncoder("vectors", tokens=TOKENS, dimensions=DIMENSIONS, token_seconds=token_seconds)
    return await LocalEngine(runtimes, encoders={"vectors": encoder}).start()


@contextlib.asynccontextmanager
async def in_process(_: Path) -> AsyncIterator[Engine]:
    engine = await local()
    yield engine
    await engine.close()


@contextlib.asynccontextmanager
async def behind_a_socket(folder: Path) -> AsyncIterator[Engine]:
    stop, ready = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(serve(await local(), folder / "engine.sock", stop, ready=ready.set))
    await ready.wait()
    client = EngineClient(folder / "engine.sock")
    yield client
    await client.close()
    stop.set()
    await serving


def openai_server(engine: LocalEngine) -> Starlette:
    """As much of an OpenAI-compatible server as vectors need."""

    async def embeddings(request: Request) -> Response:
        body = await request.json()
        try:
            made = await engine.embed(
                TextEmbeddingRequest("r", body["model"], tuple(body["input"]), body.get("dimensions"))
            )
        except AntiphonError as error:
            shaped = {"error": {"message": str(error), "type": error.kind, "code": error.code}}
            return JSONResponse(shaped, status_code=error.http_status)
        size = 4 * made.dimensions
        rows = [made.vectors[start : start + size] for start in range(0, len(made.vectors), size)]
        # The order of the list is not the order of the texts, and one is sent as numbers.
        data = [{"index": place, "embedding": base64.b64encode(row).decode()} for place, row in enumerate(rows)]
        data[0]["embedding"] = numpy.frombuffer(rows[0], "<f4").tolist()
        usage = {"prompt_tokens": sum(made.tokens), "total_tokens": sum(made.tokens)}
        return JSONResponse({"data": data[::-1], "usage": usage})

    return Starlette(routes=[Route("/v1/embeddings", embeddings, methods=["POST"])])


@contextlib.asynccontextmanager
async def behind_a_url(_: Path) -> AsyncIterator[Engine]:
    backend = await local()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(openai_server(backend), log_level="error", lifespan="off"))
    running = asyncio.create_task(server.serve([listener]))
    engine = RemoteEngine(f"http://127.0.0.1:{listener.getsockname()[1]}")
    yield engine
    await engine.close()
    server.should_exit = True
    await running
    listener.close()
    await backend.close()


IMPLEMENTATIONS = {"local": in_process, "socket": behind_a_socket, "remote": behind_a_url}


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    async with asyncio.timeout(30), IMPLEMENTATIONS[request.param](tmp_path) as implementation:
        yield implementation


def rows(embedded: TextEmbeddings) -> numpy.ndarray:
    return numpy.frombuffer(embedded.vectors, "<f4").reshape(-1, embedded.dimensions)


async def test_every_text_has_its_vector_in_its_place(engine: Engine) -> None:
    made = await engine.embed(TextEmbeddingRequest("mine", "vectors", ("a late flight", "tea", "a late train")))
    assert made.id == "mine"
    assert (made.dimensions, sum(made.tokens)) == (DIMENSIONS, 7)
    found = rows(made)
    assert found.shape == (3, DIMENSIONS)
    assert numpy.allclose((found * found).sum(axis=1), 1, atol=1e-6)
    assert found[0] @ found[2] > found[0] @ found[1]
    alone = await engine.embed(TextEmbeddingRequest("again", "vectors", ("tea",)))
    assert alone.vectors == found[1].tobytes()
    assert alone.fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (TextEmbeddingRequest("r", "words", ("tea",)), NotFoundError),
        (TextEmbeddingRequest("r", "nothing", ("tea",)), NotFoundError),
        (TextEmbeddingRequest("r", "vectors", ("tea", " ")), InvalidInputError),
        (TextEmbeddingRequest("r", "vectors", ("a " * 9,)), PromptTooLongError),
        (TextEmbeddingRequest("r", "vectors", ("tea",), dimensions=3), InvalidInputError),
    ],
)
async def test_what_cannot_be_embedded_is_refused_and_the_next_request_is_not(
    engine: Engine, asked: TextEmbeddingRequest, kind: type[AntiphonError]
) -> None:
    with pytest.raises(kind):
        await engine.embed(asked)
    assert len(rows(await engine.embed(TextEmbeddingRequest("r", "vectors", ("tea",))))) == 1


async def test_an_error_names_the_field_across_the_socket(tmp_path: Path) -> None:
    async with behind_a_socket(tmp_path) as engine:
        with pytest.raises(PromptTooLongError) as refused:
            await engine.embed(TextEmbeddingRequest("r", "vectors", ("tea", "a " * 9)))
    assert refused.value.where == "input[1]"
    assert refused.value.next_step == "Split it, and embed the parts."


async def test_texts_and_generations_share_one_engine(tmp_path: Path) -> None:
    async with behind_a_socket(tmp_path) as engine:
        described = await engine.describe()
        assert [(one.name, one.tokens, one.dimensions) for one in described.embedders] == [
            ("vectors", TOKENS, DIMENSIONS)
        ]
        asked = GenerationRequest("g", "words", "Tell me about flights.\n", 64, priority="batch")
        generating = asyncio.ensure_future(anext(engine.generate(asked)))
        texts = tuple(f"text {number}" for number in range(50))
        online, idle = await asyncio.gather(
            engine.embed(TextEmbeddingRequest("o", "vectors", texts)),
            engine.embed(TextEmbeddingRequest("b", "vectors", texts, priority="batch")),
        )
        assert online.vectors == idle.vectors
        assert await generating
        load = (await engine.describe()).load
        assert (load.embedded_texts, load.embedded_tokens) == (100, 200)


async def test_a_request_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    engine = await local(token_seconds=0.02)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await engine.embed(TextEmbeddingRequest("long", "vectors", ("one two three four",) * 1_000))
        async with asyncio.timeout(10):
            await engine.drain()
        load = engine.load()
        assert (load.running_online, load.waiting_online) == (0, 0)
        assert load.embedded_texts < 100
    finally:
        await engine.close()


async def test_tokens_are_told_across_the_socket(tmp_path: Path) -> None:
    async with behind_a_socket(tmp_path) as engine:
        read = await engine.tokenize(TokenizationRequest("t", "words", "every flight"))
        assert read.id == "t"
        assert (await engine.tokenize(TokenizationRequest("u", "words", tokens=read.tokens))).text == "every flight"
        with pytest.raises(InvalidInputError) as refused:
            await engine.tokenize(TokenizationRequest("u", "words", tokens=(10**6,)))
        assert refused.value.where == "tokens"
        with pytest.raises(NotFoundError):
            await engine.tokenize(TokenizationRequest("u", "vectors", "every flight"))
