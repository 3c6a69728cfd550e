"""A real Feast feature server served through answer(): contracts, receipts, and what happens when it is away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tests.feast_environment import feast_python
from tests.feast_world import FeastWorld

from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.core.clock import SystemClock
from antiphon.core.errors import FeatureUnavailableError, InvalidInputError, UnavailableError
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.governance.identity.principal import Principal
from antiphon.releases.live import LiveReleases
from antiphon.services.answering import serving_services
from antiphon.services.apply import apply as applying
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.view_status import read_view_statuses
from antiphon.services.predictions import ProjectPredictions
from antiphon.services.project.store import Store
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import Answer, AnswerRequest
from antiphon.testing.scripted_engine import ScriptedEngine, echo

SETTINGS = """[project]
name = "rides"
environment = "dev"
[encryption]
mode = "plaintext"
[engine]
kind = "simulated"
models = ["scripted"]
[feast]
url = "{url}"
project = "rides"
timeout = "2s"
failures = 2
retry = "300ms"
"""

DEFINITIONS = """
from antiphon import Application, Entity, Figure, Freshness, Prompt, Reuse, Source, col, feature_view, last

driver = Entity("driver", keys=["driver_id"])
pair = Entity("pair", keys=["driver_id", "rider_id"])

@feature_view(entity=driver, source=Source.feast("stats", view="driver_stats"))
class Stats:
    rate = last(col.rate)
    trips = last(col.trips)
    tier = last(col.tier)
    active = last(col.active)

@feature_view(entity=pair, source=Source.feast("trust"))
class Trust:
    score = last(col.score)

@feature_view(entity=driver, source=Source.table("own", path="own.parquet", event_time="at"))
class Own:
    weight = last(col.weight)

def desk(name, views, when_stale):
    return Application(
        name, ungated="a test asks at once", features=views, model="scripted", purpose="pricing", reuse=Reuse("never"),
        prompt=Prompt("Rate {{ features.stats.rate }}."), figures=[Figure("stats.rate", step=0)],
        freshness={Stats: Freshness(max_age="6h", when_stale=when_stale)},
    )

