"""Bad input over HTTP and in the terminal, in a project as a user has it: told clearly and with what to do next,
nothing half published, and the version before served.

Which bad input is tested where else stands in docs/features.md, *Bad input*.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from benchmarks.features import fault_injectors
from benchmarks.features.fault_injectors import FAULTS, Fault, healthy_day
from tests.integration.services.watched_project import Project, told

from antiphon.catalog.features.events import Event
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.features.offline.refresh import WORKFLOW

DEFINITIONS = """
from antiphon import Entity, Quality, Source, col, count, expect, feature_view, last, mean

payments = Source.table("payments", path="payments/*.parquet", event_time="paid_at", available_at="known_at")
known = Source.table("shops", path="shops.csv", event_time="since")
visits = Source.stream("visits", event_time="at", event_id="id")
shop = Entity("shop", keys=["shop"])


@feature_view(entity=shop, source=payments, quality=Quality(
    expect.typed(payment_id="text", shop="text", paid_at="time", known_at="time", amount="number", fee="number",
                 currency="text", method="text", city="text", items="number", closed=True),
    expect.not_null(col.payment_id, col.amount),
    expect.unique("payment_id"),
    expect.exists_in("shop", known, action="quarantine"),
    expect.volume(1.0, 3.0, of="rows"),
    expect.volume(0.5, 2.0, of="new_rows"),
    expect.not_future(),
    expect.steady("amount", "fee", over="source"),
))
class Takings:
    payments_7d = count(window="7d")
    amount_7d = mean(col.amount, window="7d", scale="0.01")
    fee = last(col.fee)


@feature_view(entity=Entity("stall", keys=["shop", "street"]), source=visits)
class Crowd:
    visits = count(window=None)
    weight = mean(col.weight, window=None, scale="0.01")
"""
ROWS, DAYS = 400, 3
LOOKUP = "/v1/features/lookup"
WANTED = (
    "wrong types", "missing column", "future timestamps", "clock skew of six hours", "tenfold volume",
    "all-null column", "duplicate keys", "truncated file", "source vanishing half-way",
    "keys with separators and unicode",
)  # fmt: skip
BY_NAME = {fault.name: fault for fault in FAULTS}
TOLD = {"tenfold volume": (("times",),)}


class Till(Project):
    """A source of daily files, published twice; a day more is about to come, which ends now."""

    def __init__(self, folder: Path) -> None:
        (folder / "payments").mkdir()
        fault_injectors.shops(folder)
        for day in range(DAYS):
            healthy_day(folder / "payments", day, 5, ROWS)
        super().__init__(folder, DEFINITIONS)

    def visit(self, identity: str, shop: str) -> None:
        at, visit = datetime.now(UTC), {"shop": shop, "street": "high", "weight": 1}
        self.store.events.append(self.store.scope, "visits", [Event(identity, at, at, visit)])

    async def worked(self, run: str) -> None:
        """Let a worker end a run."""
        registry, stop = WorkflowRegistry(), asyncio.Event()
        registry.add(WORKFLOW, self.platform.refresher.refresh)
        executor = Executor(
            self.store.database, registry, "test", self.store.scope, poll=0.01, backoff=timedelta(milliseconds=1)
        )
        working = asyncio.create_task(executor.run_until(stop))
        async with asyncio.timeout(60):
            while self.store.runs.get(self.store.scope, run).status not in ENDED:
                await asyncio.sleep(0.01)
        stop.set()
        await working

    async def ordered(self, http: httpx2.AsyncClient, as_of: datetime | None = None) -> dict[str, Any]:
        """A refresh that is ordered over HTTP, as HTTP tells it when it has ended."""
        body = {"views": ["takings"]} | ({} if as_of is None else {"as_of": as_of.isoformat(), "publish": True})
        run = told(await http.post("/admin/features/refresh", json=body), 202)["id"]
        await self.worked(run)
        shown: dict[str, Any] = told(await http.get(f"/admin/runs/{run}"))
        return shown

    async def served(self, http: httpx2.AsyncClient) -> dict[str, Any]:
        """What is looked up: publication, snapshots, values."""
        entities = [{"shop": "shop-001"}, {"shop": "shop-002"}]
        moment = (fault_injectors.FIRST + timedelta(days=DAYS)).isoformat()
        found = told(await http.post(LOOKUP, json={"features": ["takings"], "entities": entities, "as_of": moment}))
        return {name: found[name] for name in ("publication", "snapshots", "entities")}

    def snapshots(self) -> set[str]:
        return {one.id for one in self.store.snapshots.list(self.store.scope)}

    def files(self) -> set[Path]:
        """Files of the lake and of the online store, but for the streams' own."""
        return {
            file
            for folder in ("lake", "online")
            for file in (self.folder / ".antiphon" / folder).rglob("*")
            if file.is_file() and not file.name.startswith("overlay")
        }

    async def said(self, *arguments: str) -> str:
        """What the terminal says; nothing goes wrong there."""
        ran = await asyncio.to_thread(self.terminal, *arguments)
        assert ran.code == 0, ran.err
        return ran.out


