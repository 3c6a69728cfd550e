"""The system's Chromium with a signed-in page, and pictures of pages for the documentation."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.harness import fakes
from tests.harness.chromium import browser_context
from tests.harness.gated_project import GatedProject
from tests.integration.gateway.conftest import Running, serve

from antiphon.catalog.database import Database
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principals import Role

if TYPE_CHECKING:
    from playwright.async_api import Page


@pytest.fixture
async def running(project: GatedProject) -> AsyncIterator[Running]:
    """The gateway of a file's own ``project``; a file without one has its own."""
    async with serve(project.wired.gateway_services()) as started:
        yield started


@asynccontextmanager
async def signed_in(running: Running, database: Database, role: Role, path: str, ready: str) -> AsyncIterator[Page]:
    """A page with nothing stored, signed in as ``role`` and opened at ``path``, once the selector ``ready`` is there.

    Any error that the browser reports meanwhile fails the test.
    """
    key, _ = Keys(database, fakes.SECRET).create("default", "reader", role)
    errors: list[str] = []
    async with browser_context(viewport={"width": 1280, "height": 900}, color_scheme="light") as context:
        page = await context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        await page.goto(f"{running.url}/login?next={path}")
        await page.fill("#key", key)
        await page.click("text=Sign in")
        await page.wait_for_selector(ready)
        yield page
    assert errors == []


async def photograph(page: Page, name: str) -> None:
    """Keep a picture of the page as ``NAME.png`` where ``make screenshots`` asks for pictures; else do nothing."""
    folder = os.environ.get("ANTIPHON_SCREENSHOTS")
    if folder:
        await page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")


async def require_fit(page: Page, width: int) -> None:
    """Load the page into a window of ``width`` pixels, and fail if something runs off its side."""
    await page.set_viewport_size({"width": width, "height": 844})
    await page.reload()
    overflow = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, (page.url, width)


async def require_contrast(page: Page) -> None:
    """Fail unless every text has a contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    assert await page.evaluate(CONTRAST) == [], page.url


async def require_accessible(page: Page) -> None:
    """Fail if axe-core finds a serious or critical fault."""
    await page.evaluate(AXE.read_text())
    faults = await page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations"
        ".filter((each) => ['serious', 'critical'].includes(each.impact))"
        ".map((each) => `${each.id}: ${each.nodes.map((node) => node.html).slice(0, 3).join(' ')}`))"
    )
    assert faults == [], page.url


async def require_names(page: Page) -> None:
    """Fail unless every control has a name and the page one heading (WCAG 2.2, 4.1.2)."""
    assert await page.locator("h1").count() == 1, page.url
    unnamed = await page.evaluate(
        "[...document.querySelectorAll('a, button, input:not([type=hidden]), select, progress, [role=img]')]"
        ".filter((each) => !(each.textContent.trim() || each.getAttribute('aria-label')"
        " || (each.labels && each.labels.length)))"
        ".map((each) => each.outerHTML)"
    )
    assert unnamed == [], page.url


async def require_sound(page: Page, name: str = "") -> None:
    """Fail unless a page is read by everybody, in both color schemes and from a phone on; keep a
    picture of it where it has a ``name``."""
    await page.wait_for_selector("h1")
    await require_names(page)
    for scheme in ("dark", "light"):
        await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
        await require_contrast(page)
    await require_accessible(page)
    for width in (360, 1280):
        await require_fit(page, width)
    if name:
        await photograph(page, name)


AXE = Path(__file__).parent / "vendor/axe.min.js"

CONTRAST = """
() => {
  const canvas = document.createElement("canvas").getContext("2d");
  const channels = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = channels(getComputedStyle(each).backgroundColor);
      if (color[3] > 0.99) return color;
    }
    return channels("white");
  };
  const poor = [];
  const walker = document.createTreeWalker(document.querySelector("body"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.getClientRects().length) continue;
    if (element.closest(".skip, .unseen, script, style, meter, progress, option")) continue;
    const pair = [luminance(channels(getComputedStyle(element).color)), luminance(behind(element))];
    const [a, b] = pair.sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${walker.currentNode.textContent.trim()} ${ratio.toFixed(2)}`);
  }
  return poor;
}
"""
