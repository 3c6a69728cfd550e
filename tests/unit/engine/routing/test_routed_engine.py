"""Routing over instances: what is taken elsewhere, what is not, and who is asked at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from antiphon.core.errors import (
    AntiphonError,
    EngineError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    SetupError,
    UnavailableError,
)
from antiphon.engine.api import frames
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import (
    PROTOCOL,
    Delta,
    EngineDescription,
    EngineInstance,
    EngineLoad,
    GenerationRequest,
    GenerationResult,
    GenerationUsage,
    Hello,
    ModelDescription,
    ServedModel,
    TextEmbeddingRequest,
    TextEmbeddings,
    TokenOut,
)
from antiphon.engine.routing import routed_engine
from antiphon.engine.routing.placement import affinity_key, preference
from antiphon.engine.routing.routed_engine import RoutedEngine

PROMPT = "Tell me about flights. " * 60
REQUEST = GenerationRequest("r", "words", PROMPT, 8)
USAGE = GenerationUsage(10, 0, 2, 0, 2, 0.0, 0.0, 0.0, 0.0)


class Instance:
    """An instance that answers as a test says."""

    def __init__(self, name: str, models: Sequence[str] = ("words",)) -> None:
        self.name = name
        self.models = list(models)
        self.load = EngineLoad(slots=16)
        self.script: list[Delta | AntiphonError | asyncio.Event] = []
        self.away: AntiphonError | None = None
        self.requests = 0
        self.described = 0
        self.declared: list[tuple[ServedModel, ...]] = []
        self.refusal: AntiphonError | None = None
        self.context = 2048
        self.closed = False
        self.connected = True
        self.silent_seconds = 0.0
        self.drained = False
        self.gone = asyncio.Event()

    def hang_up(self) -> None:
        self.gone.set()

    @property
    def listed(self) -> EngineInstance:
        models = dict.fromkeys(self.models, f"of {self.name}")
        return EngineInstance(
            self.name, f"host/{self.name}", "host", "", "", models, {}, self.load, drained=self.drained
        )

    async def describe(self) -> EngineDescription:
        self.described += 1
        if self.away is not None:
            raise self.away
        models = [ModelDescription(name, f"of {self.name}", self.context, "", (), "", "") for name in self.models]
        return EngineDescription("d", tuple(models), self.load)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        self.requests += 1
        if self.away is not None:
            raise self.away
        for step in self.script:
            if isinstance(step, AntiphonError):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()
                if step is self.gone:
                    raise EngineError("The engine has said nothing for a while.")
            else:
                yield step
        yield Delta("r", self.name)
        yield GenerationResult("r", "stop", self.name, USAGE, f"of {self.name}")

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        self.requests += 1
        if self.away is not None:
            raise self.away
        return TextEmbeddings("e", b"", 4, (1,), f"of {self.name}")

    async def serve(self, models: Sequence[ServedModel]) -> EngineDescription:
        self.declared.append(tuple(models))
        if self.refusal is not None:
            raise self.refusal
        return await self.describe()

    async def close(self) -> None:
        self.closed = True


class Fleet:
    """Instances, and the catalog that lists them."""

    def __init__(self, *names: str) -> None:
        self.instances = {name: Instance(name) for name in names}
        self.listed = set(names)
        self.catalog_is_away = False

    async def living(self) -> list[EngineInstance]:
        if self.catalog_is_away:
            raise UnavailableError("The catalog is away.")
        return [self.instances[name].listed for name in sorted(self.listed)]

    def client(self, instance: EngineInstance) -> EngineClient:
        return cast(EngineClient, self.instances[instance.name])

    def preferred(self, request: GenerationRequest = REQUEST) -> list[Instance]:
        return [self.instances[name] for name in preference(affinity_key(request), sorted(self.listed))]


@asynccontextmanager
async def routing(fleet: Fleet, **options: Any) -> AsyncIterator[RoutedEngine]:
    engine = RoutedEngine(fleet.living, fleet.client, **options)
    try:
        async with asyncio.timeout(20):
            yield engine
    finally:
        await engine.close()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routed_engine, "LOOK_SECONDS", 0.005)


async def answer(engine: RoutedEngine, request: GenerationRequest = REQUEST) -> str:
    return "".join([event.text async for event in engine.generate(request) if isinstance(event, Delta)])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


async def test_prompts_that_begin_alike_meet_in_one_instance() -> None:
    fleet = Fleet("a", "b", "c")
    async with routing(fleet) as engine:
        said = {await answer(engine, msgspec.structs.replace(REQUEST, prompt=f"{PROMPT} {end}")) for end in range(20)}
        assert said == {fleet.preferred()[0].name}
        others = {await answer(engine, msgspec.structs.replace(REQUEST, prompt=f"{n} {PROMPT}")) for n in range(40)}
    assert others == {"a", "b", "c"}


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("The engine cannot be reached."),
        UnavailableError("The engine is shutting down."),
        OverloadedError("256 requests wait."),
        NotFoundError("It does not serve it any more."),
        EngineError("The engine died in the middle of an answer."),
    ],
)
async def test_what_has_shown_nothing_goes_on_elsewhere(error: AntiphonError) -> None:
    fleet = Fleet("a", "b")
    first, second = fleet.preferred()
    first.script = [Delta("r", "", (TokenOut(7, "", None, False),)), error]
    async with routing(fleet) as engine:
        events = [event async for event in engine.generate(REQUEST)]
    assert [event.text for event in events] == [second.name, second.name], "tokens of the first attempt came through"


async def test_what_has_shown_something_ends_with_the_error() -> None:
    fleet = Fleet("a", "b")
    first, second = fleet.preferred()
    first.script = [Delta("r", "Once upon"), EngineError("It died.")]
    async with routing(fleet) as engine:
        events = engine.generate(REQUEST)
        assert (await anext(events)).text == "Once upon"
        with pytest.raises(EngineError, match="died"):
            await anext(events)
    assert second.requests == 0


async def test_what_is_wrong_with_the_request_is_not_tried_elsewhere() -> None:
    fleet = Fleet("a", "b")
    first, second = fleet.preferred()
    first.script = [InvalidInputError("top_p is 7.")]
    async with routing(fleet) as engine:
        with pytest.raises(InvalidInputError):
            await answer(engine)
    assert second.requests == 0


async def test_a_request_that_two_instances_failed_under_is_given_to_no_third() -> None:
    fleet = Fleet("a", "b", "c")
    for instance in fleet.instances.values():
        instance.script = [EngineError("It died.")]
    async with routing(fleet) as engine:
        with pytest.raises(EngineError):
            await answer(engine)
    assert [instance.requests for instance in fleet.preferred()] == [1, 1, 0]


async def test_an_instance_that_failed_is_asked_last_until_a_probe_finds_it() -> None:
    fleet = Fleet("a", "b")
    first, second = fleet.preferred()
    first.away = UnavailableError("The engine cannot be reached.")
    async with routing(fleet) as engine:
        assert await answer(engine) == second.name
        assert await answer(engine) == second.name
        assert first.requests == 1, "requests were spent on finding out"
        first.away = None

        async def again() -> str:
            while (said := await answer(engine)) != first.name:
                await asyncio.sleep(0.002)
            return said

        assert await again() == first.name


async def test_a_successor_is_looked_for_before_an_instance_that_is_away_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routed_engine, "LOOK_SECONDS", 60.0)
    monkeypatch.setattr(routed_engine, "FRESH_SECONDS", -1.0)
    fleet = Fleet("a", "b", "c")
    fleet.listed = {"a", "b"}
    first, second = fleet.preferred()
    async with routing(fleet) as engine:
        first.away = UnavailableError("The engine cannot be reached.")
        assert await answer(engine) == second.name
        fleet.listed = {second.name, "c"}
        second.away = UnavailableError("The engine is shutting down.")
        assert await answer(engine) == "c"
        assert first.requests == 1, "it was asked although it is known to be away"


async def test_the_only_instance_is_asked_even_if_it_failed() -> None:
    fleet = Fleet("a")
    fleet.instances["a"].script = [EngineError("One request failed.")]
    async with routing(fleet) as engine:
        with pytest.raises(EngineError):
            await answer(engine)
        fleet.instances["a"].script = []
        assert await answer(engine) == "a"


async def test_where_one_is_active_at_a_time_a_request_waits_for_the_one_that_takes_over() -> None:
    fleet = Fleet("a", "b")
    fleet.listed = {"a"}
    first = fleet.instances["a"]
    first.script, first.connected = [EngineError("It was killed.")], False
    async with routing(fleet, patience=10.0) as engine:
        under_way = [asyncio.create_task(answer(engine)) for _ in range(2)]
        await until(lambda: first.requests == 2)
        fleet.listed = {"b"}
        assert await asyncio.gather(*under_way) == ["b", "b"]
        fleet.listed = set()
        await until(lambda: not engine._routes)
        later = asyncio.create_task(answer(engine))
        await asyncio.sleep(0)
        fleet.listed = {"b"}
        assert await later == "b"


async def test_where_one_is_active_at_a_time_its_own_error_makes_no_request_wait() -> None:
    fleet = Fleet("a")
    async with routing(fleet, patience=1_000.0) as engine:
        for error in (UnavailableError("Its server is away."), OverloadedError("Full."), NotFoundError("No model.")):
            fleet.instances["a"].script = [error]
            with pytest.raises(type(error)):
                await answer(engine)
        fleet.instances["a"].script = []
        assert await answer(engine) == "a"


async def test_a_request_waits_no_longer_than_it_may_for_one_that_takes_over() -> None:
    async with routing(Fleet(), patience=0.01) as engine:
        with pytest.raises(UnavailableError, match="No engine has joined"):
            await answer(engine)


async def test_one_that_has_left_gets_no_new_requests_and_finishes_what_it_has() -> None:
    fleet = Fleet("a", "b")
    first, second = fleet.preferred()
    end = asyncio.Event()
    first.script = [Delta("r", "Once "), end]
    async with routing(fleet) as engine:
        under_way = asyncio.create_task(answer(engine))
        await until(lambda: first.requests == 1)
        fleet.listed.discard(first.name)
        await until(
            lambda: first.name not in {route.instance.name for route in engine._routes.values() if route.joined}
        )
        assert await answer(engine) == second.name
        assert not first.closed
        end.set()
        assert await under_way == f"Once {first.name}"
        await until(lambda: first.closed)


async def test_one_that_is_drained_gets_no_new_requests_until_it_is_not() -> None:
    fleet = Fleet("a", "b")
    first, second = fleet.preferred()
    first.models.append("desk.v1")
    first.load = second.load = EngineLoad(slots=16)
    end = asyncio.Event()
    first.script = [Delta("r", "Once "), end]
    async with routing(fleet) as engine:
        under_way = asyncio.create_task(answer(engine))
        await until(lambda: first.requests == 1)
        first.drained = True
        await until(lambda: not any(route.open for route in engine._routes.values() if route.client is first))
        assert [await answer(engine) for _ in range(3)] == [second.name] * 3
        described = await engine.describe()
        assert (described.load.slots, [model.name for model in described.models]) == (16, ["words"])
        assert {one.name: one.drained for one in described.instances} == {first.name: True, second.name: False}
        end.set()
        assert await under_way == f"Once {first.name}"
        first.script, first.drained = [], False
        await until(lambda: all(route.open for route in engine._routes.values()))
        assert await answer(engine) == first.name


async def test_one_whose_lease_is_over_and_that_does_not_answer_is_let_go_with_what_it_has() -> None:
    fleet = Fleet("a", "b")
    first, _ = fleet.preferred()
    first.script = [asyncio.Event()]
    async with routing(fleet) as engine:
        under_way = asyncio.create_task(answer(engine))
        await until(lambda: first.requests == 1)
        fleet.listed.discard(first.name)
        first.away = UnavailableError("The engine cannot be reached.")
        await until(lambda: first.closed)
        under_way.cancel()
        await asyncio.gather(under_way, return_exceptions=True)


async def test_what_is_in_one_that_says_nothing_any_more_goes_on_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routed_engine, "DESCRIBE_SECONDS", 0.05)
    fleet = Fleet("a", "b")
    first, second = fleet.preferred()
    first.script = [first.gone]
    async with routing(fleet) as engine:
        under_way = asyncio.create_task(answer(engine))
        await until(lambda: first.requests == 1)
        first.away = UnavailableError("The engine cannot be reached.")
        first.silent_seconds = 60.0
        assert await under_way == second.name


async def test_what_is_in_the_only_one_waits_for_it_to_come_back() -> None:
    fleet = Fleet("a")
    (only,) = fleet.preferred()
    back = asyncio.Event()
    only.script = [back]
    async with routing(fleet) as engine:
        under_way = asyncio.create_task(answer(engine))
        await until(lambda: only.requests == 1)
        only.away = UnavailableError("The engine cannot be reached.")
        only.silent_seconds = 60.0
        asked = only.described
        await until(lambda: only.described > asked + 2)
        assert not only.gone.is_set()
        only.away = None
        back.set()
        assert await under_way == only.name


async def test_an_instance_of_another_frame_version_is_passed_over_and_named(tmp_path: Path) -> None:
    """As while hosts are upgraded one after the other: the router meets instances of both versions."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.encode(Hello(PROTOCOL + 1, "engine")))
        await reader.read()
        writer.close()

    fleet = Fleet("a", "b")
    first, second = fleet.preferred()
    other = EngineClient(tmp_path / "other.sock")
    async with await asyncio.start_unix_server(greet, tmp_path / "other.sock"):
        own = fleet.client
        fleet.client = lambda one: other if one.name == first.name else own(one)  # type: ignore[method-assign]
        async with routing(fleet) as engine:
            for _ in range(3):
                assert await answer(engine) == second.name
            described = await engine.describe()
            assert {one.name: one.answers for one in described.instances} == {first.name: False, second.name: True}
        fleet.listed = {first.name}
        async with routing(fleet) as engine:
            with pytest.raises(UnavailableError, match=f"speaks protocol {PROTOCOL + 1}, this side {PROTOCOL}") as told:
                await answer(engine)
            assert "same version" in str(told.value.next_step)


