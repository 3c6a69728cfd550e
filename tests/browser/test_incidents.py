"""The pages *Incidents* and *Playbooks* in Chromium: they go on by themselves, and keep what is being written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.browser.conftest import require_accessible, require_names, require_sound, signed_in
from tests.integration.gateway.conftest import Running, answerer, database, serve, services
from tests.integration.gateway.test_hidden_incidents import SCOPE, incident

from antiphon.catalog.database import Database
from antiphon.catalog.incidents import Incident, Incidents, TimelineEntry
from antiphon.catalog.playbooks import PlannedStep, PlaybookRun, PlaybookRuns
from antiphon.definitions.playbooks import PlaybookStep
from antiphon.gateway.services import GatewayServices

if TYPE_CHECKING:
    from playwright.async_api import Page

__all__ = ["answerer", "database", "services"]

pytestmark = pytest.mark.browser

NOTE = "the host was replaced <b>at noon</b>"


@pytest.fixture
async def running(services: GatewayServices) -> AsyncIterator[Running]:
    async with serve(services) as started:
        yield started


def put(database: Database, found: Incident) -> None:
    with database.transaction() as connection:
        Incidents(database).put(SCOPE, found, within=connection)


def run(database: Database, number: int) -> None:
    at = database.clock.now()
    step = PlannedStep(1, PlaybookStep("freeze", work=("batch",), duration="30m"))
    made = PlaybookRun(f"inc_1.calm-{number}", f"calm-{number}", "inc_1", "waiting", (step,), "It is full.", at, at)
    with database.transaction() as connection:
        PlaybookRuns(database).put(SCOPE, made, within=connection)


@pytest.fixture
async def page(running: Running, database: Database) -> AsyncIterator[Page]:
    put(database, incident(database, "inc_1", "desk"))
    run(database, 1)
    async with signed_in(running, database, "admin", "/incidents", "h1") as opened:
        yield opened


async def test_a_new_incident_is_put_into_the_list(page: Page, database: Database) -> None:
    from playwright.async_api import expect

    await expect(page.locator("[data-state]")).to_have_text("Live")
    put(database, incident(database, "inc_2", "triage"))
    await expect(page.locator("#inc_2")).to_contain_text("felt by triage", timeout=15_000)
    assert await page.locator("#incidents tbody tr").count() == 2
    await require_sound(page)
    await require_accessible(page)
    await require_names(page)


async def test_an_open_incident_goes_on_beside_what_is_being_written(page: Page, database: Database) -> None:
    from playwright.async_api import expect

    await page.click("#inc_1 a")
    await expect(page.locator("[data-state]")).to_have_text("Live")
    await page.locator("#text").fill("is it the disk?")
    known = Incidents(database).get(SCOPE, "inc_1")
    at = database.clock.now()
    noted = msgspec.structs.replace(
        known, state="acknowledged", updated_at=at, timeline=(*known.timeline, TimelineEntry(at, "note", NOTE, "ben"))
    )
    put(database, noted)
    await expect(page.locator("#incident")).to_contain_text(NOTE, timeout=15_000)
    await expect(page.locator("#incident")).to_contain_text("acknowledged")
    assert await page.locator("#text").input_value() == "is it the disk?"
    assert await page.locator("#incident b").count() == 0
    await require_sound(page)
    await require_accessible(page)


async def test_a_run_that_waits_comes_without_taking_the_reason_that_is_written(page: Page, database: Database) -> None:
    from playwright.async_api import expect

    await page.goto(page.url.replace("/incidents", "/playbooks"))
    await expect(page.locator("[data-state]")).to_have_text("Live")
    reason = page.locator("tr[id='inc_1.calm-1'] input[name=reason]")
    await reason.fill("a load test")
    run(database, 2)
    await expect(page.locator("tr[id='inc_1.calm-2']")).to_contain_text("waiting", timeout=15_000)
    assert await reason.input_value() == "a load test"
    await require_sound(page)
