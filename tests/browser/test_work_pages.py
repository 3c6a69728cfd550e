"""The pages about work in Chromium: they are read by axe-core, fit a phone, go by keyboard, and show markup in names as
text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.browser.conftest import (
    require_accessible,
    require_fit,
    require_sound,
    signed_in,
)
from tests.contract.catalog.test_datasets import dataset
from tests.contract.catalog.test_models import version
from tests.harness import fakes
from tests.harness.gated_project import MODEL_NAME, GatedProject
from tests.integration.gateway.conftest import Running
from tests.integration.gateway.test_work_pages import HOSTILE, answered, failed_run, ordered
from tests.integration.services.test_gate_runs import REPLIES, SOUND, UNGATED, obeys
from tests.unit.operations.chaos.test_report import AWAY, BEGIN, END

from antiphon.catalog.learning.datasets import Datasets, DatasetSource
from antiphon.catalog.learning.models import ModelVersions
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import Principal
from antiphon.operations.chaos.journal import Journal
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


async def test_datasets_lead_to_their_sources_and_models(page: Page, running: Running, project: GatedProject) -> None:
    sources = (DatasetSource(HOSTILE, "file", "ab" * 32, 12),)
    Datasets(project.store.database).add(dataset("data_1", scope=project.scope, sources=sources))
    ModelVersions(project.store.database).add(version(1, scope=project.scope))
    await page.goto(running.url + "/datasets")
    assert HOSTILE in await page.inner_text("tbody")
    await require_sound(page, "datasets")
    await page.locator("tbody th a").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_selector("h2:has-text('What used it')")
    assert HOSTILE in await page.inner_text("main")
    await require_sound(page, "dataset")
    await page.click("text=desk.v1")
    await page.wait_for_url("**/models/desk.v1")


async def test_a_key_is_revoked_by_keyboard_and_tenants_show_their_budgets(
    page: Page, running: Running, project: GatedProject
) -> None:
    issued = Keys(project.store.database, project.store.secret("server"))
    _, record = issued.create("default", "till", "service")
    ProjectBudgets(project.store, project.scope).set(
        "whole", BudgetTerms("250", "tenant", "", "month"), reason="the plan", by=Principal("ada", "default", "admin")
    )
    await page.goto(running.url + "/keys")
    await require_sound(page, "keys")
    row = page.locator(f"tr#{record.id}")
    await row.locator("summary").focus()
    await page.keyboard.press("Enter")
    await row.locator("input[name=reason]").fill("it leaked")
    await row.locator("button").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_selector(f"tr#{record.id} >> text=revoked")
    assert issued.get("default", record.id).revoked_at is not None
    await page.goto(running.url + "/tenants")
    assert "whole: 0.000000 of 250.000000 a month" in await page.inner_text("main")
    await require_sound(page, "tenants")


async def test_chaos_runs_lead_to_their_reports(page: Page, running: Running, project: GatedProject) -> None:
    folder = project.store.paths.directory / "chaos/chaos_1"
    folder.mkdir(parents=True)
    for event in (*BEGIN, *AWAY, *END):
        Journal(folder).append(event)
    (project.folder / "chaos").mkdir()
    (project.folder / "chaos/mine.json").write_text(f'{{"title": "{HOSTILE}"}}')
    await page.goto(running.url + "/chaos")
    await require_sound(page, "chaos")
    await page.locator("tbody th a").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_selector("h1:has-text('Chaos run')")
    assert "Of 20 questions 18 were answered" in await page.inner_text("main")
    await require_sound(page, "chaos_run")


async def test_processes_are_listed_with_their_load(page: Page, running: Running, project: GatedProject) -> None:
    ProcessLeases(project.store.database, "dev").acquire(f"worker/default/{HOSTILE}", "far/boot/ns/13/35", 60)
    await page.goto(running.url + "/")
    await page.wait_for_selector("#latency canvas")
    assert HOSTILE in await page.inner_text("section:has(h2:text('Processes'))")
    await require_accessible(page)
    await require_fit(page, 360)