async def test_one_that_joins_is_used_and_told_what_the_others_were_told() -> None:
    fleet = Fleet("a", "b")
    fleet.listed = {"a"}
    models = [ServedModel("desk.v1", "/w", "1")]
    async with routing(fleet) as engine:
        await engine.serve(models)
        assert fleet.instances["a"].declared == [tuple(models)]
        fleet.listed = {"a", "b"}
        await until(lambda: fleet.instances["b"].declared == [tuple(models)])
        fleet.listed = {"b"}
        await until(lambda: fleet.instances["a"].closed)
        assert await answer(engine) == "b"


async def test_while_the_catalog_is_away_the_known_instances_stay() -> None:
    fleet = Fleet("a", "b")
    async with routing(fleet) as engine:
        said = await answer(engine)
        fleet.catalog_is_away = True
        await until(lambda: engine._unread_at > engine._read_at)
        assert await answer(engine) == said
        # It is back, and the instances have not renewed their leases yet.
        fleet.catalog_is_away, fleet.listed = False, set()
        await until(lambda: engine._read_at > engine._unread_at)
        assert await answer(engine) == said


async def test_a_process_that_took_the_name_of_another_takes_its_place_at_once() -> None:
    fleet = Fleet("a")
    async with routing(fleet, monotonic=lambda: 100.0) as engine:
        await answer(engine)
        engine._unread_at = 99.0  # Those that are not listed are remembered.
        (before,) = engine._routes.values()
        before.instance = msgspec.structs.replace(before.instance, process="host/before")
        engine._routes = {"host/before": before}
        await until(lambda: set(engine._routes) == {"host/a"})


