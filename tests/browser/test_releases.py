"""The page Releases in the system's Chromium: a rollout that moves by itself, and a hand on it by keyboard."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.browser.test_dashboard import ARGUMENTS, CHROMIUM, CONTRAST
from tests.integration.gateway.conftest import Running, serve
from tests.integration.gateway.learned_desk import LearnedDesk
from tests.unit.catalog.examples import DEV

from antiphon.definitions.learning import Rollout
from antiphon.governance.identity.keys import Keys
from antiphon.testing import fakes

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
async def page(running, desk) -> AsyncIterator[object]:
    """A page signed in as an engineer; any error that the browser reports fails the test."""
    from playwright.async_api import async_playwright

    if not Path(CHROMIUM).exists():
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            pytest.fail("Chromium is missing: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    key, _ = Keys(desk.database, fakes.SECRET).create("default", "builder", "engineer")
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = await browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
        opened = await context.new_page()
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        await opened.goto(running.url + "/login?next=/releases")
        await opened.fill("#key", key)
        await opened.click("text=Sign in")
        await opened.wait_for_selector("h1:has-text('Releases')")
        yield opened
        await browser.close()
    assert complaints == []


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
    await page.emulate_media(color_scheme=scheme)
    for path in PATHS:
        for width in (390, 1280):
            await page.set_viewport_size({"width": width, "height": 844})
            await page.goto(running.url + path)
            overflow = await page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert overflow <= 0, (path, width)
        assert await page.evaluate(CONTRAST) == [], path
        assert await page.locator("h1").count() == 1, path
        unnamed = await page.evaluate(
            "[...document.querySelectorAll('a, button, input:not([type=hidden]), select, progress, [role=img]')]"
            ".filter((each) => !(each.textContent.trim() || each.getAttribute('aria-label') ||"
            " (each.labels && each.labels.length))).map((each) => each.outerHTML)"
        )
        assert unnamed == [], path
        assert await page.locator("table:not(:has(caption))").count() == 0, path


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