@pytest.fixture(scope="module")
def till(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    with pytest.MonkeyPatch.context() as today:
        # The injectors' days end now, by the machine's clock: one that is six hours off is in the future.
        today.setattr(fault_injectors, "FIRST", datetime.now(UTC) - timedelta(days=DAYS + 1, minutes=1))
        made = Till(tmp_path_factory.mktemp("till"))

        async def publish() -> None:
            async with made.http() as http:
                newest = max((made.folder / "payments").iterdir())
                newest.rename(made.folder / "waits")
                for day in (DAYS - 1, DAYS):
                    ended = await made.ordered(http, fault_injectors.FIRST + timedelta(days=day, minutes=1))
                    assert ended["status"] == "succeeded", ended
                    if day < DAYS:
                        (made.folder / "waits").rename(newest)
            await made.refresh("crowd")

        asyncio.run(publish())
        yield made
        made.close()


@pytest.mark.parametrize("fault", [BY_NAME[name] for name in WANTED], ids=WANTED)
async def test_a_spoilt_source_is_told_and_the_version_before_is_served(till: Till, fault: Fault) -> None:
    async with till.http("admin") as http:
        before, known, files = await till.served(http), till.snapshots(), till.files()
        newest = healthy_day(till.folder / "payments", DAYS, 5, ROWS)
        happened = fault.inject(newest)
        try:
            run = await till.ordered(http)
        finally:
            newest.unlink(missing_ok=True)
        assert not callable(happened) or happened()
        views = told(await http.get("/admin/features"))["views"]
        glance = next(one for one in views if one["view"] == "takings")
        if fault.name.startswith("source vanishing"):
            # The worker tried again what had changed under it, and found the source without that file.
            assert (run["status"], run["attempts"], glance["state"]) == ("succeeded", 2, "fresh")
            assert (await till.served(http))["entities"] == before["entities"]
            return
        if fault.name.startswith("keys with"):
            # Those rows alone are kept aside; the others are published.
            assert (run["status"], glance["state"], glance["quarantined"]) == ("succeeded", "fresh", 5)
            assert "5 source rows are kept aside" in await till.said("features", "list")
            kept = json.loads(await till.said("features", "quarantine", "takings", "--json"))
            assert {row["columns"]["shop"] for row in kept["rows"]} == {"shop|001"}
            return
        reasons = " ".join(glance["blocked"])
        assert glance["state"] == "blocked"
        assert all(any(word in reasons for word in words) for words in TOLD.get(fault.name, fault.words)), reasons
        if run["status"] == "failed":
            assert run["error"].rstrip().endswith((".", "'")), "no next step"
            assert reasons[:40] in run["error"]
        else:
            assert (run["status"], run["note"]) == ("succeeded", "nothing published: every view is blocked")
        assert str(till.folder) not in json.dumps([run, views]), "where files lie is not told over HTTP"
        assert await till.served(http) == before
        assert (till.snapshots(), till.files()) == (known, files) or fault.readable
        assert till.snapshots() == known
        status = await till.said("features", "list")
        assert f"takings: its last version is blocked, the one before stays: {glance['blocked'][0]}" in status
        assert "`antiphon features describe takings` shows its rules; correct the source and refresh." in status
        history = json.loads(await till.said("features", "history", "takings", "--json"))
        assert (history[0]["outcome"], history[0]["current"]) == ("blocked", False)


async def test_a_truncated_file_is_named_without_its_folder(till: Till) -> None:
    async with till.http("admin") as http:
        newest = healthy_day(till.folder / "payments", DAYS, 5, ROWS)
        BY_NAME["truncated file"].inject(newest)
        try:
            run = await till.ordered(http)
        finally:
            newest.unlink()
        assert newest.name in run["error"]
        assert "Compare the file with the definition." in run["error"]
        assert str(newest.parent) not in run["error"]


async def test_two_writers_at_once_both_end_and_nothing_is_torn(till: Till) -> None:
    """One order over HTTP, one in the terminal, two workers."""
    async with till.http("admin") as http:
        before = (await till.served(http))["publication"]
        newest = healthy_day(till.folder / "payments", DAYS, 6, ROWS)
        try:
            first = told(await http.post("/admin/features/refresh", json={"views": ["takings"]}), 202)["id"]
            second = (await till.said("features", "refresh", "takings")).split()[0]
            await asyncio.gather(till.worked(first), till.worked(second))
        finally:
            newest.unlink()
        ended = [told(await http.get(f"/admin/runs/{run}"))["status"] for run in (first, second)]
        assert ended == ["succeeded", "succeeded"]
        published = told(await http.get("/admin/publications"))["publications"]
        numbers = [one["number"] for one in published]
        assert numbers == list(range(numbers[0], 0, -1))
        assert numbers[0] <= before + 2
        assert (await till.served(http))["publication"] == numbers[0]


async def test_what_is_not_there_is_named_everywhere(till: Till) -> None:
    async with till.http("admin") as http:

        async def refused(code: int, path: str, body: dict[str, Any]) -> str:
            message: str = told(await http.post(path, json=body), code)["error"]["message"]
            return message

        nothing = {"entities": [{"shop": "shop-001"}]}
        assert "'takings'" in await refused(404, LOOKUP, {"features": ["takngs"], **nothing})
        assert "takings.fees" in await refused(404, LOOKUP, {"features": ["takings.fees"], **nothing})
        assert "'shop'" in await refused(400, LOOKUP, {"features": ["takings"], "entities": [{"shp": "a"}]})
        assert "nope" in await refused(404, "/admin/features/refresh", {"views": ["nope"]})
        unknown = told(await http.post(LOOKUP, json={"features": ["takings"], "entities": [{"shop": "никто|\x1f"}]}))
        assert unknown["entities"][0]["known"] is False
        assert dict(zip(unknown["features"], unknown["entities"][0]["values"], strict=True)) == {
            "takings.payments_7d": 0, "takings.amount_7d": None, "takings.fee": None
        }  # fmt: skip
        before = await till.served(http)
        for wrong, code in ((("get", "takngs", "-e", "shop=a"), 3), (("get", "takings", "-e", "shp=a"), 2),
                            (("get", "takings", "-e", "shop"), 2), (("refresh", "nope"), 3),
                            (("describe", "nope"), 3), (("rollback", "nope", "--reason", "r"), 3)):  # fmt: skip
            ran = await asyncio.to_thread(till.terminal, "features", *wrong)
            assert ran.code == code, (wrong, ran)
        assert await till.served(http) == before


TEN = "2026-01-01T10:00:00Z"
SENT = {"event_id": "e", "event_time": TEN, "available_at": TEN, "payload": {"shop": "tea", "street": "high"}}
WRONG_EVENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({**SENT, "event_id": None}, "event_id"),
    "no time": ({"event_id": "e", "available_at": TEN, "payload": {}}, "event_time"),
    "time without zone": ({**SENT, "event_time": "2026-01-01T10:00:00"}, "no time zone"),
    "time that is none": ({**SENT, "event_time": "yesterday"}, "event_time"),
    "year beyond all": ({**SENT, "event_time": "99999-01-01T10:00:00Z"}, "event_time"),
    "payload that is none": ({**SENT, "payload": [1]}, "payload"),
}


