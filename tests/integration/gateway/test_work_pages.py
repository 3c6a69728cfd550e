"""The pages *Batch* and of one run, without a browser: each figure is the catalog's, and what is pressed is what the
command line does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx2
import msgspec
import pytest
import sqlalchemy as sa
from tests.harness.gated_project import MODEL_NAME, GatedProject
from tests.harness.gateway_client import gateway_client
from tests.integration.services.test_gate_runs import REPLIES, SOUND, UNGATED, obeys
from tests.unit.catalog.examples import NOON

from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.catalog import schema
from antiphon.catalog.batch.jobs import BatchJob, JobRow
from antiphon.catalog.ledger import Ledger, MeteredUsage
from antiphon.catalog.measurements import Amount, MeasurementRows, Measurements, Series
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.settings_costs import EnergySettings
from antiphon.durable.run import StepRecord, step_row
from antiphon.gateway.services import GatewayServices
from antiphon.governance.audit.log import AuditFilter
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principals import Role
from antiphon.operations.cost.energy import WattHours
from antiphon.operations.processes import ProcessIdentity, ProcessRecord, write_record
from antiphon.services.conducting.schedules import ProjectSchedules
from antiphon.services.cost.costs import ProjectCosts

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[GatedProject]:
    made = GatedProject(tmp_path, obeys)
    made.apply(REPLIES.format(model=MODEL_NAME, system=SOUND, more=UNGATED))
    yield made
    await made.close()


def key(project: GatedProject, role: Role) -> str:
    return Keys(project.store.database, project.store.secret("server")).create("default", f"the-{role}", role)[0]


@pytest.fixture
def services(project: GatedProject) -> GatewayServices:
    return project.wired.gateway_services()


@pytest.fixture
async def browser(project: GatedProject, services: GatewayServices) -> AsyncIterator[httpx2.AsyncClient]:
    async with gateway_client(services, key(project, "engineer"), page=True) as client:
        yield client


def ordered(project: GatedProject, name: str = "", principal: str = "ada") -> tuple[BatchJob, str]:
    """A job with its run, as an order records them."""
    live = project.live("replies")
    job = project.store.jobs.create(
        project.scope, application="replies", release=None if live is None else live.id, input="in.jsonl",
        output="out.jsonl", principal=principal, total=4, job=name or None,
    )  # fmt: skip
    return job, project.store.runs.submit(project.scope, TABLE_JOB, {"job": job.id}, f"{TABLE_JOB}:{job.id}")


def answered(project: GatedProject, job: str) -> None:
    """Two rows, one of which failed, and what they were charged."""
    epoch = project.store.jobs.take_over(project.scope, job)
    rows = [
        JobRow(0, {"question": "When?", "answer_prediction": "pred_1", "answer_text": "Soon.", "answer_error": None}),
        JobRow(1, {"question": "Who?", "answer_error": f"guard_refused: {HOSTILE}"}, failed=True),
    ]
    project.store.jobs.write_rows(project.scope, job, epoch, rows)
    with project.store.database.transaction():
        Ledger(project.store.database).add_with_commit(
            project.scope, [MeteredUsage("engine", 3_600_000_000, application="replies", path="batch", work=job)]
        )


async def press(client: httpx2.AsyncClient, path: str, **form: str) -> httpx2.Response:
    token = re.search(r'name="csrf" value="([^"]+)"', (await client.get(path)).text)
    assert token is not None
    headers = {"sec-fetch-site": "same-origin"}
    return await client.post(path, data={"csrf": token[1], **form}, headers=headers)


async def test_a_job_is_listed_with_its_progress_principal_cost_and_why_it_waits(
    project: GatedProject, browser: httpx2.AsyncClient
) -> None:
    assert "No batch job yet." in (await browser.get("/batch")).text
    job, run = ordered(project, principal=HOSTILE)
    answered(project, job.id)
    schedules = ProjectSchedules(project.store, project.scope)
    until = project.store.database.clock.now() + timedelta(hours=2)
    schedules.freeze("ada", "the launch", until, ("batch",))
    listed = (await browser.get("/batch")).text
    waits = project.store.runs.get(project.scope, run)
    assert waits.status == "queued"
    for part in ("2 / 4", "1 failed", "by a freeze by ada: the launch", f"{until:%Y-%m-%d %H:%M:%S}"):
        assert part in listed, part
    assert HOSTILE not in listed
    assert "&lt;img src=x" in listed
    (cost,) = re.findall(rf'work={job.id}">([\d.]+)', listed)
    page = (await browser.get(f"/cost?by=resource&work={job.id}")).text
    assert f'<th scope="row">engine</th><td class="right">{cost}</td>' in page
    assert float(cost) > 0


async def test_energy_is_told_as_an_interval_where_power_is_declared(
    project: GatedProject, browser: httpx2.AsyncClient
) -> None:
    store = project.store
    job, _ = ordered(project)
    answered(project, job.id)
    with store.database.transaction():
        measured = [MeteredUsage("engine_measured", 7_200_000_000, engine="main")]
        measured.append(MeteredUsage("training_processor", 7_200_000_000, role="train", work="run_1"))
        store.ledger.add_with_commit(project.scope, measured[1:])
        store.ledger.add_shared_with_commit(project.scope.environment, measured[:1])
    assert "Wh" not in (await browser.get("/cost?by=resource")).text
    declared = EnergySettings(core_watts=(3.0, 12.5), source=HOSTILE)
    store.settings = msgspec.structs.replace(store.settings, energy=declared)
    page = (await browser.get("/cost?by=resource")).text
    assert "Energy: 6.000 to 25.000 Wh. This is an estimate from training_processor" in page
    assert '<td class="right">6.000 to 25.000</td></tr>' in page
    assert HOSTILE not in page
    costs = ProjectCosts(store, project.scope)
    (line,) = [one for one in costs.summary(("work",)).lines if one.group["work"] == "run_1"]
    assert line.energy == WattHours(6.0, 25.0)


async def test_the_rows_of_a_job_lead_to_their_predictions_and_those_that_failed_are_found(
    project: GatedProject, browser: httpx2.AsyncClient
) -> None:
    job, run = ordered(project)
    answered(project, job.id)
    page = (await browser.get(f"/batch/{job.id}")).text
    assert '<a href="/requests/pred_1">' in page
    assert f'<a href="/runs/{run}">' in page
    failed = (await browser.get(f"/batch/{job.id}?rows=failed")).text
    assert "guard_refused: &lt;img" in failed
    assert "pred_1" not in failed
    assert (await browser.get(f"/batch/{job.id}?rows=odd")).status_code == 400
    assert (await browser.get(f"/batch/{job.id}?after=x")).status_code == 400
    assert (await browser.get("/batch/job_none")).status_code == 404


async def test_jobs_are_paged_and_none_is_shown_twice(project: GatedProject, browser: httpx2.AsyncClient) -> None:
    made = {ordered(project, f"job_{number:02}")[0].id for number in range(23)}
    first = (await browser.get("/batch")).text
    older = re.search(r'href="(/batch\?before=[^"]+)"', first)
    assert older is not None
    second = (await browser.get(older[1])).text
    seen = [re.findall(r'<tr id="(job_\d+)"', page) for page in (first, second)]
    assert [len(one) for one in seen] == [20, 3]
    assert set(seen[0] + seen[1]) == made


async def test_a_job_is_canceled_for_a_reason_by_those_who_may_and_it_is_on_record(
    project: GatedProject, browser: httpx2.AsyncClient
) -> None:
    job, run = ordered(project)
    refused = await press(browser, f"/batch/{job.id}", act="cancel", reason=" ")
    assert refused.status_code == 400
    assert "There is no reason." in refused.text
    assert project.store.jobs.get(project.scope, job.id).status == "queued"
    assert (await press(browser, f"/batch/{job.id}", act="cancel", reason="wrong file")).status_code == 303
    assert project.store.jobs.get(project.scope, job.id).status == "cancelled"
    (entry,) = project.store.audit.query(project.scope, AuditFilter(action="run.cancel"))
    assert (entry.subject, entry.detail["reason"]) == (run, "wrong file")
    assert "Manual actions" not in (await browser.get(f"/batch/{job.id}")).text


async def test_who_asked_through_a_service_to_cancel_is_on_record(
    project: GatedProject, services: GatewayServices
) -> None:
    _, run = ordered(project, principal="the-service")
    async with gateway_client(services, key(project, "service"), page=False) as client:
        canceled = await client.post(f"/admin/runs/{run}/cancel", headers={"X-Antiphon-User": "grace"})
    assert canceled.status_code == 200, canceled.text
    (entry,) = project.store.audit.query(project.scope, AuditFilter(action="run.cancel"))
    assert (entry.principal, entry.originator) == ("the-service", "grace")


def failed_run(project: GatedProject) -> str:
    """A run that failed at its second step, after a hundred and more that ended."""
    store, scope = project.store, project.scope
    job, run = ordered(project)
    now = store.database.clock.now() - timedelta(seconds=300)
    with store.database.transaction() as connection:
        for number in range(230):
            at = now + timedelta(seconds=number)
            record = StepRecord("rows", number, 1, {"secret": "s3cret"}, at, at + timedelta(seconds=1))
            connection.execute(sa.insert(schema.steps).values(step_row(store.database, scope, run, record)))
        values = {
            "status": "failed",
            "under_way": '[{"name": "publish", "occurrence": 0, "transactional": false}]',
            "note": HOSTILE,
        }
        connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run).values(values))
    store.jobs.set_status(scope, job.id, "failed")
    return run


async def test_a_run_shows_its_last_steps_and_is_retried_or_gone_on_with(
    project: GatedProject, browser: httpx2.AsyncClient
) -> None:
    run = failed_run(project)
    page = (await browser.get(f"/runs/{run}")).text
    assert "the last 200 of 230 done" in page
    assert page.count('<th scope="row">rows') == 200
    assert "It failed at publish." in page
    assert "s3cret" not in page, "results of steps are no part of the page"
    assert HOSTILE not in page
    wrong = await press(browser, f"/runs/{run}", act="skip", step="publish", result="{", reason="known")
    assert wrong.status_code == 400
    assert "The result is no JSON" in wrong.text
    assert (await press(browser, f"/runs/{run}", act="retry", reason="")).status_code == 400
    done = await press(browser, f"/runs/{run}", act="skip", step="publish", result="null", reason="known")
    assert (done.status_code, done.headers["location"]) == (303, f"/runs/{run}")
    assert project.store.runs.get(project.scope, run).status == "queued"
    page = (await browser.get(f"/runs/{run}")).text
    assert "by hand: the-engineer" in page
    for act, shown in (("pause", "paused by the-engineer"), ("resume", "Pause this run"), ("cancel", "cancelled")):
        assert (await press(browser, f"/runs/{run}", act=act, reason="stop")).status_code == 303
        assert shown in (await browser.get(f"/runs/{run}")).text
    assert (await browser.get("/runs/run_none")).status_code == 404
    actions = [one.action for one in project.store.audit.query(project.scope, AuditFilter(subject=run))]
    assert actions == ["run.cancel", "run.resume", "run.pause", "run.skip"]


async def test_who_may_not_order_a_run_has_no_button_and_moves_nothing(
    project: GatedProject, services: GatewayServices
) -> None:
    run, (job, _) = failed_run(project), ordered(project)
    async with gateway_client(services, key(project, "viewer"), page=True) as viewer:
        assert "Manual actions" not in (await viewer.get(f"/runs/{run}")).text
        for act in ("retry", "skip", "pause", "cancel"):
            said = await press(viewer, f"/runs/{run}", act=act, reason="x", step="publish", result="null")
            assert said.status_code == 403, act
        assert (await press(viewer, f"/runs/{run}", act="resume")).status_code == 403
        assert "Manual actions" not in (await viewer.get(f"/batch/{job.id}")).text
        assert (await press(viewer, f"/batch/{job.id}", act="cancel", reason="x")).status_code == 403
    assert project.store.runs.get(project.scope, run).status == "failed"
    assert project.store.jobs.get(project.scope, job.id).status == "queued"


async def test_all_processes_are_listed_also_those_of_other_machines_with_age_and_load(
    project: GatedProject, browser: httpx2.AsyncClient
) -> None:
    leases = ProcessLeases(project.store.database, "dev")
    leases.acquire("gateway/far", "far/boot/ns/12/34", 60)
    leases.acquire("worker/default/gpu@far", "far/boot/ns/13/35", 60)
    leases.acquire("worker/other/theirs", "far/boot/ns/14/36", 60)
    own = ProcessIdentity.own()
    project.store.paths.run.mkdir(parents=True, exist_ok=True)
    write_record(project.store.paths.run, ProcessRecord("gateway", own.pid, own.started_ticks, NOON, boot=own.boot))
    leases.acquire("gateway/here", str(own), 60)
    page = (await browser.get("/dashboard/figures")).text
    assert page.count('<span class="soft">elsewhere</span>') == 2
    assert "worker gpu@far" in page
    assert "theirs" not in page
    assert "engine elsewhere" in page
    assert "of a core" in page


async def test_runs_lie_beside_the_online_requests_of_their_hour(
    project: GatedProject, browser: httpx2.AsyncClient
) -> None:
    now, run = project.store.database.clock.now(), failed_run(project)
    at = now - timedelta(minutes=61)
    with project.store.database.transaction() as connection:
        values = {"started_at": at, "ended_at": at + timedelta(minutes=5)}
        connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run).values(values))
    requests: Series = ("antiphon_requests", ("replies", "online", "200", ""))
    for past in (at, now - timedelta(hours=40)):
        MeasurementRows(project.store.database, "dev").append(
            f"gateway {past}", past, {"default": Measurements({requests: Amount(7.0)})}
        )
    page = (await browser.get("/schedules?span=6h")).text
    hour = f"{at.replace(minute=0, second=0):%Y-%m-%d %H:%M:%S}"
    row = page[page.index(f'<th scope="row" class="when">{hour}') :].split("</tr>")[0]
    assert '<td class="right">7</td>' in row
    assert f'<a href="/runs/{run}">' in row
    assert "7 measured" in page
    assert "14 measured" in (await browser.get("/schedules?span=3d")).text
    assert (await browser.get("/schedules?span=forever")).status_code == 400