async def test_without_instances_the_next_step_is_said() -> None:
    async with routing(Fleet()) as engine:
        for work in (engine.describe(), answer(engine), engine.serve([])):
            with pytest.raises(UnavailableError, match="No engine has joined") as refused:
                await work
            assert "antiphon engine --join" in str(refused.value.next_step)


async def test_a_description_is_of_all_and_says_who_is_away() -> None:
    fleet = Fleet("a", "b", "c")
    fleet.instances["b"].models.append("desk.v1")
    fleet.instances["b"].context = 1024
    fleet.instances["a"].load = EngineLoad(running_online=2, waiting_batch=5, slots=16, busy_seconds=1.5)
    fleet.instances["b"].load = EngineLoad(running_online=1, slots=4, busy_seconds=2.0)
    fleet.instances["c"].away = UnavailableError("gone")
    async with routing(fleet) as engine:
        described = await engine.describe()
        assert {model.name: model.context_tokens for model in described.models} == {"words": 1024, "desk.v1": 1024}
        assert described.load == EngineLoad(running_online=3, waiting_batch=5, slots=20, busy_seconds=3.5)
        assert {one.name: one.answers for one in described.instances} == {"a": True, "b": True, "c": False}
        fleet.instances["a"].away = fleet.instances["b"].away = UnavailableError("gone")
        with pytest.raises(UnavailableError, match="None of the 3"):
            await engine.describe()


