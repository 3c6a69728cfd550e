"""The page Lineage in the system's Chromium: from an answer to its sources by keyboard, and legible at any width."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.browser.conftest import photograph, require_contrast, require_fit, require_names, signed_in
from tests.harness import fakes
from tests.integration.gateway.conftest import Running, serve
from tests.integration.services.lineage.lineage_bakery import LineageBakery

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture
async def bakery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LineageBakery]:
    made = LineageBakery(tmp_path)
    monkeypatch.setattr(fakes, "SECRET", made.store.secret("server"))
    await made.open_shop()
    await made.table()
    yield made
    await made.close()


@pytest.fixture
async def running(bakery: LineageBakery) -> AsyncIterator[Running]:
    async with serve(bakery.wired.gateway_services()) as started:
        yield started


@pytest.fixture
async def page(running, bakery) -> AsyncIterator[Page]:
    async with signed_in(running, bakery.store.database, "engineer", "/lineage", "svg.lineage") as opened:
        yield opened


async def test_an_answer_leads_to_its_sources_by_keyboard(page, running, bakery) -> None:
    answer = await bakery.question()
    await page.goto(f"{running.url}/requests/{answer.prediction}")
    await page.locator("text=from its sources").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/lineage?of=pred_*")
    boxes = page.locator("svg.lineage a")
    # The boxes follow each other from left to right, and each takes the focus.
    lefts = [await box.locator("rect").get_attribute("x") for box in await boxes.all()]
    assert lefts == sorted(lefts, key=int)
    await boxes.first.focus()
    reached = []
    for _ in range(await boxes.count()):
        reached.append(await page.evaluate("document.activeElement.getAttribute('aria-label')"))
        await page.keyboard.press("Tab")
    assert len(set(reached)) == await boxes.count()
    assert reached[0].startswith("snapshot today@")
    await photograph(page, "lineage")
    await boxes.first.focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/lineage?of=snap*")
    assert "orders (orders.csv)" in await page.locator("main").inner_text()


async def test_every_box_ends_before_the_next_begins_and_holds_its_words(page) -> None:
    overlapping, spilling = await page.evaluate(
        """() => {
          const boxes = [...document.querySelectorAll("svg.lineage rect")].map((one) => one.getBoundingClientRect());
          const cross = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
          const pairs = boxes.flatMap((one, place) => boxes.slice(place + 1).filter((other) => cross(one, other)));
          const texts = [...document.querySelectorAll("svg.lineage text.name")];
          const out = texts.filter((one) => one.getBoundingClientRect().right >
            one.parentElement.querySelector("rect").getBoundingClientRect().right);
          return [pairs.length, out.map((one) => one.textContent)];
        }"""
    )
    assert (overlapping, spilling) == (0, [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_in_both_schemes(page, scheme) -> None:
    await page.emulate_media(color_scheme=scheme)
    await page.reload()
    await require_contrast(page)


@pytest.mark.parametrize("width", [390, 820, 1280])
async def test_nothing_runs_off_the_side(page, width) -> None:
    await require_fit(page, width)


async def test_every_control_has_a_name_and_the_page_one_heading(page) -> None:
    await require_names(page)