flagging, defaulting, rejecting = (desk(name, [Stats, Trust, Own], name) for name in ("flag", "default", "reject"))
feast_only = desk("feast-only", [Stats, Trust], "flag")
"""

ASKING_FOR_QUALITY = """
asking = Application(
    "asking", ungated="a test asks at once",
    features=[Stats], model="scripted", purpose="pricing", prompt=Prompt("Hello."),
    freshness={Stats: Freshness(max_age="6h", min_source_quality=0.9)},
)
"""

KNOWN = {"driver_id": "1001", "rider_id": "b|c"}
STALE = {"driver_id": "1005", "rider_id": "a"}


@pytest.fixture(scope="module")
def feast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeastWorld]:
    world = FeastWorld(feast_python(), tmp_path_factory.mktemp("feast") / "rides")
    world.serve()
    yield world
    world.stop()


@pytest.fixture(scope="module")
def served(feast: FeastWorld) -> dict[str, list[Any]]:
    """What Feast itself serves of both entities, asked in one process."""
    names = ["driver_stats:rate", "driver_stats:trips", "driver_stats:tier", "driver_stats:active", "trust:score"]
    return feast.online(
        names, [{"driver_id": int(row["driver_id"]), "rider_id": row["rider_id"]} for row in (KNOWN, STALE)]
    )


class Desk:
    """A project over that server, its definitions applied and its own view published."""

    def __init__(self, root: Path, url: str) -> None:
        (root / "antiphon.toml").write_text(SETTINGS.format(url=url))
        (root / "definitions.py").write_text(DEFINITIONS)
        now = datetime.now(UTC)
        own = {"driver_id": [1001, 1005], "at": [now - timedelta(minutes=1)] * 2, "weight": [7.0, 8.0]}
        pyarrow.parquet.write_table(pyarrow.table(own), root / "own.parquet")
        self.store = Store.open(root)
        applying.apply(self.store, principal="test")
        self.features = FeaturePlatform(self.store)
        own_view = next(view for view in self.features.views().values() if view.name == "own")
        made = materialize(
            Materialization(self.store.scope, own_view, now),
            lake=self.features.lake, log=self.store.events, clock=SystemClock(),
        )  # fmt: skip
        self.features.publisher.publish([(made, own_view)], reason="test", principal="test")
        self.engine = ScriptedEngine(echo)
        self.commit = GroupCommit(self.store.database)
        releases = LiveReleases(self.store.releases, self.store.database.clock, rollouts=Rollouts(self.store.database))
        self.answerer = Answerer(serving_services(self.store, self.engine, self.commit, releases, self.features))

    async def ask(self, application: str, entity: dict[str, str], **fields: Any) -> Answer:
        asker = Principal("someone", self.store.scope.tenant, "service")
        return await self.answerer.answer(AnswerRequest(self.store.scope, asker, application, entity, **fields))

    def told(self, answer: Answer) -> dict[str, Any]:
        found = ProjectPredictions(self.store).explain(self.store.scope, answer.receipt.prediction)
        return {**found, "features": {feature["name"]: feature for feature in found["features"]}}

    async def close(self) -> None:
        await self.answerer.close()
        await asyncio.to_thread(self.commit.close)
        self.features.close()
        self.store.close()


@pytest.fixture
async def desk(feast: FeastWorld, tmp_path: Path) -> AsyncIterator[Desk]:
    opened = Desk(tmp_path, feast.url)
    yield opened
    await opened.close()


async def test_feasts_values_are_served_with_receipts_that_name_them(
    desk: Desk, feast: FeastWorld, served: dict[str, list[Any]]
) -> None:
    answer = await desk.ask("flag", KNOWN)
    told = desk.told(answer)
    mine = {name.partition(".")[2]: feature["value"] for name, feature in told["features"].items()}
    assert mine == {**{name: served[name][0] for name in mine if name != "weight"}, "weight": 7.0}
    assert len(mine) == 6
    assert told["publication"] == 1
    rate = told["features"]["stats.rate"]
    assert rate["snapshot"] == {"id": "feast:rides/driver_stats"}
    assert told["features"]["own.weight"]["snapshot"]["id"].startswith("snap_")
    # The newest row of driver 1001 is a minute before the data's end.
    assert datetime.fromisoformat(rate["event_time"]) == feast.until - timedelta(minutes=1)
    assert rate["contract"] == "fresh"
    assert 300 < rate["age_seconds"] < 3600


async def test_a_ttl_that_feast_ignores_online_holds_here(desk: Desk, served: dict[str, list[Any]]) -> None:
    assert served["rate"][1] is not None, "two days old, ttl 6 h"
    flagged = desk.told(await desk.ask("flag", STALE))["features"]["stats.rate"]
    assert (flagged["contract"], flagged["value"] is None) == ("flagged", False)
    defaulted = desk.told(await desk.ask("default", STALE))["features"]["stats.rate"]
    assert (defaulted["contract"], defaulted["value"]) == ("defaulted", None)
    with pytest.raises(FeatureUnavailableError, match="its contract allows 6h"):
        await desk.ask("reject", STALE)


async def test_what_feast_cannot_know_is_not_made_up(desk: Desk) -> None:
    with pytest.raises(FeatureUnavailableError, match="no features of the entity"):
        await desk.ask("feast-only", {"driver_id": "77", "rider_id": "a"})
    with pytest.raises(InvalidInputError, match="not of the type"):
        await desk.ask("feast-only", {"driver_id": "x", "rider_id": "a"})
    with pytest.raises(FeatureUnavailableError, match="latest value alone"):
        await desk.ask("feast-only", KNOWN, as_of=datetime.now(UTC) - timedelta(days=3))
    answer = await desk.ask("feast-only", KNOWN)
    assert desk.told(answer)["publication"] is None


async def test_a_server_that_is_away_is_told_and_found_again(desk: Desk, feast: FeastWorld) -> None:
    loop = asyncio.get_running_loop()
    feast.signal(signal.SIGSTOP)
    try:
        started = loop.time()
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.05)
                ticks += 1

        ticking = asyncio.create_task(tick())
        for _ in range(2):
            with pytest.raises(UnavailableError, match="within 2 s"):
                await desk.ask("feast-only", KNOWN)
        ticking.cancel()
        assert loop.time() - started < 10
        assert ticks > 20, "others' requests go on while one waits for Feast"
        with pytest.raises(UnavailableError, match="2 times in a row"):
            await desk.ask("feast-only", KNOWN)
    finally:
        feast.signal(signal.SIGCONT)

    async def found_again() -> Answer:
        while True:
            try:
                return await desk.ask("feast-only", KNOWN)
            except UnavailableError:
                await asyncio.sleep(0.05)

    assert await asyncio.wait_for(found_again(), 30)
    await asyncio.to_thread(feast.stop)
    with pytest.raises(UnavailableError, match="not reached"):
        await desk.ask("feast-only", KNOWN)
    await asyncio.to_thread(feast.serve)
    assert await asyncio.wait_for(found_again(), 30)


def test_views_of_feast_are_neither_refreshed_nor_read_in_batch(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "http://127.0.0.1:9")
    try:
        with pytest.raises(InvalidInputError, match="Feast refreshes stats"):
            desk.features.refresh(desk.store.scope, views=["stats"])
        run = desk.store.runs.get(desk.store.scope, desk.features.refresh(desk.store.scope))
        assert [view.partition("@")[0] for view in run.arguments["views"]] == ["own"]
        view = next(view for view in desk.features.views().values() if view.name == "stats")
        with pytest.raises(InvalidInputError, match="has no history"):
            materialize(
                Materialization(desk.store.scope, view, datetime.now(UTC)),
                lake=desk.features.lake, log=None, clock=SystemClock(),
            )  # fmt: skip
        views = read_view_statuses(desk.store, desk.features, desk.store.scope, streams=False)
        listed = {line.view: line.snapshot for line in views}
        assert listed["stats"] == "feast:rides/driver_stats"
        (tmp_path / "definitions.py").write_text(DEFINITIONS + ASKING_FOR_QUALITY)
        with pytest.raises(InvalidInputError, match="which Feast does not keep"):
            applying.plan(desk.store)
        (tmp_path / "antiphon.toml").write_text('[project]\nname = "rides"\nenvironment = "dev"\n')
        store = Store.open(tmp_path)
        with pytest.raises(InvalidInputError, match="no server is named"):
            applying.plan(store)
        store.close()
    finally:
        asyncio.run(desk.close())