async def test_requests_go_to_those_that_serve_the_model() -> None:
    fleet = Fleet("a", "b", "c")
    fleet.instances["b"].models.append("desk.v1")
    async with routing(fleet) as engine:
        for number in range(10):
            request = msgspec.structs.replace(REQUEST, model="desk.v1", prompt=f"{number} {PROMPT}")
            assert await answer(engine, request) == "b"


async def test_a_declaration_reaches_every_instance_although_one_cannot_carry_it_out() -> None:
    fleet = Fleet("a", "b")
    fleet.instances["a"].refusal = SetupError("The file is missing.")
    async with routing(fleet) as engine:
        with pytest.raises(SetupError):
            await engine.serve([ServedModel("desk.v1", "/w", "1")])
    assert fleet.instances["b"].declared


async def test_load_of_other_processes_counts_and_is_not_counted_twice() -> None:
    fleet = Fleet("a", "b")
    first, second = fleet.preferred()
    first.load = EngineLoad(running_online=12, waiting_online=4, slots=16)
    async with routing(fleet) as engine:
        assert await answer(engine) == second.name
        first.load = EngineLoad(slots=16)
        end = asyncio.Event()
        first.script = [end]
        await until(lambda: not any(route._others["online"] for route in engine._routes.values()))
        tasks = [asyncio.create_task(answer(engine)) for _ in range(3)]
        await until(lambda: first.requests == 3)
        first.load = EngineLoad(running_online=3, slots=16)  # It says of itself what we have given it.
        await until(
            lambda: (
                all(route.instance.load == first.load for route in engine._routes.values())
                or any(route.instance.load == first.load for route in engine._routes.values())
            )
        )
        assert max(route.load_for("online").busy for route in engine._routes.values()) == 3
        end.set()
        await asyncio.gather(*tasks)


