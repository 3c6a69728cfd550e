"""The dashboard in the system's Chromium: signing in, live figures, one time axis, both color schemes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.browser.conftest import photograph, require_contrast, require_fit, require_names, signed_in
from tests.harness import fakes
from tests.integration.gateway.conftest import Running, answerer, database, serve, services
from tests.integration.services.test_objectives_of_answers import COST, OBJECTIVES, Answers, declare

from antiphon.catalog.batch.jobs import JobRow, Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.incidents import Incident, IncidentEvidence, Incidents, IncidentSymptom, RootCause, TimelineEntry
from antiphon.catalog.ledger import Ledger, MeteredUsage
from antiphon.catalog.measurements import PLATFORM, Amount, MeasurementRows, Measurements
from antiphon.catalog.objective_states import ObjectiveAlert, ObjectiveStates
from antiphon.core.clock import ManualClock
from antiphon.core.scope import Scope
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.keys import Keys

if TYPE_CHECKING:
    from playwright.async_api import Page

__all__ = ["answerer", "database", "services"]

pytestmark = pytest.mark.browser

SCOPE = Scope("default", "dev")


@pytest.fixture
async def running(services: GatewayServices) -> AsyncIterator[Running]:
    async with serve(services) as started:
        yield started


@pytest.fixture
async def page(running, database) -> AsyncIterator[Page]:
    async with signed_in(running, database, "viewer", "/", "#latency canvas") as opened:
        yield opened


async def ask(running: Running, database: Database, number: int = 1) -> str:
    key, _ = Keys(database, fakes.SECRET).create("default", "asker", "service")
    async with httpx2.AsyncClient(base_url=running.url, headers={"authorization": f"Bearer {key}"}) as client:
        for _ in range(number):
            body = {"model": "desk", "messages": [{"role": "user", "content": "Is it <b>late</b>?"}]}
            answer = await client.post("/v1/chat/completions", json=body)
    return str(answer.json()["id"])


def measure(database: Database) -> None:
    """What the processes of a platform measured half a minute ago."""
    rows, at = MeasurementRows(database, "dev"), database.clock.now() - timedelta(seconds=30)
    rows.append(
        "gateway",
        at,
        {
            "default": Measurements(
                {
                    ("antiphon_answers", ("desk", "online", "generated", "live")): Amount(20.0),
                    ("antiphon_batch_rows_waiting", ()): Amount(120.0, 10.0, 12.0),
                    ("antiphon_feature_age_seconds", ("weather",)): Amount(6_120.0, 10.0, 612.0),
                }
            ),
            PLATFORM: Measurements(
                {
                    ("antiphon_engine_requests", ("engine", "running_online")): Amount(10.0, 10.0, 1.0),
                    ("antiphon_engine_requests", ("engine", "running_batch")): Amount(30.0, 10.0, 3.0),
                }
            ),
        },
    )


async def test_figures_change_by_themselves_and_the_axis_is_shared(page, running, database) -> None:
    from playwright.async_api import expect

    expect.set_options(timeout=15_000)
    jobs = Jobs(database)
    job = jobs.create(SCOPE, application="desk", release=None, input="x", output="y", principal="p", total=4)
    epoch = jobs.take_over(SCOPE, job.id)
    assert await page.locator(".tile b").first.inner_text() == "0"
    await ask(running, database, 3)
    jobs.write_rows(SCOPE, job.id, epoch, [JobRow(line, {}) for line in range(3)])
    await expect(page.locator(".tile b").first).to_have_text("3")
    await expect(page.locator("#figures progress")).to_have_attribute("value", "3")
    measure(database)
    await page.goto(running.url + "/?span=15m")
    for plot, told in (
        ("waiting", "rows 12"),
        ("freshness", "weather 10.2 min|weather 10 min"),
        ("answers", r"online \d"),
        ("engine", "online 1, batch 3"),
    ):
        await expect(page.locator(f"#{plot}")).to_have_attribute("aria-label", re.compile(told))
    widths = await page.evaluate("[...document.querySelectorAll('.plot canvas')].map((canvas) => canvas.clientWidth)")
    assert len(widths) == 5
    assert len(set(widths)) == 1
    lefts = await page.evaluate(
        "[...document.querySelectorAll('.u-over')].map((plot) => plot.getBoundingClientRect().left)"
    )
    assert len(set(lefts)) == 1
    await photograph(page, "overview")
    await page.click(".choice >> text=1d")
    await page.wait_for_url(lambda url: url.endswith("/?span=1d"))
    assert await page.locator(".choice [aria-current]").inner_text() == "1d"
    await expect(page.locator("#table tbody tr")).to_have_count(60)
    await page.click("a[rel=prev]")
    await page.wait_for_url(lambda url: "until=" in url)
    assert await page.locator("#pause").is_hidden()
    await page.click("a[rel=next]")
    await page.wait_for_url(lambda url: "until" not in url)


async def test_a_paused_page_stays_as_it_is_and_the_address_says_so(page, running, database) -> None:
    from playwright.async_api import expect

    await expect(page.locator("[data-state]")).to_have_text("Live")
    await page.click("#pause")
    assert page.url.endswith("/?paused=1")
    await page.reload()
    await expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
    await expect(page.locator("[data-state]")).to_have_text("Paused")
    await page.wait_for_selector("#latency canvas")
    measure(database)
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    await page.click("#pause")
    await expect(page.locator("#waiting")).to_have_attribute("aria-label", re.compile("rows 12"))
    assert any("/dashboard/series" in url for url in requested)
    assert "paused" not in page.url


async def test_a_change_is_put_in_without_taking_focus_selection_or_what_is_open(page, running, database) -> None:
    from playwright.async_api import expect

    await expect(page.locator("[data-state]")).to_have_text("Live")
    await page.evaluate(
        """() => {
          const cell = document.querySelector("#figures td");
          cell.tabIndex = 0; cell.focus();
          getSelection().selectAllChildren(cell);
        }"""
    )
    before = await page.evaluate("getSelection().toString()")
    assert before
    await ask(running, database, 2)
    await expect(page.locator(".tile b").first).to_have_text("2", timeout=15_000)
    assert await page.evaluate("document.activeElement.tagName") == "TD"
    assert await page.evaluate("getSelection().toString()") == before


async def test_a_page_without_its_stream_says_so_and_looks_by_itself(page, running, database) -> None:
    from playwright.async_api import expect

    await page.add_init_script(
        """(() => {
          const Real = EventSource;
          window.lost = true;
          window.EventSource = function (address) {
            if (!window.lost) return new Real(address);
            const fake = { readyState: 2, addEventListener() {}, close() {} };
            setTimeout(() => fake.onerror());
            return fake;
          };
        })()"""
    )
    await page.reload()
    await expect(page.locator("[data-state]")).to_have_text(re.compile(r"Not live since \d\d:\d\d UTC, reconnecting"))
    await ask(running, database)
    await expect(page.locator(".tile b").first).to_have_text("1", timeout=15_000)
    await page.evaluate("window.lost = false")
    await expect(page.locator("[data-state]")).to_have_text("Live", timeout=20_000)


async def test_new_predictions_are_told_of_and_no_row_moves(page, running, database) -> None:
    from playwright.async_api import expect

    await ask(running, database)
    await page.goto(running.url + "/requests?path=online")
    await expect(page.locator("[data-state]")).to_have_text("Live")
    await ask(running, database)
    await expect(page.locator("#fresh")).to_be_visible(timeout=15_000)
    assert await page.locator("tbody tr").count() == 1
    await page.click("#fresh a")
    await expect(page.locator("tbody tr")).to_have_count(2)
    assert page.url.endswith("/requests?path=online")


async def test_a_prediction_is_reached_from_the_list_by_keyboard(page, running, database) -> None:
    made = await ask(running, database)
    await page.goto(running.url + "/requests")
    link = page.locator("tbody a").first
    await link.focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/requests/{made}")
    assert "Is it <b>late</b>?" in await page.locator(".question").inner_text()
    assert json.loads(await page.locator("pre.answer").inner_text())["outlook"] == "on_time"
    assert await page.locator("meter").count() == 2
    text = await page.locator("main").inner_text()
    for told in ("congestion.delay_2h", "flagged", "Snapshot", "shared", "µUSD"):
        assert told in text
    await photograph(page, "prediction")


async def test_facets_are_chosen_and_left_out_by_keyboard(page, running, database) -> None:
    await ask(running, database, 2)
    await page.goto(running.url + "/requests")
    await page.locator("summary", has_text="Guards").focus()
    await page.keyboard.press("Enter")
    link = page.locator(".facets a", has_text="pass")
    await link.focus()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/requests?verdict=pass")
    # The page's one stream of changes may have begun by now.
    assert len([url for url in requested if "/static/" not in url and "/dashboard/changes" not in url]) == 1
    assert await page.locator("tbody tr").count() == 2
    for width in (360, 1280):
        await require_fit(page, width)
    await require_names(page)
    await require_contrast(page)
    await photograph(page, "requests")
    await page.locator(".facets [aria-current]").click()
    await page.wait_for_url("**/requests")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_in_both_schemes(page, running, database, scheme) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3) for every text on every page."""
    made = await ask(running, database)
    await page.emulate_media(color_scheme=scheme)
    for path in ("/", "/requests", f"/requests/{made}"):
        await page.goto(running.url + path)
        await require_contrast(page)


