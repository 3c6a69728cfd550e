"""Looking features up over HTTP, in the terminal and in Python, in a project as a user has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.services.watched_project import DEFINITIONS, Project, told

from antiphon.app.wiring import ProcessServices
from antiphon.core.errors import ForbiddenError, NotFoundError, TooLargeError
from antiphon.governance.identity.principal import Principal
from antiphon.services.apply.apply import apply
from antiphon.serving.features.lookup import MOST_ENTITIES
from antiphon.serving.features.lookup_values import LookupRequest

MORE = """
from antiphon import Application, Freshness, Prompt

tills = Source.table("tills", path="orders.csv", event_time="ordered", event_id="id")


@feature_view(entity=shop, source=tills, sensitivity={"secret": "restricted"})
class Till:
    secret = last(col.paid)
    open = count(window=None)


till_desk = Application(
    "till-desk", ungated="a test asks at once",
    purpose="tell", owner="me", entities=[shop], features=[Today, Till], model="smollm2-135m",
    prompt=Prompt(template="How many at {{ entity.shop }}?"),
    freshness={Today: Freshness("1h", when_stale="reject"), Till: Freshness("1h", when_stale="flag")},
)
"""
PATH = "/v1/features/lookup"
START = (datetime.now(UTC) - timedelta(hours=4)).replace(second=0, microsecond=0)
AT = (START + timedelta(minutes=45)).isoformat()
TEA, CAKE, NOBODY = {"shop": "tea"}, {"shop": "cake"}, {"shop": "nobody"}


class Shop(Project):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "definitions.py").write_text(DEFINITIONS + MORE)
        at = [(START + timedelta(minutes=n)).isoformat() for n in range(40)]
        self.write(*[f"{n},{'tea' if n % 2 else 'cake'},{at[n]},{n}.5" for n in range(40)])
        apply(self.store, principal="me")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("shop"))
    asyncio.run(made.refresh())
    made.consume()
    yield made
    made.close()


async def test_many_entities_of_many_views_come_from_one_publication(shop: Shop) -> None:
    body = {"features": ["today", "crowd.visits"], "entities": [TEA, CAKE, NOBODY, TEA], "as_of": AT}
    async with shop.http("service") as http:
        found = told(await http.post(PATH, json=body))
        assert found["features"] == ["today.orders", "today.paid", "today.takings", "crowd.visits"]
        tea, cake, nobody, again = found["entities"]
        assert tea["values"] == [20, 39.5, 20.5, 0]
        assert cake["values"] == [20, 38.5, 19.5, 0]
        assert (tea["known"], nobody["known"]) == (True, False)
        assert nobody["values"] == [0, None, None, 0]
        assert nobody["contracts"] == ["fresh", "absent", "absent", "fresh"]
        assert again == tea
        assert datetime.fromisoformat(tea["event_times"][0]) == START + timedelta(minutes=39)
        assert tea["ages"][0] == 360.0
        assert found["publication"] == 1
        assert set(found["snapshots"]) == {"today", "crowd"}
        # What was streamed is in it, and what was kept before does not hide it.
        now = told(await http.post(PATH, json={"features": ["crowd.visits"], "entities": [TEA]}))
        assert now["entities"][0]["values"] == [1]
        shop.visit("v1", "tea")
        shop.consume()
        now = told(await http.post(PATH, json={"features": ["crowd.visits"], "entities": [TEA]}))
        assert now["entities"][0]["values"] == [2]


async def test_what_cannot_be_looked_up_is_named(shop: Shop) -> None:
    async with shop.http("service") as http:

        async def refused(code: int, **body: Any) -> str:
            error: str = told(await http.post(PATH, json={"entities": [TEA], **body}), code)["error"]["message"]
            return error

        wrong = await refused(404, features=["todday", "today.paidd", "today.paid"])
        assert "todday, today.paidd" in wrong
        assert "Did you mean 'today'?" in wrong
        assert "No feature is named" in await refused(404)

        assert "'shop' is missing" in await refused(400, features=["today"], entities=[TEA, {"shp": "tea"}])
        many = [TEA] * (MOST_ENTITIES + 1)
        assert f"{MOST_ENTITIES + 1} entities" in await refused(413, features=["today"], entities=many)
        assert "not readable" in await refused(503, features=["today"], minimum_publication=99)
        assert "Unknown parameter" in await refused(400, feature=["today"])
        assert "time zone" in await refused(400, features=["today"], as_of="2026-01-01T10:45:00")
    async with shop.http("viewer") as http:
        told(await http.post(PATH, json={"features": ["today"], "entities": [TEA]}), 403)


async def test_an_application_brings_its_contracts_and_its_rules(shop: Shop) -> None:
    late = (START + timedelta(hours=2)).isoformat()
    async with shop.http("admin") as http:
        body = {"application": "till-desk", "entities": [TEA], "as_of": late}
        # It reads a restricted feature, which nobody at an API may see without clearance for it.
        told(await http.post(PATH, json=body), 403)
    who = Principal(id="cleared", tenant="default", role="service", clearance="restricted")
    wired = ProcessServices(shop.store.open(shop.folder), "test")
    try:
        plan = wired.lookups.plan(shop.store.scope, application="till-desk")
        moment = datetime.fromisoformat(late)
        found = await wired.lookups.look_up(LookupRequest(shop.store.scope, who, plan, [TEA], moment))
        line = dict(
            zip(found.features, zip(found.entities[0].values, found.entities[0].contracts, strict=True), strict=True)
        )
        assert line["today.orders"] == (None, "rejected")
        assert line["till.secret"] == (39.5, "flagged")
        # And within the contract.
        plan = wired.lookups.plan(shop.store.scope, ["today.orders"], "till-desk")
        request = LookupRequest(shop.store.scope, who, plan, [TEA, CAKE], datetime.fromisoformat(AT))
        fresh = await wired.lookups.look_up(request)
        assert [(one.values, one.contracts) for one in fresh.entities] == [((20,), ("fresh",))] * 2
        low = Principal(id="low", tenant="default", role="service")
        plan = wired.lookups.plan(shop.store.scope, ["till.secret"])
        with pytest.raises(ForbiddenError, match="clearance"):
            await wired.lookups.look_up(LookupRequest(shop.store.scope, low, plan, [TEA]))
        with pytest.raises(NotFoundError, match="nope"):
            wired.lookups.plan(shop.store.scope, application="nope")
        plan = wired.lookups.plan(shop.store.scope, ["today"])
        with pytest.raises(TooLargeError):
            await wired.lookups.look_up(LookupRequest(shop.store.scope, who, plan, [TEA] * (MOST_ENTITIES + 1)))
    finally:
        await wired.close()


def test_the_terminal_reads_one_entity_or_a_file_of_them(shop: Shop, tmp_path: Path) -> None:
    one = shop.terminal("features", "get", "today.paid", "-e", "shop=tea", "--as-of", AT)
    assert one.code == 0, one.err
    for part in ("today.paid", "39.5", "360 s", "fresh", "publication 1"):
        assert part in one.out, part
    file = tmp_path / "shops.csv"
    file.write_text("shop,note\n" + "tea,a\ncake,b\n" * (MOST_ENTITIES // 2 + 1))
    many = json.loads(shop.terminal("features", "get", "today", "--entities", str(file), "--as-of", AT, "--json").out)
    assert len(many["entities"]) == MOST_ENTITIES + 2
    assert {tuple(line["values"]) for line in many["entities"]} == {(20, 39.5, 20.5), (20, 38.5, 19.5)}
    lines = tmp_path / "shops.jsonl"
    lines.write_text('{"shop": "cake"}\n{"shop": "nobody"}\n')
    shown = shop.terminal("features", "get", "today.orders", "--entities", str(lines))
    assert "nobody" in shown.out
    assert shop.terminal("features", "get", "nope", "-e", "shop=tea").code == 3
    assert shop.terminal("features", "get", "today").code == 2
    assert shop.terminal("features", "get", "today", "--entities", str(tmp_path / "gone.csv")).code == 3