async def test_texts_are_embedded_where_there_is_room_and_elsewhere_when_that_one_is_away() -> None:
    fleet = Fleet("a", "b")
    fleet.instances["a"].load = EngineLoad(running_online=9, slots=16)
    request = TextEmbeddingRequest("e", "words", ("text",))
    async with routing(fleet) as engine:
        assert (await engine.embed(request)).fingerprint == "of b"
        fleet.instances["b"].away = UnavailableError("gone")
        assert (await engine.embed(request)).fingerprint == "of a"


async def test_while_none_has_joined_the_reserve_is_asked_and_a_start_is_told_at_once() -> None:
    fleet, here = Fleet("a"), Instance("here")
    fleet.listed.clear()
    here.script = [Delta("r", "", starting=4.0), Delta("r", "", starting=0.0)]
    async with routing(fleet, reserve=cast(EngineClient, here)) as engine:
        events = [event async for event in engine.generate(REQUEST)]
        assert [event.starting for event in events if isinstance(event, Delta)] == [4.0, 0.0, None]
        assert (await engine.describe()).models[0].fingerprint == "of here"
        await engine.serve([ServedModel("m", "/m", "0" * 64)])
        assert len(here.declared) == 1
        here.away = UnavailableError("The engine was stopped and could not be started.")
        with pytest.raises(UnavailableError, match="could not be started"):
            await answer(engine)
        fleet.listed.add("a")
        await until(lambda: engine.connected)
        assert await answer(engine) == "a"
        assert here.requests == 2
    assert here.closed
