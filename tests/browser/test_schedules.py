"""The page Schedules in the system's Chromium: it says what waits and why, and a freeze is ordered and ended on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.browser.conftest import (
    photograph,
    require_accessible,
    require_contrast,
    require_fit,
    require_names,
    signed_in,
)
from tests.harness import fakes
from tests.harness.gated_project import MODEL_NAME, GatedProject
from tests.integration.gateway.conftest import Running
from tests.integration.services.test_gate_runs import REPLIES, SOUND, UNGATED, obeys
from tests.integration.services.test_schedules import conducting

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser

DECLARED = """
from antiphon import Precompute, Window, every
Precompute("replies", entities="questions.jsonl", when=every("1h"))
Window("opening-hours", "0 8 * * *", lasts="2h")
"""


@pytest.fixture
async def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatedProject]:
    made = GatedProject(tmp_path, obeys)
    monkeypatch.setattr(fakes, "SECRET", made.store.secret("server"))
    (tmp_path / "questions.jsonl").write_text('{"question": "When?"}\n')
    made.apply(REPLIES.format(model=MODEL_NAME, system=SOUND, more=UNGATED) + DECLARED)
    conducting(made)[0].look()
    yield made
    await made.close()


@pytest.fixture
async def page(running: Running, project: GatedProject) -> AsyncIterator[Page]:
    async with signed_in(running, project.store.database, "engineer", "/schedules", "h1") as opened:
        yield opened


async def test_what_is_declared_is_shown_with_what_it_waits_for(page: Page) -> None:
    text = await page.inner_text("main")
    for part in ("precompute-replies", "1h pass at", "opening-hours", "blackout", "Work to come"):
        assert part in text
    await page.click("summary:has-text('The same as a table')")
    assert "precompute-replies" in await page.inner_text("section:first-of-type tbody")
    await require_names(page)
    await require_contrast(page)
    await require_accessible(page)
    for width in (360, 1280):
        await require_fit(page, width)
    await photograph(page, "schedules")


async def test_a_freeze_is_ordered_with_a_reason_and_ended_by_keyboard(page: Page, project: GatedProject) -> None:
    await page.fill("#freeze-reason", "the launch")
    await page.fill("#freeze-for", "2h")
    await page.locator("button[value=freeze]").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_selector("text=End this freeze")
    (freeze,) = (one for one in project.store.run_holds.lasting(project.scope) if one.kind == "freeze")
    assert freeze.reason == "the launch"
    await page.locator("button[value=thaw]").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_selector("text=End this freeze", state="detached")
    assert not [one for one in project.store.run_holds.lasting(project.scope) if one.kind == "freeze"]


async def test_a_schedule_is_paused_and_goes_on(page: Page) -> None:
    await page.click("summary:has-text('Pause')")
    await page.fill("#reason-precompute-replies", "wrong labels")
    await page.click("button[value=pause]")
    await page.wait_for_selector("td:has-text('wrong labels')")
    await page.click("button[value=resume]")
    await page.wait_for_selector("button[value=pause]", state="attached")
