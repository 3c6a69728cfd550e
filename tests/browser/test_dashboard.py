"""The dashboard in the system's Chromium: signing in, live figures, one time axis, both color schemes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
from tests.integration.gateway.conftest import Running, serve

from antiphon.catalog.database import Database
from antiphon.catalog.jobs import JobRow, Jobs
from antiphon.catalog.receipts import Receipts
from antiphon.core.scope import Scope
from antiphon.governance.identity.keys import Keys
from antiphon.testing import fakes

pytestmark = pytest.mark.browser

SCOPE = Scope("default", "dev")
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path}/catalog.db")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
async def running(database: Database) -> AsyncIterator[Running]:
    answerer = fakes.FakeAnswerer(Receipts(database), database.clock)
    async with serve(fakes.gateway_services(database, answerer), sampling=True) as started:
        yield started


@pytest.fixture
async def page(running, database) -> AsyncIterator[object]:
    """A signed-in page; any error that the browser reports fails the test."""
    from playwright.async_api import async_playwright

    if not Path(CHROMIUM).exists():
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            pytest.fail("Chromium is missing: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    key, _ = Keys(database, fakes.SECRET).create("default", "watcher", "viewer")
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = await browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
        opened = await context.new_page()
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        await opened.goto(running.url + "/")
        await opened.fill("#key", key)
        await opened.click("text=Sign in")
        await opened.wait_for_selector("#freshness canvas")
        yield opened
        await browser.close()
    assert complaints == []


async def ask(running: Running, database: Database, number: int = 1) -> str:
    key, _ = Keys(database, fakes.SECRET).create("default", "asker", "service")
    async with httpx2.AsyncClient(base_url=running.url, headers={"authorization": f"Bearer {key}"}) as client:
        for _ in range(number):
            body = {"model": "desk", "messages": [{"role": "user", "content": "Is it <b>late</b>?"}]}
            answer = await client.post("/v1/chat/completions", json=body)
    return str(answer.json()["id"])


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
    for plot, told in (
        ("batch", "75 %"),
        ("freshness", "congestion 1.8 s"),
        ("latency", r"p50 \d+ ms"),
        ("engine", "1 online, 3 batch"),
    ):
        await expect(page.locator(f"#{plot}")).to_have_attribute("aria-label", re.compile(told))
    widths = await page.evaluate("[...document.querySelectorAll('.plot canvas')].map((canvas) => canvas.clientWidth)")
    assert len(widths) == 4
    assert len(set(widths)) == 1
    lefts = await page.evaluate(
        "[...document.querySelectorAll('.u-over')].map((plot) => plot.getBoundingClientRect().left)"
    )
    assert len(set(lefts)) == 1
    await page.click("text=15 min")
    assert await page.locator("[data-span='900']").get_attribute("aria-pressed") == "true"
    assert await page.locator("[data-span='300']").get_attribute("aria-pressed") == "false"


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_in_both_schemes(page, running, database, scheme) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3) for every text on every page."""
    made = await ask(running, database)
    await page.emulate_media(color_scheme=scheme)
    for path in ("/", "/requests", f"/requests/{made}"):
        await page.goto(running.url + path)
        poor = await page.evaluate(CONTRAST)
        assert poor == [], path


@pytest.mark.parametrize("width", [390, 820, 1280])
async def test_nothing_runs_off_the_side(page, running, database, width) -> None:
    made = await ask(running, database)
    await page.set_viewport_size({"width": width, "height": 844})
    for path in ("/", "/requests", f"/requests/{made}"):
        await page.goto(running.url + path)
        overflow = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, path


async def test_every_control_has_a_name_and_every_page_one_heading(page, running, database) -> None:
    made = await ask(running, database)
    for path in ("/", "/requests", f"/requests/{made}"):
        await page.goto(running.url + path)
        assert await page.locator("h1").count() == 1
        unnamed = await page.evaluate(
            "[...document.querySelectorAll('a, button, input:not([type=hidden]), select, progress, [role=img]')]"
            ".filter((each) => !(each.textContent.trim() || each.getAttribute('aria-label')"
            " || (each.labels && each.labels.length)))"
            ".map((each) => each.outerHTML)"
        )
        assert unnamed == [], path


async def test_signing_out_closes_the_door(page, running) -> None:
    await page.click("text=Sign out")
    await page.wait_for_url("**/login")
    await page.goto(running.url + "/requests")
    assert "/login" in page.url


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
