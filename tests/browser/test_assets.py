"""The page Assets in the system's Chromium: the graph is drawn and listed, a key shows its parts and their causes, and
a thousand assets are still a page."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.browser.conftest import photograph, require_contrast, require_fit, require_names, signed_in
from tests.harness import fakes
from tests.harness.gated_project import GatedProject
from tests.integration.gateway.conftest import Running
from tests.integration.services.test_gate_runs import obeys

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser

MODULE = "asset_page_workflows"
WORKFLOWS = """
from antiphon import daily, files, workflow

@workflow(reads=[files("events/{day}.csv")], partitions=daily("2026-11-01"))
async def clean(run, day: str) -> dict:
    return {}

@workflow(reads=[clean])
async def total(run) -> dict:
    return {}
"""
SCHEDULES = f"""
from antiphon import Schedule, stale
from {MODULE} import clean, total
Schedule(clean, when=stale())
Schedule(total, when=stale())
"""
ONE = """
@workflow(reads=[{read!r}])
async def w{number}(run) -> dict:
    return {{}}
"""


def many(count: int) -> str:
    """A module of workflows in chains of fifty, each of which begins with a file."""
    reads = [f"workflow/w{number - 1}" if number % 50 else f"file/{number}.csv" for number in range(count)]
    made = "".join(ONE.format(read=read, number=number) for number, read in enumerate(reads))
    return f"from antiphon import workflow\n{made}\nALL = [{', '.join(f'w{number}' for number in range(count))}]\n"


@pytest.fixture
async def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatedProject]:
    (tmp_path / "events").mkdir()
    (tmp_path / "events/2026-11-02.csv").write_text("tea")
    write(tmp_path, WORKFLOWS)
    made = GatedProject(tmp_path, obeys, own=f'workflow_modules = ["{MODULE}"]')
    monkeypatch.setattr(fakes, "SECRET", made.store.secret("server"))
    made.apply(SCHEDULES)
    yield made
    await made.close()
    sys.modules.pop(MODULE, None)


def write(folder: Path, workflows: str) -> None:
    (folder / f"{MODULE}.py").write_text(workflows)
    sys.modules.pop(MODULE, None)


@pytest.fixture
async def page(running: Running, project: GatedProject) -> AsyncIterator[Page]:
    async with signed_in(running, project.store.database, "viewer", "/assets", "h1") as opened:
        yield opened


async def test_the_graph_leads_to_an_asset_and_to_the_causes_of_its_parts(page: Page) -> None:
    text = await page.inner_text("main")
    for part in ("workflow/total", "waits", "what it makes is stale", "there is no such file"):
        assert part in text
    assert await page.locator("svg.lineage a").count() == 3
    await require_names(page)
    await require_contrast(page)
    for width in (360, 1280):
        await require_fit(page, width)
    await photograph(page, "assets")
    await page.locator("svg.lineage a").last.focus()
    await page.keyboard.press("Enter")
    await page.wait_for_selector("h2:has-text('workflow/total')")
    await page.locator("summary", has_text="Chain of causes").first.focus()
    await page.keyboard.press("Enter")
    chain = await page.locator("details ol").first.inner_text()
    assert "file/events/2026-11-01.csv: there is no such file" in chain
    await require_contrast(page)
    await photograph(page, "assets_one")


async def test_only_what_is_stale_is_shown_and_an_unknown_key_is_answered(page: Page, running: Running) -> None:
    await page.check("input[name=stale]")
    await page.click("button:has-text('Show')")
    await page.wait_for_selector("h2:has-text('Stale assets')")
    assert "file/events" not in await page.inner_text("tbody")
    answer = await page.request.get(f"{running.url}/assets?of=workflow/claen")
    assert answer.status == 404
    assert "Did you mean &#39;workflow/clean&#39;?" in await answer.text()


async def test_a_thousand_assets_are_still_a_page(page: Page, project: GatedProject) -> None:
    write(project.folder, many(1_000))
    schedules = "for one in ALL:\n    Schedule(one, when=stale())\n"
    project.apply(f"from antiphon import Schedule, stale\nfrom {MODULE} import ALL\n{schedules}")
    began = time.monotonic()
    await page.reload()
    await page.wait_for_selector("h1:has-text('Assets')")
    print(f"a thousand assets are shown after {time.monotonic() - began:.2f} s")
    assert await page.locator("svg.lineage a").count() == 120
    assert "The first 200 of 1\u202f020" in await page.inner_text("main")
    await require_fit(page, 1280)
    await page.fill("input[name=of]", "workflow/w75")
    await page.click("button:has-text('Show')")
    await page.wait_for_selector("h2:has-text('workflow/w75')")
    assert await page.locator("svg.lineage a").count() == 51
