"""Contracts that put another value in the place of a stale one, in answers and lookups of a real project."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.integration.services.watched_project import Project, told

from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.serving.receipt import FeatureReceipt, Receipt
from antiphon.governance.identity.principal import Principal
from antiphon.releases.live import LiveReleases
from antiphon.services.answering import serving_services
from antiphon.services.apply.apply import apply
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.predictions import ProjectPredictions
from antiphon.services.project.store import Store
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import AnswerRequest
from antiphon.testing.scripted_engine import ScriptedEngine, echo

DEFINITIONS = """
from antiphon import Application, Entity, Figure, Freshness, Prompt, Source, col, count, feature_view, last

shop = Entity("shop", keys=["shop"])
orders = Source.table("orders", path="orders.csv", event_time="ordered", event_id="id")


@feature_view(entity=shop, source=orders)
class Recent:
    orders = count(window="2h")
    paid = last(col.paid)


def desk(name, contract):
    return Application(
        name, ungated="a test asks at once",
        purpose="tell", owner="me", entities=[shop], features=[Recent], model="scripted",
        freshness={Recent: contract},
        prompt=Prompt(template="{{ features.recent.orders }} orders, {{ features.recent.paid }} paid: {{ question }}"),
        figures=[Figure("recent.orders"), Figure("recent.paid")],
    )


aged = desk("aged", Freshness("1h", when_stale="previous"))
good = desk("good", Freshness("9d", when_stale="previous", min_source_quality=0.9, otherwise="default"))
anew = desk("anew", Freshness("1h", when_stale="recompute", within="20s"))
strict = desk("strict", Freshness("1h", when_stale="recompute", otherwise="reject", within="20s"))
hasty = desk("hasty", Freshness("1h", when_stale="recompute", otherwise="default", within="1ms"))
"""
START = (datetime.now(UTC) - timedelta(hours=4)).replace(second=0, microsecond=0)
LATE = START + timedelta(hours=2, minutes=10)


def rows(first: int, end: int, paid: str = "") -> list[str]:
    """An order a minute, of tea and of cake in turn."""
    return [
        f"{n},{'tea' if n % 2 else 'cake'},{(START + timedelta(minutes=n)).isoformat()},{paid or f'{n}.5'}"
        for n in range(first, end)
    ]


class Shop(Project):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        settings = folder / "antiphon.toml"
        settings.write_text(settings.read_text().replace("[engine]", '[engine]\nmodels = ["scripted"]'))
        self.platform.close()
        self.store.close()
        self.store = Store.open(folder)
        self.platform = FeaturePlatform(self.store)
        (folder / "definitions.py").write_text(DEFINITIONS)
        apply(self.store, principal="me")
        self.engine = ScriptedEngine(echo)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[tuple[object, ProjectPredictions]]:
        store, commit = self.store, GroupCommit(self.store.database)
        answering = Answerer(
            serving_services(
                store, self.engine, commit, LiveReleases(store.releases, store.database.clock), self.platform
            )
        )
        try:
            yield answering, ProjectPredictions(store)
        finally:
            await answering.close()
            await asyncio.to_thread(commit.close)

    async def answered(self, application: str, as_of: datetime) -> Receipt:
        """The receipt of an answer, once it was replayed to the same bytes."""
        who = Principal(id="asker", tenant="default", role="service")
        async with self.asking() as (answering, explaining):
            request = AnswerRequest(self.store.scope, who, application, {"shop": "tea"}, question="Late?", as_of=as_of)
            answer = await answering.answer(request)  # type: ignore[attr-defined]
            replayed = await explaining.replay(self.engine, self.store.scope, answer.prediction)
            assert replayed["identical"] is True, replayed
            assert explaining.explain(self.store.scope, answer.prediction)
        receipt: Receipt = self.store.receipts.get(self.store.scope, answer.prediction)
        return receipt


def by_name(receipt: Receipt) -> dict[str, FeatureReceipt]:
    return {feature.name.partition(".")[2]: feature for feature in receipt.features}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    made.write(*rows(0, 40))
    asyncio.run(made.refresh())
    yield made
    made.close()


def current(shop: Shop) -> str:
    publication = shop.store.publications.current(shop.store.scope)
    assert publication is not None
    return next(snapshot for key, snapshot in publication.snapshots.items() if key.startswith("recent@"))


def test_a_stale_value_is_served_as_it_was_when_it_was_last_fresh(shop: Shop) -> None:
    fresh = by_name(asyncio.run(shop.answered("aged", START + timedelta(minutes=60))))
    assert {one.contract for one in fresh.values()} == {"fresh"}
    # Ten minutes are out of the two hours by now, and the latest order is 91 minutes old.
    found = by_name(asyncio.run(shop.answered("aged", LATE)))["orders"]
    assert (found.contract, found.value, found.snapshot) == ("previous", 20, current(shop))
    assert found.event_time == START + timedelta(minutes=39)
    assert found.age_seconds == 91 * 60


def test_a_snapshot_of_a_poor_source_is_passed_over_for_the_one_before(shop: Shop) -> None:
    before = current(shop)
    shop.write(*rows(0, 40), *rows(0, 40), *rows(50, 60))
    asyncio.run(shop.refresh())
    assert current(shop) != before
    found = by_name(asyncio.run(shop.answered("good", LATE)))["orders"]
    assert (found.contract, found.snapshot, found.event_time) == ("previous", before, START + timedelta(minutes=39))
    assert found.source_quality is not None
    assert found.source_quality >= 0.9


def test_a_stale_value_is_computed_again_and_else_the_contract_falls_back(shop: Shop) -> None:
    # Nothing new in the source: what is computed is as stale as what is there.
    flagged = by_name(asyncio.run(shop.answered("anew", LATE)))["orders"]
    assert (flagged.contract, flagged.value) == ("flagged", 15)
    shop.write(*rows(0, 100))
    found = by_name(asyncio.run(shop.answered("anew", LATE)))
    assert (found["orders"].contract, found["orders"].value, found["orders"].snapshot) == ("recomputed", 45, None)
    assert found["paid"].value == 99.5
    assert found["orders"].event_time == START + timedelta(minutes=99)
    # No time to compute it.
    hasty = by_name(asyncio.run(shop.answered("hasty", LATE)))["orders"]
    assert (hasty.contract, hasty.value) == ("defaulted", None)


async def test_lookups_stand_in_for_all_stale_entities_of_a_request(shop: Shop) -> None:
    shop.write(*rows(0, 40), *[row.replace(",tea,", ",rum,") for row in rows(41, 101, paid="1.5")])
    body = {"entities": [{"shop": "cake"}, {"shop": "tea"}, {"shop": "none"}], "as_of": LATE.isoformat()}
    async with shop.http("service") as http:
        cake, tea, none = told(await http.post("/v1/features/lookup", json={**body, "application": "strict"}))[
            "entities"
        ]
        assert (cake["values"], cake["contracts"]) == ([44, 1.5], ["recomputed", "recomputed"])
        assert cake["instead"] == {"recent.orders": None, "recent.paid": None}
        assert (tea["values"], tea["contracts"]) == ([None, None], ["rejected", "rejected"])
        assert none["known"] is False
        cake, tea, none = told(await http.post("/v1/features/lookup", json={**body, "application": "aged"}))["entities"]
        assert (tea["values"], tea["contracts"]) == ([20, 39.5], ["previous", "previous"])
        assert tea["instead"]["recent.orders"] == current(shop)