@pytest.mark.parametrize("width", [360, 820, 1280])
async def test_nothing_runs_off_the_side(page, running, database, width) -> None:
    made = await ask(running, database)
    for path in ("/", "/requests", f"/requests/{made}"):
        await page.goto(running.url + path)
        await require_fit(page, width)


async def test_every_control_has_a_name_and_every_page_one_heading(page, running, database) -> None:
    made = await ask(running, database)
    for path in ("/", "/requests", f"/requests/{made}"):
        await page.goto(running.url + path)
        await require_names(page)


async def test_what_was_used_is_shown_with_the_idle_engine_as_a_row(page, running, database) -> None:
    ledger = Ledger(database)
    with database.transaction():
        ledger.add_with_commit(SCOPE, [MeteredUsage("answer", 3, application="desk"), MeteredUsage("worker", 5)])
    await page.goto(running.url + "/cost")
    text = await page.inner_text("main")
    assert "desk" in text
    assert "no application" in text
    await require_names(page)
    await require_contrast(page)
    for width in (360, 1280):
        await require_fit(page, width)
    await photograph(page, "cost")


async def test_signing_out_closes_the_door(page, running) -> None:
    await page.click("text=Sign out")
    await page.wait_for_url("**/login")
    await page.goto(running.url + "/requests")
    assert "/login" in page.url


