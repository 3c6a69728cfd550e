"""The pages *Chaos* without a browser: what is shipped and the project's own, past runs, and the report of one."""

from __future__ import annotations

import httpx2
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import gateway_client
from tests.unit.operations.chaos.test_report import AWAY, BEGIN, END

from antiphon.catalog.database import Database
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.keys import Keys
from antiphon.operations.chaos.journal import Journal

HOSTILE = "<script>alert(1)</script>"


def recorded(database: Database, name: str = "chaos_1") -> None:
    """The journal of a run, in the folder of the project."""
    folder = database.path.parent / ".antiphon/chaos" / name
    folder.mkdir(parents=True)
    journal = Journal(folder)
    for event in (*BEGIN, *AWAY, *END):
        journal.append(event)


async def pages(services: GatewayServices, key: str, *paths: str) -> list[httpx2.Response]:
    async with gateway_client(services, key, page=True) as client:
        return [await client.get(path) for path in paths]


async def test_experiments_and_runs_lead_to_reports(
    services: GatewayServices, database: Database, keys: dict[str, str]
) -> None:
    own = database.path.parent / "chaos"
    own.mkdir()
    (own / "mine.json").write_text(f'{{"title": "{HOSTILE}"}}')
    recorded(database)
    listed, report, none, above = await pages(
        services, keys["admin"], "/chaos", "/chaos/chaos_1", "/chaos/chaos_2", "/chaos/..%2fkeys"
    )
    for part in ("kill-worker", "shipped", "mine", "project", '<a href="/chaos/chaos_1">', "game day"):
        assert part in listed.text, part
    assert HOSTILE not in listed.text
    for part in (
        "A worker is killed",
        "kill_process(process=worker)",
        "Of 20 questions 18 were answered",
        "it fails with",
    ):
        assert part in report.text, part
    assert (none.status_code, above.status_code) == (404, 404)


@pytest.mark.parametrize("role", ["engineer", "service", "viewer"])
async def test_who_may_not_run_experiments_does_not_see_them(
    role: str, services: GatewayServices, database: Database, keys: dict[str, str]
) -> None:
    recorded(database)
    found = await pages(services, keys[role], "/chaos", "/chaos/chaos_1")
    assert [one.status_code for one in found] == [403, 403]


async def test_another_tenant_sees_no_experiment(services: GatewayServices, database: Database) -> None:
    recorded(database)
    key, _ = Keys(database, fakes.SECRET).create("other", "stranger", "admin")
    found = await pages(services, key, "/chaos", "/chaos/chaos_1")
    assert [one.status_code for one in found] == [403, 403]
