"""The pages about work in the system's Chromium: they are read by axe-core, fit a phone, go by keyboard, and show markup
in names as text."""

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
from tests.integration.gateway.test_work_pages import HOSTILE, answered, failed_run, ordered
from tests.integration.services.test_gate_runs import REPLIES, SOUND, UNGATED, obeys

from antiphon.governance.identity.principal import Principal
from antiphon.services.budgets.project_budgets import BudgetTerms, ProjectBudgets

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture
async def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatedProject]:
    made = GatedProject(tmp_path, obeys)
    monkeypatch.setattr(fakes, "SECRET", made.store.secret("server"))
    made.apply(REPLIES.format(model=MODEL_NAME, system=SOUND, more=UNGATED))
    yield made
    await made.close()


@pytest.fixture
async def page(running: Running, project: GatedProject) -> AsyncIterator[Page]:
    async with signed_in(running, project.store.database, "admin", "/runs", "h1") as opened:
        yield opened


async def require_sound(page: Page, name: str) -> None:
    """Fail unless a page is read by everybody, in both color schemes and from a phone on."""
    await page.wait_for_selector("h1")
    await require_names(page)
    for scheme in ("dark", "light"):
        await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
        await require_contrast(page)
    await require_accessible(page)
    for width in (360, 1280):
        await require_fit(page, width)
    await photograph(page, name)


async def test_batch_jobs_lead_to_their_rows_and_are_canceled_by_keyboard(
    page: Page, running: Running, project: GatedProject
) -> None:
    job, _ = ordered(project, principal=HOSTILE)
    answered(project, job.id)
    requested: list[str] = []
    await page.goto(running.url + "/batch")
    assert HOSTILE in await page.inner_text("tbody")
    await require_sound(page, "batch")
    page.on("request", lambda request: requested.append(request.url))
    await page.locator("tbody a").first.focus()
    await page.keyboard.press("Enter")
    await page.wait_for_selector("h2:has-text('Rows')")
    others = [url for url in requested if "/static/" not in url and "/dashboard/changes" not in url]
    assert len(others) <= 2, others
    await require_sound(page, "batch_job")
    await page.click("nav.choice >> text=failed")
    await page.wait_for_url("**?rows=failed")
    assert HOSTILE in await page.inner_text("tbody")
    assert await page.locator("tbody tr").count() == 1
    await page.locator("summary", has_text="Cancel this job").focus()
    await page.keyboard.press("Enter")
    await page.fill("#reason", "wrong file")
    await page.locator("button[value=cancel]").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_selector("summary", state="detached")
    assert project.store.jobs.get(project.scope, job.id).status == "cancelled"


async def test_jobs_that_begin_are_put_in_and_no_row_disappears(
    page: Page, running: Running, project: GatedProject
) -> None:
    from playwright.async_api import expect

    first, _ = ordered(project)
    await page.goto(running.url + "/batch")
    await expect(page.locator("[data-state]")).to_have_text("Live")
    answered(project, first.id)
    await expect(page.locator("tbody progress")).to_have_attribute("value", "2", timeout=15_000)
    ordered(project)
    await expect(page.locator("tbody tr")).to_have_count(2, timeout=15_000)


async def test_a_run_shows_where_it_failed_and_is_gone_on_with_by_hand(
    page: Page, running: Running, project: GatedProject
) -> None:
    run = failed_run(project)
    await page.goto(running.url + "/runs")
    await page.click(f"tbody a:has-text('{run}')")
    await page.wait_for_selector("text=It failed at publish.")
    assert HOSTILE in await page.inner_text("main")
    await require_sound(page, "run")
    await page.locator("summary", has_text="Skip the step").focus()
    await page.keyboard.press("Enter")
    await page.fill("#reason-skip", "done by hand")
    await page.click("button[value=skip]")
    await page.wait_for_selector("text=by hand")
    assert project.store.runs.get(project.scope, run).status == "queued"


async def test_budgets_are_read_on_the_page_cost_with_what_is_left_of_each(
    page: Page, running: Running, project: GatedProject
) -> None:
    job, _ = ordered(project)
    answered(project, job.id)
    budgets = ProjectBudgets(project.store, project.scope)
    by = Principal("ada", "default", "admin")
    budgets.set("whole", BudgetTerms("0.10", "tenant", "", "month"), reason="the plan", by=by)
    budgets.set("desk", BudgetTerms("250", "application", "replies", "day"), reason="the plan", by=by)
    await page.goto(running.url + "/cost")
    rows = [await row.inner_text() for row in await page.locator("section:has(h2:text('Budgets')) tbody tr").all()]
    assert [row.split("\t")[:3] for row in rows] == [
        ["desk", "application replies", "within"], ["whole", "tenant", "used up"]
    ]  # fmt: skip
    assert "0.100000 a month" in rows[1]
    assert "0.144000" in rows[1]
    await require_sound(page, "cost_budgets")
