"""Incidents, runs of playbooks and notifications name no application that policy keeps from the reader: over HTTP, in
reports, on pages, in the status."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx2
import msgspec
import pytest
from tests.harness.gateway_client import gateway_client

from antiphon.catalog.database import Database
from antiphon.catalog.incidents import Incident, IncidentEvidence, Incidents, IncidentSymptom, RootCause, TimelineEntry
from antiphon.catalog.notifications import Notification, Notifications
from antiphon.catalog.playbooks import PlannedStep, PlaybookRun, PlaybookRuns, StepOutcome
from antiphon.core.scope import Scope
from antiphon.definitions.playbooks import PlaybookStep
from antiphon.gateway.services import GatewayServices
from antiphon.governance.policy.document import default_document
from antiphon.governance.policy.engine import Decider
from antiphon.services.incidents import readable as readables
from antiphon.services.incidents.readable import ANOTHER

SCOPE = Scope("default", "dev")
SECRET = "merger"
"""The application that the reader may not read."""

ROUTES = (
    "/admin/incidents", "/admin/incidents?all=true", "/admin/incidents?state=open", "/admin/incidents/inc_both",
    "/admin/incidents/inc_both/report", "/admin/status",
)  # fmt: skip
PAGES = ("/incidents", "/incidents/inc_both", "/", "/dashboard/figures")
ACTED_ROUTES = ("/admin/playbook-runs", "/admin/playbook-runs?incident=inc_both", "/admin/notifications")
ACTED_PAGES = ("/playbooks", "/notifications", "/dashboard/notifications")


def incident(database: Database, name: str, *applications: str) -> Incident:
    at = database.clock.now()

    def evidence(one: str) -> IncidentEvidence:
        where = f"application={one},path=online"
        return IncidentEvidence(f"application/{one}", "failed", f"5 % of {one} fail.", at, "antiphon_requests", where)

    release = IncidentEvidence(
        f"release/{SECRET}", "released", f"rel_1 of {SECRET} went live.", at, "", "release/rel_1"
    )
    title = f"release/{SECRET}: rel_1 went live, felt by {', '.join(applications)}"
    return Incident(
        name, "open", "warning", "change", title, at, at,
        (
            RootCause(
                f"release/{SECRET}", "change", (release,),
                tuple((f"release/{SECRET}", f"application/{one}") for one in applications),
            ),
        ),
        tuple(IncidentSymptom("failed", f"application/{one}", at, evidence(one)) for one in applications),
        (f"queue before {SECRET}",), applications, 100.0, 40.0,
        timeline=(
            TimelineEntry(at, "cause", f"release/{SECRET} (change)", component=f"release/{SECRET}", class_="change"),
            TimelineEntry(at, "note", f"ask the owner of {SECRET}", "ben"),
        ),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def recorded(database: Database) -> None:
    at = database.clock.now()
    step = PlannedStep(1, PlaybookStep("roll-back-release"), SECRET)
    done = StepOutcome(1, "roll-back-release", SECRET, at, f"{SECRET} went back from b to a.")
    run = PlaybookRun("inc_both.back", "back", "inc_both", "failed", (step,), "It is bad.", at, at, outcomes=(done,),
                      problem=f"No release of {SECRET} was live before.")  # fmt: skip
    with database.transaction() as connection:
        found = Incidents(database)
        found.put(SCOPE, incident(database, "inc_both", "desk", SECRET), within=connection)
        found.put(SCOPE, incident(database, "inc_own", SECRET), within=connection)
        none = msgspec.structs.replace(incident(database, "inc_none"), title="The disk is full", roots=())
        found.put(SCOPE, none, within=connection)
        PlaybookRuns(database).put(SCOPE, run, within=connection)
        own = msgspec.structs.replace(run, id="inc_own.back", incident="inc_own")
        PlaybookRuns(database).put(SCOPE, own, within=connection)
        told = Notification(
            "incident:inc_both:0:warning", "incident", "warning", "firing", f"release/{SECRET} is bad", at,
            f"{SECRET} fails.", labels={"class": "change"}, link="/incidents/inc_both",
        )  # fmt: skip
        Notifications(database).append(SCOPE, told, within=connection)
        alone = msgspec.structs.replace(told, id="incident:inc_own:0:warning", application=SECRET)
        Notifications(database).append(SCOPE, alone, within=connection)


@pytest.fixture
def hiding(services: GatewayServices, monkeypatch: pytest.MonkeyPatch) -> GatewayServices:
    """Services whose policy keeps the application from readers."""
    policy = (
        '@id("merger") forbid (principal, action == Action::"read", resource)'
        f' when {{ resource.kind == "application" && resource.name == "{SECRET}" }};'
    )
    authorize = Decider(f"{default_document().cedar}\n{policy}").require
    monkeypatch.setitem(services.access.__dict__, "authorize", authorize)
    return services


@pytest.fixture
async def api(hiding: GatewayServices, keys: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    async with gateway_client(hiding, keys["engineer"], page=False) as client:
        yield client


@pytest.fixture
async def pages(hiding: GatewayServices, keys: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    async with gateway_client(hiding, keys["engineer"], page=True) as client:
        yield client


@pytest.mark.parametrize("route", ROUTES)
async def test_no_route_names_it(api: httpx2.AsyncClient, route: str) -> None:
    answer = await api.get(route)
    assert answer.status_code == 200
    assert SECRET not in answer.text
    assert ANOTHER in answer.text
    assert "inc_own" not in answer.text


@pytest.mark.parametrize("page", PAGES)
async def test_no_page_names_it(pages: httpx2.AsyncClient, page: str) -> None:
    answer = await pages.get(page)
    assert answer.status_code == 200
    assert SECRET not in answer.text
    assert ANOTHER in answer.text
    assert "inc_own" not in answer.text


@pytest.mark.parametrize("route", ROUTES)
async def test_the_switch_without_the_filter_routes_name_it(
    api: httpx2.AsyncClient, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readables, "readable", lambda incident, hidden, known: incident)
    assert SECRET in (await api.get(route)).text


@pytest.mark.parametrize("page", PAGES)
async def test_the_switch_without_the_filter_pages_name_it(
    pages: httpx2.AsyncClient, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readables, "readable", lambda incident, hidden, known: incident)
    assert SECRET in (await pages.get(page)).text


@pytest.mark.parametrize("route", ACTED_ROUTES)
async def test_nothing_that_was_done_or_said_names_it(api: httpx2.AsyncClient, route: str) -> None:
    answer = await api.get(route)
    assert answer.status_code == 200
    assert SECRET not in answer.text
    assert ANOTHER in answer.text
    assert "inc_own" not in answer.text


@pytest.mark.parametrize("page", ACTED_PAGES)
async def test_no_page_of_what_was_done_or_said_names_it(pages: httpx2.AsyncClient, page: str) -> None:
    answer = await pages.get(page)
    assert answer.status_code == 200
    assert SECRET not in answer.text
    assert ANOTHER in answer.text
    assert "inc_own" not in answer.text


@pytest.mark.parametrize("route", ACTED_ROUTES)
async def test_the_switch_without_the_filter_they_name_it(
    api: httpx2.AsyncClient, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readables.IncidentReader, "acted", lambda self, run: run)
    monkeypatch.setattr(readables.IncidentReader, "notified", lambda self, one: one)
    assert SECRET in (await api.get(route)).text


@pytest.mark.parametrize("order", ["approve", "reject"])
async def test_a_run_for_a_hidden_incident_cannot_be_decided(
    api: httpx2.AsyncClient, database: Database, order: str
) -> None:
    before = PlaybookRuns(database).get(SCOPE, "inc_own.back")
    answer = await api.post(f"/admin/playbook-runs/inc_own.back/{order}", json={"reason": "mine"})
    assert (answer.status_code, SECRET in answer.text) == (404, False)
    assert PlaybookRuns(database).get(SCOPE, "inc_own.back") == before


async def test_what_is_about_it_alone_is_not_there(
    api: httpx2.AsyncClient, pages: httpx2.AsyncClient, database: Database
) -> None:
    before = Incidents(database).get(SCOPE, "inc_own")
    for path in ("/admin/incidents/inc_own", "/admin/incidents/inc_own/report"):
        assert (await api.get(path)).status_code == 404
    assert (await pages.get("/incidents/inc_own")).status_code == 404
    said = await api.post("/admin/incidents/inc_own/note", json={"text": "mine"})
    assert (said.status_code, SECRET in said.text) == (404, False)
    token = re.search(r'name="csrf" value="([^"]+)"', (await pages.get("/")).text)
    assert token is not None
    form = {"csrf": token[1], "act": "resolve", "text": "mine"}
    pressed = await pages.post("/incidents/inc_own", data=form, headers={"sec-fetch-site": "same-origin"})
    assert pressed.status_code == 404
    assert Incidents(database).get(SCOPE, "inc_own") == before


async def test_counts_stay_and_what_may_be_read_too(api: httpx2.AsyncClient) -> None:
    found = (await api.get("/admin/incidents/inc_both")).json()
    assert found["applications"] == ["desk", ANOTHER]
    assert (found["requests"], found["hit"]) == (100.0, 40.0)
    assert [one["component"] for one in found["symptoms"]] == ["application/desk", ANOTHER]
    assert [one["evidence"]["where"] for one in found["symptoms"]] == ["application=desk,path=online", ""]
    assert found["roots"][0]["paths"] == [[ANOTHER, "application/desk"], [ANOTHER, ANOTHER]]
    listed = (await api.get("/admin/incidents?all=true&limit=2")).json()["incidents"]
    assert len(listed) == 2, "what is hidden makes no page shorter"


async def test_a_move_is_kept_whole_and_told_without_the_name(api: httpx2.AsyncClient, database: Database) -> None:
    moved = await api.post("/admin/incidents/inc_both/note", json={"text": f"it is {SECRET}"})
    assert moved.status_code == 200
    assert SECRET not in moved.text
    kept = Incidents(database).get(SCOPE, "inc_both")
    assert kept.timeline[-1].text == f"it is {SECRET}"
    assert kept.applications == ("desk", SECRET)


async def test_who_may_read_it_sees_all(services: GatewayServices, keys: dict[str, str]) -> None:
    async with gateway_client(services, keys["viewer"], page=False) as client:
        listed = (await client.get("/admin/incidents")).json()["incidents"]
    assert {one["id"] for one in listed} == {"inc_both", "inc_own", "inc_none"}
    assert any(SECRET in one["title"] for one in listed)


def test_a_name_within_another_one_is_told_apart() -> None:
    text = "application/desk, desk-two, desktop and release/desk; the desk's"
    assert readables.without_names(text, {"desk"}, {"desk-two"}) == (
        f"{ANOTHER}, desk-two, desktop and {ANOTHER}; the {ANOTHER}'s"
    )
    assert readables.without_names("desk-errors", {"desk"}) == f"{ANOTHER}-errors"
    assert readables.without_names("a.b c", {"a.b"}) == f"{ANOTHER} c"
