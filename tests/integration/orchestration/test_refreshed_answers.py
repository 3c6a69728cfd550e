"""Answers that are asked for are made anew when figures change: over a real catalog, with a scripted engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import DESK, SCOPE, FeatureTable, SmallDesk

from antiphon.core.errors import UnavailableError
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.engine.api.messages import EngineDescription, EngineLoad, StoppedEngine
from antiphon.features.values import FeatureVector
from antiphon.orchestration.refreshed_answers import PRINCIPAL, AnswerSources, RefreshedAnswers
from antiphon.testing.scripted_engine import ScriptedEngine, echo

PLAIN = {"guards": (), "output_schema": None, "classes": ()}


class ByFlight(FeatureTable):
    """Delays of each flight by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: dict[str, float] = {}

    def read(
        self,
        views: Mapping[str, str],
        keys: Mapping[str, str],
        as_of: datetime,
        minimum_publication: int | None = None,
    ) -> FeatureVector:
        self.set(as_of, congestion__delay=self.delays.get(keys["flight"], 0.0))
        return super().read(views, keys, as_of, minimum_publication)


class World:
    def __init__(self, directory: Path, application: ApplicationSpec) -> None:
        self.engine = ScriptedEngine(echo)
        self.features = ByFlight()
        self.desk = SmallDesk(directory, self.engine, application, features=self.features)
        self.load = EngineLoad()
        self.stopped: StoppedEngine | None = None
        self.refreshed = self.refresher()

    def refresher(self) -> RefreshedAnswers:
        desk = self.desk

        async def describe() -> EngineDescription:
            return EngineDescription("describe", (), self.load, stopped=self.stopped)

        parts = AnswerSources(
            applications=desk.releases.applications,
            live=desk.releases.live,
            publication=lambda scope: self.features.publication,
            receipts=desk.receipts,
            texts=desk.blobs,
            answer=desk.answerer.answer,
            describe=describe,
        )
        return RefreshedAnswers(SCOPE, parts, desk.clock, half_life=timedelta(hours=6), every=0.01)

    async def ask(self, flight: str, after: float = 5) -> str:
        """Where the answer came from, of a question so many seconds after what was before."""
        self.desk.clock.advance(timedelta(seconds=after))
        request = self.desk.request(entity={"flight": flight, "origin": "JFK"}, as_of=None)
        return (await self.desk.answerer.answer(request)).receipt.cache.origin

    def publish(self, **delays: float) -> None:
        self.features.delays |= delays
        assert self.features.publication is not None
        self.features.publication += 1
        self.refreshed.look()
        self.desk.clock.advance(timedelta(seconds=5))

    async def round(self) -> None:
        for name in self.refreshed.look():
            while await self.refreshed.step(name):
                pass


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def made(refreshed: int = 2, **fields: Any) -> World:
        fields = {**PLAIN, "reuse": Reuse("fingerprint", identical_prompts=False, refreshed=refreshed), **fields}
        worlds.append(World(tmp_path, msgspec.structs.replace(DESK, **fields)))
        return worlds[-1]

    yield made
    for world in worlds:
        world.desk.close()


async def test_what_is_asked_for_most_is_found_in_store_after_a_publication(make: Callable[..., World]) -> None:
    world = make()
    for flight in ("AA", "AA", "AA", "BB", "BB", "CC"):
        await world.ask(flight)
    world.publish(AA=50.0, BB=60.0, CC=70.0)
    await world.round()
    assert world.refreshed.counts.made == 2
    assert [await world.ask(flight) for flight in ("AA", "BB", "CC")] == ["stored", "stored", "generated"]
    refreshed = world.desk.receipts.list(SCOPE, path="batch")
    assert {receipt.principal for receipt in refreshed} == {PRINCIPAL}


@pytest.mark.parametrize("publications", [1, 3])
async def test_what_was_asked_for_in_the_last_moment_is_made_anew_too(
    make: Callable[..., World], publications: int
) -> None:
    """However quickly publications follow each other: each one's round comes."""
    world = make()
    await world.ask("AA")
    await world.round()
    for delay in range(publications):
        await world.ask("BB", after=0.1)
        world.features.delays["BB"] = 10.0 * (delay + 1)
        world.features.publication = (world.features.publication or 0) + 1
        await world.round()
        world.desk.clock.advance(timedelta(seconds=1))
        await world.round()
    for _ in range(4):
        world.desk.clock.advance(timedelta(seconds=1))
        await world.round()
    assert await world.ask("BB", after=0.1) == "stored"


async def test_without_it_every_changed_answer_is_generated(make: Callable[..., World]) -> None:
    world = make(refreshed=0)
    for flight in ("AA", "AA", "BB"):
        await world.ask(flight)
    world.publish(AA=50.0, BB=60.0)
    await world.round()
    assert [await world.ask(flight) for flight in ("AA", "BB")] == ["generated", "generated"]


async def test_what_prints_alike_is_confirmed_without_an_engine(make: Callable[..., World]) -> None:
    world = make()
    await world.ask("AA")
    world.publish(BB=60.0)
    asked = len(world.engine.asked)
    await world.round()
    assert (len(world.engine.asked), world.refreshed.counts.confirmed) == (asked, 1)
    await world.round()
    assert world.refreshed.counts.confirmed == 1, "a publication has one round"


@pytest.mark.parametrize("stopped", [False, True], ids=["busy", "stopped"])
async def test_it_gives_way_to_other_batch_work_and_has_no_engine_started(
    make: Callable[..., World], *, stopped: bool
) -> None:
    world = make()
    await world.ask("AA")
    world.publish(AA=50.0)
    world.load = EngineLoad(running_batch=0 if stopped else 1)
    world.stopped = StoppedEngine(datetime(2026, 1, 1, tzinfo=UTC), 2.0) if stopped else None
    stop = asyncio.Event()
    running = asyncio.create_task(world.refreshed.run_until(stop))
    await asyncio.sleep(0.2)
    assert world.refreshed.counts.made == 0
    world.load, world.stopped = EngineLoad(), None
    async with asyncio.timeout(10):
        while not world.refreshed.counts.made:
            await asyncio.sleep(0.01)
    stop.set()
    await running
    assert world.engine.asked[-1].spare


async def test_an_engine_that_is_away_leaves_the_round_waiting(make: Callable[..., World]) -> None:
    world = make()
    await world.ask("AA")
    world.publish(AA=50.0)
    world.engine.away = True
    (name,) = world.refreshed.look()
    with pytest.raises(UnavailableError):
        await world.refreshed.step(name)
    world.engine.away = False
    assert await world.refreshed.step(name)
    assert world.refreshed.counts.made == 1


async def test_a_worker_that_starts_knows_the_demand_of_before(make: Callable[..., World]) -> None:
    world = make(refreshed=1)
    for flight in ("AA", "BB", "BB"):
        await world.ask(flight)
    world.refreshed = world.refresher()
    world.publish(AA=50.0, BB=60.0)
    await world.round()
    assert [await world.ask(flight) for flight in ("AA", "BB")] == ["generated", "stored"]


async def test_a_new_publication_ends_the_round_before(make: Callable[..., World]) -> None:
    world = make(refreshed=2)
    for flight in ("AA", "AA", "BB"):
        await world.ask(flight)
    world.publish(AA=50.0, BB=60.0)
    (name,) = world.refreshed.look()
    await world.refreshed.step(name)
    for _ in range(3):
        await world.ask("CC")
    world.publish(CC=70.0)
    await world.round()
    assert await world.ask("CC") == "stored"
