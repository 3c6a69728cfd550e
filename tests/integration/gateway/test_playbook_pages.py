"""The page *Playbooks* and the playbooks of an incident's page: read by everybody, decided by those who may."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager

import httpx2
import pytest
from tests.harness.gateway_client import sign_in

from antiphon.catalog.incidents import Incident, IncidentEvidence, Incidents, IncidentSymptom, RootCause
from antiphon.catalog.playbooks import PlannedStep, PlaybookRun, PlaybookRuns
from antiphon.core.scope import Scope
from antiphon.definitions.playbooks import PlaybookStep

SCOPE = Scope("default", "dev")
RUN = "inc_1.roll-back-release"


@pytest.fixture(autouse=True)
def incident(database):
    at = database.clock.now()
    evidence = IncidentEvidence("application/desk", "traffic", "More <b>traffic</b>.", at)
    found = Incident(
        "inc_1", "open", "warning", "overload", "application/desk: more traffic", at, at,
        (RootCause("application/desk", "overload", (evidence,)),),
        (IncidentSymptom("traffic", "application/desk", at, evidence),), applications=("desk",),
    )  # fmt: skip
    plan = (PlannedStep(1, PlaybookStep("roll-back-release"), "desk"),)
    run = PlaybookRun(RUN, "roll-back-release", "inc_1", "waiting", plan, "More <b>traffic</b>.", at, at)
    with database.transaction() as connection:
        Incidents(database).put(SCOPE, found, within=connection)
        PlaybookRuns(database).put(SCOPE, run, within=connection)


@asynccontextmanager
async def signed_in(running, key):
    async with httpx2.AsyncClient(base_url=running.url, timeout=10) as browser:
        await sign_in(browser, key)
        yield browser


def token(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    return found[1]


async def post(browser: httpx2.AsyncClient, page: str, **form: str) -> httpx2.Response:
    headers = {"Origin": str(browser.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    return await browser.post("/playbooks", data={"csrf": token(page), **form}, headers=headers)


async def test_a_viewer_reads_and_decides_nothing(running, keys, database) -> None:
    async with signed_in(running, keys["viewer"]) as browser:
        page = (await browser.get("/playbooks")).text
        assert "Roll back a release that users suffer from" in page
        assert "More &lt;b&gt;traffic" in page
        assert "Approve" not in page
        one = (await browser.get("/incidents/inc_1")).text
        assert "Fitting: Freeze batch work while users wait." in one
        refused = await post(browser, page, act="approve", run=RUN, reason="let me")
        assert refused.status_code == 403
    assert PlaybookRuns(database).get(SCOPE, RUN).state == "waiting"


async def test_an_engineer_approves_rejects_and_begins_with_a_reason(running, keys, database) -> None:
    async with signed_in(running, keys["engineer"]) as browser:
        page = (await browser.get("/playbooks")).text
        without = await post(browser, page, act="reject", run=RUN, reason=" ")
        assert "The reason is empty" in without.text
        assert (await post(browser, page, act="reject", run=RUN, reason="a load test")).status_code == 303
        rejected = PlaybookRuns(database).get(SCOPE, RUN)
        assert (rejected.state, rejected.decided_by, rejected.reason) == ("rejected", "the-engineer", "a load test")
        begun = await post(browser, page, act="run", playbook="freeze-batch", incident="inc_1", reason="users wait")
        assert begun.status_code == 303
        assert PlaybookRuns(database).get(SCOPE, "inc_1.freeze-batch").state == "ordered"
        again = await post(browser, page, act="approve", run=RUN, reason="no, do it")
        assert again.status_code == 422
        assert f"The run {RUN} is rejected." in again.text
        one = (await browser.get("/incidents/inc_1")).text
        assert "was rejected: a load test" in one


async def test_a_rotation_of_a_key_is_an_administrators(running, keys, database) -> None:
    at, run = database.clock.now(), "inc_1.rotate-key"
    plan = (PlannedStep(1, PlaybookStep("rotate-key"), "key_1"),)
    with database.transaction() as connection:
        found = PlaybookRun(run, "rotate-key", "inc_1", "waiting", plan, "Denials.", at, at)
        PlaybookRuns(database).put(SCOPE, found, within=connection)
    async with signed_in(running, keys["engineer"]) as browser:
        page = (await browser.get("/playbooks")).text
        assert (await post(browser, page, act="approve", run=run, reason="let me")).status_code == 403
        assert PlaybookRuns(database).get(SCOPE, run).state == "waiting"
    async with signed_in(running, keys["admin"]) as browser:
        page = (await browser.get("/playbooks")).text
        assert (await post(browser, page, act="approve", run=run, reason="it leaked")).status_code == 303
    assert PlaybookRuns(database).get(SCOPE, run).state == "ordered"


async def test_the_same_over_http(running, keys) -> None:
    headers = {"Authorization": f"Bearer {keys['admin']}"}
    async with httpx2.AsyncClient(base_url=running.url, timeout=10, headers=headers) as client:
        lines = (await client.get("/admin/playbooks")).json()["playbooks"]
        assert {one["playbook"]["name"]: one["alone"] for one in lines}["page-person"]
        rehearsed = (await client.get("/admin/playbooks/freeze-batch/rehearsal/inc_1")).json()
        assert (rehearsed["steps"], rehearsed["hindrances"]) == (["1 freeze"], [""])
        assert (await client.get("/admin/playbooks/roll-back-release/rehearsal/inc_1")).status_code == 422
        said = {"reason": "seen to work"}
        assert (await client.post("/admin/playbooks/freeze-batch/permission", json=said)).json()["alone"]
        assert (await client.get("/admin/playbooks/freeze-batch")).json()["alone"]
        assert (await client.get("/admin/playbooks/freeze-batch/backtest")).json()["incidents"] == 0
        assert (await client.post(f"/admin/playbook-runs/{RUN}/approve", json=said)).json()["state"] == "ordered"
        runs = (await client.get("/admin/playbook-runs", params={"incident": "inc_1"})).json()["runs"]
        assert [one["id"] for one in runs] == [RUN]
        assert (await client.get("/admin/playbooks/gone")).status_code == 404