@pytest.mark.parametrize("what", list(WRONG_EVENTS))
async def test_an_event_that_does_not_fit_leaves_its_whole_batch_out(till: Till, what: str) -> None:
    event, word = WRONG_EVENTS[what]
    end = till.store.events.end(till.store.scope, "visits")
    async with till.http("admin") as http:
        sent = await http.post("/admin/events/visits", json={"events": [{**SENT, "event_id": what}, event]})
    error = told(sent, 400)["error"]
    assert word in f"{error['param']} {error['message']}", error
    assert error["next_step"]
    assert till.store.events.end(till.store.scope, "visits") == end, "half of it was taken"


NASTY = "ab|:/\\,\x1f\x00\n'\"; -\u202eé\u0301🛫"


async def test_keys_of_any_text_stay_apart(till: Till) -> None:
    """Two columns of a key never run into each other, over HTTP from the event to the value and in the terminal."""
    drawn = random.Random(20130410)

    def text() -> str:
        return "".join(
            drawn.choice(NASTY) if drawn.random() < 0.8 else chr(drawn.randrange(0xE000, 0x11_0000))
            for _ in range(drawn.randrange(1, 9))
        )

    pairs = [(text(), text()) for _ in range(60)]
    pairs += [(shop[:-1], shop[-1] + street) for shop, street in pairs if len(shop) > 1]
    pairs += [(street, shop) for shop, street in pairs[:20]]
    counts = Counter(pairs)
    known = list(counts)
    at = datetime.now(UTC).isoformat()
    events = [
        {
            "event_id": f"k{place}-{turn}", "event_time": at, "available_at": at,
            "payload": {"shop": pair[0], "street": pair[1], "weight": place},
        }
        for place, pair in enumerate(known)
        for turn in range(counts[pair] + place % 3)
    ]  # fmt: skip
    async with till.http("admin") as http:
        told(await http.post("/admin/events/visits", json={"events": events}))
        till.consume()
        entities = [{"shop": shop, "street": street} for shop, street in known]
        moment = datetime.now(UTC).isoformat()
        found = told(await http.post(LOOKUP, json={"features": ["crowd"], "entities": entities, "as_of": moment}))
    expected = [[counts[pair] + place % 3, float(place)] for place, pair in enumerate(known)]
    assert [one["values"] for one in found["entities"]] == expected
    shop, street = max(pair for pair in known if not {"\x00", "\n"} & set("".join(pair)))
    shown = json.loads(
        await till.said("features", "get", "crowd", "-e", f"shop={shop}", "-e", f"street={street}", "--json")
    )
    assert shown["entities"][0]["values"] == expected[known.index((shop, street))]
