"""The page Features in the system's Chromium: it can be read, fits, and two versions are compared by hand."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.browser.test_dashboard import ARGUMENTS, CHROMIUM, CONTRAST
from tests.integration.gateway.conftest import Running, serve
from tests.integration.gateway.test_feature_pages import Watched

from antiphon.governance.identity.keys import Keys
from antiphon.testing import fakes

pytestmark = pytest.mark.browser


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    watched = Watched(tmp_path)
    await watched.make()
    yield watched
    watched.world.close()


@pytest.fixture
async def running(watched: Watched) -> AsyncIterator[Running]:
    async with serve(watched.services()) as started:
        yield started


@pytest.fixture
async def page(running, watched) -> AsyncIterator[object]:
    """A page signed in as a viewer; any error that the browser reports fails the test."""
    from playwright.async_api import async_playwright

    if not Path(CHROMIUM).exists():
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            pytest.fail("Chromium is missing: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    key, _ = Keys(watched.database, fakes.SECRET).create("default", "looker", "viewer")
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = await browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
        opened = await context.new_page()
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        await opened.goto(running.url + "/login?next=/features")
        await opened.fill("#key", key)
        await opened.click("text=Sign in")
        await opened.wait_for_selector("h1:has-text('Features')")
        yield opened
        await browser.close()
    assert complaints == []


async def test_two_versions_are_compared_from_the_list(page, running, watched) -> None:
    await page.click("a:has-text('delays')")
    await page.wait_for_selector("h2:has-text('The last version is blocked')")
    assert await page.locator("svg.drawn").count() == 3
    await page.select_option("select[name=before]", watched.verdicts[0].id)
    await page.select_option("select[name=after]", watched.verdicts[1].id)
    await page.click("button:has-text('Compare')")
    await page.wait_for_selector("h1:has-text('Two versions of delays')")
    delay = page.locator("svg[aria-label^='Distribution of dep_delay']")
    assert await delay.locator("polyline").count() == 2
    assert "mean" in (await delay.get_attribute("aria-label"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_pages_can_be_read_named_and_fit(page, running, watched, scheme) -> None:
    await page.emulate_media(color_scheme=scheme)
    first, second = watched.verdicts[0].id, watched.verdicts[3].id
    for path in ("/features", "/features/delays", f"/features/delays/diff?before={first}&after={second}"):
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
