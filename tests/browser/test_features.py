"""The page Features in the system's Chromium: it can be read, fits, and two versions are compared by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.browser.conftest import photograph, require_contrast, require_fit, require_names, signed_in
from tests.integration.gateway.conftest import Running, serve
from tests.integration.gateway.test_feature_pages import Watched

if TYPE_CHECKING:
    from playwright.async_api import Page

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
async def page(running, watched) -> AsyncIterator[Page]:
    async with signed_in(running, watched.database, "viewer", "/features", "h1:has-text('Features')") as opened:
        yield opened


async def test_two_versions_are_compared_from_the_list(page, running, watched) -> None:
    await page.click("a:has-text('delays')")
    await page.wait_for_selector("h2:has-text('The last version is blocked')")
    assert await page.locator("svg.drawn").count() == 3
    await photograph(page, "feature")
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
        await page.goto(running.url + path)
        for width in (390, 1280):
            await require_fit(page, width)
        await require_contrast(page)
        await require_names(page)
        assert await page.locator("table:not(:has(caption))").count() == 0, path
