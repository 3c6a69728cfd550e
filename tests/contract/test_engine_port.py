"""One suite for every implementation of the engine's port. Gaps are declared; a gap that closes fails the suite."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    PromptTooLongError,
    UnsatisfiableSchemaError,
    UnsupportedParameterError,
)
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import (
    Delta,
    EngineInstance,
    EngineLoad,
    GenerationRequest,
    GenerationResult,
    Penalties,
    ServedModel,
)
from antiphon.engine.api.port import Engine
from antiphon.engine.api.server import serve
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.routing.merged import total
from antiphon.engine.routing.routed_engine import RoutedEngine

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"outlook": {"enum": ["on_time", "delayed"]}, "notice": {"type": "string"}},
        "required": ["outlook", "notice"],
        "additionalProperties": False,
    }
)


LAYOUT = Layout(slots=4, context_tokens=2048)


def load(model: ServedModel) -> SimulatedRuntime:
    if model.path == "/broken":
        raise CorruptionError("The weights are other ones.", where=model.path)
    return SimulatedRuntime(model.name, LAYOUT, weights=model.sha256)


async def local() -> LocalEngine:
    runtimes = {"words": SimulatedRuntime("words", LAYOUT)}
    missing = {"gone": "Its file is not there."}
    return await LocalEngine(runtimes, digests={"words": "w1"}, load=load, missing=missing).start()


@contextlib.asynccontextmanager
async def in_process(_: Path) -> AsyncIterator[Engine]:
    engine = await local()
    yield engine
    await engine.close()


@contextlib.asynccontextmanager
async def behind_a_socket(folder: Path) -> AsyncIterator[EngineClient]:
    stop, ready = asyncio.Event(), asyncio.Event()
    folder.mkdir(exist_ok=True)
    serving = asyncio.create_task(serve(await local(), folder / "engine.sock", stop, ready=ready.set))
    await ready.wait()
    client = EngineClient(folder / "engine.sock")
    yield client
    await client.close()
    stop.set()
    await serving


@contextlib.asynccontextmanager
async def over_two_that_have_joined(folder: Path) -> AsyncIterator[Engine]:
    async with behind_a_socket(folder / "a") as one, behind_a_socket(folder / "b") as other:
        clients = {"a": one, "b": other}

        async def living() -> list[EngineInstance]:
            return [EngineInstance(name, name, "host", "", "", {}, {}, EngineLoad(slots=4)) for name in clients]

        engine = RoutedEngine(living, lambda instance: clients[instance.name])
        yield engine
        await engine.close()


def openai_server(engine: LocalEngine) -> Starlette:
    """As much of an OpenAI-compatible server as an engine needs, over a simulated engine."""

    async def models(_: Request) -> Response:
        return JSONResponse({"data": [{"id": "words", "object": "model", "max_model_len": 2048}]})

    async def completions(request: Request) -> Response:
        body = await request.json()
        response_format = body.get("response_format")
        asked = GenerationRequest(
            "r",
            body["model"],
            body["prompt"] if isinstance(body["prompt"], str) else "",
            body["max_tokens"],
            body["temperature"],
            body["top_p"],
            body["seed"],
            tuple(body.get("stop", ())),
            json.dumps(response_format["json_schema"]["schema"]) if response_format else None,
            body.get("logprobs"),
            prompt_ids=() if isinstance(body["prompt"], str) else tuple(body["prompt"]),
            prompt_logprobs=body["logprobs"] if body.get("echo") else None,
            penalties=Penalties(
                body.get("frequency_penalty", 0.0),
                body.get("presence_penalty", 0.0),
                tuple((int(token), bias) for token, bias in body.get("logit_bias", {}).items()),
            ),
        )
        events = engine.generate(asked)
        try:
            first = await anext(events)
        except AntiphonError as error:
            shaped = {"error": {"message": str(error), "type": error.kind, "code": error.code}}
            return JSONResponse(shaped, status_code=error.http_status)

        async def lines() -> AsyncIterator[str]:
            event: Delta | GenerationResult = first
            async with contextlib.aclosing(events):
                while isinstance(event, Delta):
                    tokens = event.prompt + event.tokens
                    text = "".join(token.text for token in event.prompt) + event.text
                    chunk: dict[str, object] = {"index": 0, "text": text, "finish_reason": None}
                    if asked.logprobs is not None:
                        chunk["logprobs"] = {
                            "tokens": [token.text for token in tokens],
                            "token_logprobs": [token.logprob for token in tokens],
                            "top_logprobs": [{a.text: a.logprob for a in token.alternatives} for token in tokens],
                        }
                    yield f"data: {json.dumps({'choices': [chunk]})}\n\n"
                    event = await anext(events)
            last = {"index": 0, "text": "", "finish_reason": event.reason}
            usage = {"prompt_tokens": event.usage.prompt_tokens, "completion_tokens": event.usage.completion_tokens}
            yield f"data: {json.dumps({'choices': [last], 'usage': usage, 'system_fingerprint': 'fp_1'})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    return Starlette(
        routes=[Route("/v1/models", models), Route("/v1/completions", completions, methods=["POST"])],
    )


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


IMPLEMENTATIONS = {
    "local": in_process,
    "socket": behind_a_socket,
    "remote": behind_a_url,
    "routed": over_two_that_have_joined,
}


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    async with asyncio.timeout(30), IMPLEMENTATIONS[request.param](tmp_path) as implementation:
        yield implementation


@pytest.fixture
def only_told(request: pytest.FixtureRequest, engine: Engine) -> None:
    """What needs an engine that can be told what to serve."""
    if isinstance(engine, RemoteEngine):
        request.applymarker(
            pytest.mark.xfail(strict=True, reason="an OpenAI-compatible server loads nothing on demand")
        )


@pytest.fixture
def only_ours(request: pytest.FixtureRequest, engine: Engine) -> None:
    """What an OpenAI-compatible server has no way to say."""
    if isinstance(engine, RemoteEngine):
        request.applymarker(pytest.mark.xfail(strict=True, reason="the OpenAI protocol does not carry it"))


def asking(prompt: str = "Tell me about flights.\n", **changes: object) -> GenerationRequest:
    fields: dict[str, object] = {"id": "r1", "model": "words", "prompt": prompt, "max_tokens": 64}
    return GenerationRequest(**{**fields, **changes})  # type: ignore[arg-type]


async def collect(engine: Engine, request: GenerationRequest) -> tuple[list[Delta], GenerationResult]:
    events = [event async for event in engine.generate(request)]
    assert all(isinstance(event, Delta) for event in events[:-1])
    assert isinstance(events[-1], GenerationResult)
    return events[:-1], events[-1]  # type: ignore[return-value]


async def test_it_describes_its_models(engine: Engine) -> None:
    (model,) = (await engine.describe()).models
    assert model.name == "words"
    assert model.context_tokens == 2048
    assert model.fingerprint


@pytest.mark.usefixtures("only_ours")
async def test_it_names_configured_models_that_are_missing(engine: Engine) -> None:
    assert (await engine.describe()).missing == {"gone": "Its file is not there."}


async def test_the_deltas_make_up_the_text(engine: Engine) -> None:
    deltas, finished = await collect(engine, asking())
    assert finished.text == "".join(delta.text for delta in deltas)
    assert finished.reason == "stop"
    assert len(finished.text.split()) >= 5
    assert finished.usage.prompt_tokens > 0
    assert finished.usage.completion_tokens > 0


async def test_the_same_request_gives_the_same_text(engine: Engine) -> None:
    texts = [(await collect(engine, asking(temperature=1.0, seed=seed)))[1].text for seed in (5, 5, 6)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


async def test_length_ends_a_text(engine: Engine) -> None:
    _, finished = await collect(engine, asking(max_tokens=3))
    assert finished.reason == "length"
    assert finished.usage.completion_tokens == 3


async def test_a_stop_sequence_ends_a_text_before_it(engine: Engine) -> None:
    _, whole = await collect(engine, asking())
    stop = " " + whole.text.split()[3]
    _, cut = await collect(engine, asking(stop=(stop,)))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.reason == "stop"


async def test_a_schema_is_met(engine: Engine) -> None:
    _, finished = await collect(engine, asking(json_schema=SCHEMA))
    answer = json.loads(finished.text)
    assert answer["outlook"] in ("on_time", "delayed")
    assert isinstance(answer["notice"], str)


async def test_the_prompts_own_tokens_are_measured_and_change_nothing(engine: Engine) -> None:
    plain, ended = await collect(engine, asking(logprobs=2))
    deltas, finished = await collect(engine, asking(logprobs=2, prompt_logprobs=2))
    assert (finished.text, finished.reason) == (ended.text, ended.reason)
    assert [t for delta in deltas for t in delta.tokens] == [t for delta in plain for t in delta.tokens]
    prompt = deltas[0].prompt
    assert "".join(token.text for token in prompt) == asking().prompt
    assert len(prompt) == finished.usage.prompt_tokens
    assert prompt[0].logprob is None
    assert all(token.logprob is not None and len(token.alternatives) == 2 for token in prompt[1:])
    assert not any(delta.prompt for delta in deltas[1:])
    deltas, finished = await collect(engine, asking(prompt_logprobs=2, logprobs=2, max_tokens=0))
    assert [delta.prompt for delta in deltas] == [prompt]
    assert (finished.text, finished.reason, finished.usage.completion_tokens) == ("", "length", 0)


async def test_bias_and_penalties_change_the_choice(engine: Engine) -> None:
    _, forced = await collect(engine, asking(max_tokens=6, penalties=Penalties(bias=((72, 100.0),))))
    assert forced.text == "HHHHHH"
    _, varied = await collect(engine, asking(max_tokens=60, penalties=Penalties(2.0, 0.0, ((72, 60.0),))))
    assert varied.text.startswith("HHHHHH")
    assert set(varied.text) != {"H"} or len(varied.text) < 60


async def test_log_probabilities_come_with_each_token(engine: Engine) -> None:
    deltas, finished = await collect(engine, asking(logprobs=3))
    tokens = [token for delta in deltas for token in delta.tokens]
    assert "".join(token.text for token in tokens) == finished.text
    for token in tokens:
        assert token.logprob is not None
        assert token.logprob <= 0
        assert len(token.alternatives) == 3
        assert token.alternatives[0].logprob == max(other.logprob for other in token.alternatives)


@pytest.mark.usefixtures("only_ours")
async def test_branches_are_reported_with_their_place(engine: Engine) -> None:
    _, finished = await collect(engine, asking(json_schema=SCHEMA, branches=True))
    branch = finished.branches[0]
    assert finished.text[: branch.offset] == '{"outlook": "'
    assert {option.text for option in branch.options} == {"o", "d"}


@pytest.mark.usefixtures("only_ours")
async def test_the_completions_tokens_are_reported(engine: Engine) -> None:
    deltas, finished = await collect(engine, asking())
    assert len(finished.token_ids) == finished.usage.completion_tokens
    assert [token.token for delta in deltas for token in delta.tokens] == list(finished.token_ids)


@pytest.mark.usefixtures("only_ours")
async def test_a_forced_length_goes_on_after_the_end(engine: Engine) -> None:
    _, ended = await collect(engine, asking())
    deltas, forced = await collect(engine, asking(ignore_end=True))
    assert (ended.reason, forced.reason) == ("stop", "length")
    assert forced.usage.completion_tokens == 64 > ended.usage.completion_tokens
    assert forced.token_ids[: len(ended.token_ids)] == ended.token_ids
    assert sum(len(delta.tokens) for delta in deltas) == 64


@pytest.mark.usefixtures("only_ours")
async def test_the_fingerprint_is_the_models(engine: Engine) -> None:
    _, finished = await collect(engine, asking())
    assert finished.fingerprint == (await engine.describe()).models[0].fingerprint


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": "absent"}, NotFoundError),
        ({"prompt": "x" * 3000}, PromptTooLongError),
        ({"max_tokens": 5000}, PromptTooLongError),
        ({"max_tokens": 0}, InvalidInputError),
        ({"temperature": -1.0}, InvalidInputError),
        ({"top_p": 0.0}, InvalidInputError),
        ({"stop": ("",)}, InvalidInputError),
        ({"prompt": "", "prompt_ids": (72, 999_999), "max_tokens": 4}, InvalidInputError),
        ({"penalties": Penalties(frequency=2.5)}, InvalidInputError),
        ({"penalties": Penalties(bias=((999_999, 1.0),))}, InvalidInputError),
        ({"logprobs": 99}, InvalidInputError),
        ({"prompt": ""}, InvalidInputError),
        ({"json_schema": "{"}, InvalidInputError),
        ({"json_schema": '{"enum": []}'}, InvalidInputError),
        ({"json_schema": SCHEMA, "max_tokens": 4}, InvalidInputError),
        ({"json_schema": SCHEMA, "ignore_end": True}, InvalidInputError),
        ({"parameters": '{"top_k": 3}'}, UnsupportedParameterError),
    ],
)
async def test_what_cannot_be_used_is_refused(engine: Engine, changes: dict[str, object], error: type) -> None:
    with pytest.raises(error):
        await collect(engine, asking(**changes))
    _, finished = await collect(engine, asking())
    assert finished.text


@pytest.mark.usefixtures("only_ours")
async def test_a_schema_that_cannot_be_met_is_told_apart(engine: Engine) -> None:
    with pytest.raises(UnsatisfiableSchemaError):
        await collect(engine, asking(json_schema='{"enum": []}'))


async def test_many_requests_at_once(engine: Engine) -> None:
    alone = [(await collect(engine, asking(f"Number {number}.\n", id="alone")))[1].text for number in range(10)]
    together = await asyncio.gather(
        *(collect(engine, asking(f"Number {number}.\n", id=f"r{number}")) for number in range(10))
    )
    assert [finished.text for _, finished in together] == alone


async def test_closing_the_generator_leaves_the_engine_usable(engine: Engine) -> None:
    events = engine.generate(asking())
    assert isinstance(await anext(events), Delta)
    await events.aclose()
    _, finished = await collect(engine, asking())
    assert finished.reason == "stop"


LIVE, CANARY = ServedModel("desk.v1", "/v1", "a1"), ServedModel("desk.v2", "/v2", "b2")


async def names(engine: Engine) -> set[str]:
    return {model.name for model in (await engine.describe()).models}


@pytest.mark.usefixtures("only_told")
async def test_the_declared_models_are_served_beside_those_it_started_with(engine: Engine) -> None:
    served = await engine.serve([LIVE, CANARY])
    assert {model.name for model in served.models} == await names(engine) == {"words", "desk.v1", "desk.v2"}
    texts = [(await collect(engine, asking(model=name)))[1].text for name in ("words", "desk.v1", "desk.v2")]
    assert len(set(texts)) == 3
    again = await engine.serve([CANARY, LIVE])
    assert {model.name for model in again.models} == {"words", "desk.v1", "desk.v2"}
    assert [(await collect(engine, asking(model=name)))[1].text for name in ("words", "desk.v1", "desk.v2")] == texts


@pytest.mark.usefixtures("only_told")
async def test_a_model_that_is_no_longer_declared_takes_no_new_requests(engine: Engine) -> None:
    await engine.serve([LIVE, CANARY])
    events = engine.generate(asking(model="desk.v1"))
    assert isinstance(await anext(events), Delta)
    await engine.serve([CANARY])
    assert await names(engine) == {"words", "desk.v2"}
    with pytest.raises(NotFoundError, match=r"desk\.v1") as refused:
        await collect(engine, asking(model="desk.v1"))
    assert "desk.v2" not in str(refused.value), "names of models are tenants' names, and a tenant may be told this"
    rest = [event async for event in events]
    assert isinstance(rest[-1], GenerationResult)
    assert rest[-1].reason == "stop"
    await engine.serve([])
    assert await names(engine) == {"words"}


@pytest.mark.usefixtures("only_told")
async def test_a_model_that_cannot_be_loaded_leaves_the_others_served(engine: Engine) -> None:
    with pytest.raises(CorruptionError, match="/broken"):
        await engine.serve([ServedModel("broken", "/broken", "c3"), LIVE])
    assert await names(engine) == {"words", "desk.v1"}
    assert (await collect(engine, asking(model="desk.v1")))[1].text


@pytest.mark.usefixtures("only_told")
@pytest.mark.parametrize(
    ("models", "error"),
    [
        ([CANARY, ServedModel("desk.v1", "/v1", "other")], ConflictError),
        ([CANARY, ServedModel("words", "/words", "other")], ConflictError),
        ([CANARY, CANARY, ServedModel("desk.v2", "/other", "b2")], InvalidInputError),
        ([CANARY, ServedModel("", "/nameless", "d4")], InvalidInputError),
    ],
)
async def test_a_declaration_that_contradicts_changes_nothing(
    engine: Engine, models: list[ServedModel], error: type
) -> None:
    await engine.serve([LIVE])
    with pytest.raises(error):
        await engine.serve(models)
    assert await names(engine) == {"words", "desk.v1"}


async def test_what_is_served_from_the_start_may_be_declared(engine: Engine) -> None:
    served = await engine.serve([ServedModel("words", "/words", "w1")])
    assert [model.name for model in served.models] == ["words"]
    assert (await collect(engine, asking()))[1].text


async def test_a_remote_engine_says_what_it_cannot_be_told() -> None:
    async with asyncio.timeout(30), behind_a_url(Path()) as engine:
        with pytest.raises(UnsupportedParameterError, match=r"desk\.v1"):
            await engine.serve([LIVE])


async def test_an_engine_tells_the_gpus_that_it_is_declared_to_use() -> None:
    for gpus in (0, 3):
        engine = await LocalEngine({"words": SimulatedRuntime("words", LAYOUT)}, gpus=gpus).start()
        events = [event async for event in engine.generate(GenerationRequest("r", "words", "p", 2))]
        assert isinstance(events[-1], GenerationResult)
        assert (events[-1].usage.gpus, (await engine.describe()).load.gpus) == (gpus, gpus)
        assert total([engine.load(), EngineLoad(gpus=2, slots=1)]).gpus == max(gpus, 2), "a request is in one of them"
        await engine.close()
