"""The page Releases in the system's Chromium: a rollout that moves by itself, and a hand on it by keyboard."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.browser.conftest import photograph, require_contrast, require_fit, require_names, signed_in
from tests.integration.gateway.conftest import Running, serve
from tests.integration.gateway.learned_desk import LearnedDesk
from tests.unit.catalog.examples import DEV, NOON

from antiphon.definitions.learning import Rollout
from antiphon.learning.outcomes.submission import OutcomeSubmission

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser

CANARY = Rollout(canary=(5, 50), step_units=50)
PATHS = ("/releases", "/models", "/models/desk.v1", "/models/compare?a=desk.v1&b=desk.v2", "/outcomes", "/runs")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LearnedDesk]:
    desk = LearnedDesk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture
async def running(desk: LearnedDesk) -> AsyncIterator[Running]:
    async with serve(desk.services()) as started:
        yield started


@pytest.fixture
async def page(running, desk) -> AsyncIterator[Page]:
    async with signed_in(running, desk.database, "engineer", "/releases", "h1:has-text('Releases')") as opened:
        yield opened


async def test_a_canary_grows_on_the_page_and_is_undone_when_it_harms(page, running, desk) -> None:
    from playwright.async_api import expect

    expect.set_options(timeout=15_000)
    rollout = desk.begin(CANARY)
    await page.goto(running.url + "/releases")
    await expect(page.locator(".steps [aria-current=step] b")).to_have_text("canary 5 %")
    desk.expose(rollout, 30)
    desk.look()
    await expect(page.locator(".steps [aria-current=step] small")).to_have_text("30 of 50 canary users")
    await expect(page.locator(".sentence")).to_contain_text("30 canary users of 50")
    assert await page.locator("svg.drawn").count() == 2
    await photograph(page, "rollout")
    desk.expose(rollout, 60, bad=90, first=30)
    desk.look()
    await expect(page.locator("h2", has_text="Last rollout")).to_be_visible()
    await expect(page.locator(".sentence")).to_contain_text("Rolled back at 5 %")
    assert await page.locator("circle.decision.roll_back").count() == 1


async def test_a_rollout_is_held_and_undone_by_keyboard(page, running, desk) -> None:
    rollout = desk.begin(CANARY)
    await page.goto(running.url + "/releases")
    await page.locator("#reason").focus()
    await page.keyboard.type("lunch")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("button:has-text('Resume')")
    assert desk.rollouts.get(DEV, rollout.id).held
    await page.fill("#reason", "users complain")
    await page.click("text=Undo the rollout")
    await page.wait_for_selector("button:has-text('Roll back to the release before')")
    assert desk.rollouts.get(DEV, rollout.id).reason == "users complain"


async def test_without_a_reason_nothing_is_sent(page, running, desk) -> None:
    rollout = desk.begin(CANARY)
    await page.goto(running.url + "/releases")
    await page.click("button:has-text('Hold')")
    assert await page.evaluate("document.querySelector('#reason').validity.valueMissing")
    assert desk.rollouts.active(DEV, "desk") == rollout


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_can_be_read_named_and_fits(page, running, desk, scheme) -> None:
    desk.come_true()
    desk.train()
    rollout = desk.transitions.begin(DEV, desk.validated(2, plan=CANARY).id, principal="ada", reason="better")
    desk.expose(rollout, 30)
    desk.look()
    thumb = OutcomeSubmission(value="down", kind="thumbs", prediction="p0-0", application="desk", available_at=NOON)
    assert desk.joiner.take(DEV, "ada", thumb).status == "joined"
    await page.emulate_media(color_scheme=scheme)
    for path in PATHS:
        await page.goto(running.url + path)
        for width in (390, 1280):
            await require_fit(page, width)
        await require_contrast(page)
        await require_names(page)
        assert await page.locator("table:not(:has(caption))").count() == 0, path


async def test_an_outcome_leads_to_its_prediction(page, running, desk) -> None:
    desk.come_true()
    await page.goto(running.url + "/outcomes")
    latest = page.locator("section:has(h2:text-is('Latest')) tbody tr").first
    prediction = await latest.locator("a").inner_text()
    await latest.locator("a").click()
    await page.wait_for_url(f"**/requests/{prediction}")


async def test_the_pages_work_without_scripts(page, running, desk) -> None:
    desk.begin(CANARY)
    cookies = await page.context.cookies()
    context = await page.context.browser.new_context(java_script_enabled=False)
    await context.add_cookies(cookies)
    plain = await context.new_page()
    await plain.goto(running.url + "/releases")
    await plain.fill("#reason", "lunch")
    await plain.click("button:has-text('Hold')")
    await plain.wait_for_selector("button:has-text('Resume')")
    assert re.search("held", await plain.locator("#rollout").inner_text())
    await context.close()
