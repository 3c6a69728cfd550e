"""The pages and operations about views, over a real history of versions: passed, kept aside, blocked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path

import httpx2
import msgspec
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import gateway_client
from tests.integration.features.desk import flight, history
from tests.integration.features.monitoring.test_quality import Airport
from tests.integration.features.world import NOON

from antiphon.catalog.features.verdicts import Verdict
from antiphon.definitions import expect
from antiphon.features.offline.history import ViewHistory
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.keys import Keys
from antiphon.services.features.view_status import ViewStatus

NAME = '<b>"dest" & more</b>'
"""Whatever a user calls a rule is text."""


class Watched:
    """An airport with four versions: two good ones, one that kept a row aside, and one that is blocked."""

    def __init__(self, folder: Path) -> None:
        self.airport = Airport(folder)
        world = self.world = self.airport.world
        self.database = world.database
        self.verdicts: list[Verdict] = []
        self.history = ViewHistory(world.catalog)

    async def make(self) -> None:
        self.verdicts.append(await self.airport.refresh())
        late = NOON + timedelta(seconds=90)
        new = [{**flight(9_000 + n, late, 0.0), "dep_delay": 60.0 + n % 9} for n in range(200)]
        slower = [*({**row, "dep_delay": (row["dep_delay"] or 0) + 30} for row in history()), *new]
        self.verdicts.append(await self.airport.refresh(slower))
        self.airport.declare(expect.one_of("dest", ["SFO"], action="quarantine", name=NAME), expect.recent("2h"))
        strange = [*slower[:-1], {**slower[-1], "dest": "<script>alert(1)</script>"}]
        self.verdicts.append(await self.airport.refresh(strange))
        self.airport.now += timedelta(hours=3)
        self.verdicts.append(await self.airport.refresh())

    def services(self) -> GatewayServices:
        spec, last = self.world.specs["delays"], self.verdicts[-1]
        fresh = ViewStatus(
            "delays", spec.definition_version, self.verdicts[2].snapshot, last.created_at, last.created_at, 10_900.0, 2,
            3_600.0, 0.98, last.outcome, tuple(finding.reason for finding in last.findings),
        )  # fmt: skip
        return fakes.gateway_services(self.database, history=self.history, freshness=lambda scope: (fresh,))


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    watched = Watched(tmp_path)
    await watched.make()
    yield watched
    watched.world.close()


def client(
    watched: Watched, role: str = "engineer", page: bool = True
) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
    key, _ = Keys(watched.database, fakes.SECRET).create("default", f"the-{role}", role)
    return gateway_client(watched.services(), key, page=page)


async def test_the_pages_tell_what_the_gates_said(watched: Watched) -> None:
    first, second, third, last = watched.verdicts
    assert [verdict.outcome for verdict in watched.verdicts] == ["passed", "passed", "warned", "blocked"]
    async with client(watched, "viewer") as browser:
        listed = (await browser.get("/features")).text
        assert "h old; at most 2 h is allowed." in listed
        assert '<span class="chip blocked">blocked</span>' in listed
        assert 'class="right bad"' in listed, "its age is over its contract"
        page = await browser.get("/features/delays")
        assert page.status_code == 200
        assert "The last version is blocked" in page.text
        assert f"Version <code>{(third.snapshot or '')[-10:]}</code> stays published" in page.text
        assert "&lt;b&gt;&#34;dest&#34; &amp; more&lt;/b&gt;" in page.text
        assert NAME not in page.text
        assert "<script>alert" not in page.text
        assert page.text.count('class="drawn"') == 3, "two features, and the source's quality over time"
        compared = await browser.get(f"/features/delays/diff?before={first.id}&after={second.snapshot}")
        assert compared.status_code == 200
        assert "The definition is the same." in compared.text
        assert "Kolmogorov-Smirnov 1.00" in compared.text
        changed = (await browser.get(f"/features/delays/diff?before={second.id}&after={last.id}")).text
        assert "its rules leave other rows out" in changed
        assert "<dt>Quarantined</dt><dd>1 rows</dd>" in page.text
        watched.world.verdicts.expire(watched.world.scope, [third.id])
        assert "<dd>1 rows; they expired on " in (await browser.get("/features/delays")).text
        for path in ("/features/nothing", "/features/delays/diff?before=snap_x&after=snap_y", "/features/delays/diff"):
            assert (await browser.get(path)).status_code == 404, path


async def test_the_same_over_http(watched: Watched) -> None:
    first, second, third, last = watched.verdicts
    async with client(watched, page=False) as http:
        described = (await http.get("/admin/features/delays")).json()
        assert described["latest"]["outcome"] == "blocked"
        assert described["current"]["id"] == third.snapshot
        assert str(watched.world.folder) not in msgspec.json.encode(described).decode(), "where files lie is not told"
        versions = (await http.get("/admin/features/delays/history?limit=3")).json()["versions"]
        assert [version["outcome"] for version in versions] == ["blocked", "warned", "passed"]
        assert [version["current"] for version in versions] == [False, True, True]
        found = (await http.get(f"/admin/features/delays/diff?before={first.id}&after={second.id}")).json()
        delay = next(one for one in found["columns"] if one["name"] == "dep_delay")
        assert (delay["before"]["rows"], delay["after"]["rows"]) == (1440, 200), "the new rows alone"
        assert delay["after"]["mean"] == pytest.approx(sum(60 + n % 9 for n in range(200)) / 200)
        assert delay["effect"] == 1.0
        assert found["definition"]["level"] == "same"
        kept = (await http.get("/admin/features/delays/quarantine")).json()
        assert (kept["verdict"], kept["total"], kept["reasons"]) == (last.id, 1, {NAME: 1})
        assert kept["rows"][0]["columns"]["dest"] == "<script>alert(1)</script>"
        watched.world.verdicts.expire(watched.world.scope, [last.id])
        gone = (await http.get("/admin/features/delays/quarantine")).json()
        assert (gone["total"], gone["reasons"], gone["rows"]) == (1, {NAME: 1}, [])
        assert gone["expired_at"] is not None
        assert (await http.get("/admin/features/delays/quarantine?limit=0")).status_code == 400
        assert (await http.get("/admin/features/nothing/history")).status_code == 404
    async with client(watched, "viewer", page=False) as http:
        assert (await http.get("/admin/features/delays/quarantine")).status_code == 403