async def test_objectives_and_their_alerts_can_be_read_by_everybody(page, running, database) -> None:
    states, now = ObjectiveStates(database), database.clock.now()
    objectives = running.services.work.objectives(SCOPE)
    declare(objectives._store, OBJECTIVES + COST)
    clock = ManualClock(now)
    Answers(objectives._store, clock).tell(60, timedelta(hours=1), timedelta(hours=9), lambda forecast: forecast)
    objectives.assess()
    alert = ObjectiveAlert("alert_1", "desk-errors", "desk", "critical", "The error budget burns.", now, None)
    with database.transaction() as connection:
        states.begin(SCOPE, alert, within=connection)
    await page.goto(running.url + "/objectives")
    text = await page.inner_text("main")
    for words in (
        "The error budget burns.", "fires", "the Brier score is 0.2 or less on average, over 28d", "Brier score 0.",
        "outcomes known of answers until", "bias ", "nothing that it used has a price",
    ):  # fmt: skip
        assert words in text, words
    await require_names(page)
    await require_contrast(page)
    for width in (360, 1280):
        await require_fit(page, width)
    await photograph(page, "objectives")


async def test_an_incident_shows_its_cause_and_path_and_what_users_wrote_is_text(page, running, database) -> None:
    at = database.clock.now()
    evidence = IncidentEvidence("engine/engine", "ended", "The engine <b>ended</b>.", at, record="process/engine")
    found = Incident(
        "inc_1", "open", "critical", "infrastructure", "engine/engine: it ended", at, at,
        roots=(RootCause("engine/engine", "infrastructure", (evidence,), (("engine/engine", "application/desk"),)),),
        symptoms=(IncidentSymptom("failed", "application/desk", at, evidence),), applications=("desk",),
        requests=100.0, hit=40.0, timeline=(TimelineEntry(at, "opened", "Symptoms: 1.", "ada"),),
    )  # fmt: skip
    with database.transaction() as connection:
        Incidents(database).put(SCOPE, found, within=connection)
    await page.goto(running.url + "/incidents")
    for shown in ("list", "one"):
        if shown == "one":
            await page.click("text=engine/engine: it ended")
            text = await page.inner_text("main")
            assert "The engine <b>ended</b>." in text
            assert "engine/engine → application/desk" in text
            assert "Manual actions" not in text, "a viewer has none"
        await require_names(page)
        await require_contrast(page)
        for width in (360, 1280):
            await require_fit(page, width)
