"""Notifications of releases that go live, and of drift that begins and ends: once each, and to outsiders little."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.harness.gated_project import GatedProject
from tests.integration.services.notifications.receivers import HttpReceiver, deliver, receiver
from tests.integration.services.test_gate_runs import COMPETITOR, UNGATED, obeys, replies

from antiphon.durable.claims import ServedRuns
from antiphon.learning.outcomes.drift import Drift
from antiphon.learning.outcomes.drift_report import DriftReport
from antiphon.releases.feed import atom
from antiphon.services.changes import release_notes
from antiphon.services.notifications.orders import NotificationOrders
from antiphon.services.notifications.sources import NotificationSources
from antiphon.services.workflows import DRIFT

__all__ = ["receiver"]


@pytest.fixture
async def project(
    tmp_path: Path, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GatedProject]:
    monkeypatch.setenv("TEAM_SECRET", "a secret of this test")
    common = f'kind = "webhook"\nurl = "{receiver.url}"\nsecret_variable = "TEAM_SECRET"\n'
    settings = (
        f"[notifications.team]\n{common}"
        f'[notifications.crowd]\n{common}form = "public"\n'
        f'[notifications.other]\n{common}applications = ["other"]\n'
    )
    made = GatedProject(tmp_path, obeys, settings=settings)
    NotificationOrders(made.store).begin()
    yield made
    await made.close()


async def test_each_release_that_goes_live_is_said_once(project: GatedProject, receiver: HttpReceiver) -> None:
    sources = NotificationSources(project.store)
    assert sources.append_new() == 0
    project.apply(replies(more=UNGATED))
    project.apply(replies(COMPETITOR, UNGATED))
    assert sources.append_new() == 2
    assert NotificationSources(project.store).append_new() == 0, "another worker says nothing twice"
    runs = await deliver(project.store)
    assert [run.status for run in runs] == ["succeeded"] * 4, "two notes for each of two channels"
    said = {headers["webhook-id"]: json.loads(body) for headers, body in receiver.taken}
    assert {event["type"] for event in said.values()} == {"release.live"}
    assert COMPETITOR in json.dumps(said["team:release.live:replies/2:firing"])
    assert said["crowd:release.live:replies/2:firing"]["data"]["title"] == "The instructions of replies changed."
    outside = json.dumps([one for id, one in said.items() if id.startswith("crowd")])
    assert [text for text in (COMPETITOR, "rel_", "ann", "simulated", "ungated") if text in outside] == []


async def test_drift_is_said_when_it_begins_and_when_it_ends(project: GatedProject, receiver: HttpReceiver) -> None:
    project.apply(replies(more=UNGATED))
    store, scope = project.store, project.scope
    sources, now = NotificationSources(store), store.database.clock.now()
    sources.append_new()
    await deliver(store)
    receiver.taken.clear()

    def report(*names: str) -> None:
        texts = tuple(Drift(name, 0.8, 0.55, 200, 200, "shifted", now) for name in names)
        store.runs.submit(scope, DRIFT, {})
        claimed = store.runs.claim("worker", ServedRuns(scope.environment, (DRIFT,)), timedelta(minutes=1))
        assert claimed is not None
        store.runs.end(claimed, {"reports": {"replies": msgspec.to_builtins(DriftReport("replies", now, texts=texts))}})

    report("what is asked")
    assert sources.append_new() == 1
    assert sources.append_new() == 0
    report("what is asked")
    assert sources.append_new() == 0, "a later report that says the same"
    await deliver(store)
    report()
    assert sources.append_new() == 1
    assert sources.append_new() == 0
    await deliver(store)
    events = [json.loads(body) for _, body in receiver.taken]
    assert [(event["type"], event["data"]["state"]) for event in events] == [("drift", "firing"), ("drift", "resolved")]
    assert {event["data"]["title"] for event in events} == {"replies drifts: what is asked"}
    assert len({event["data"]["id"] for event in events}) == 1


def test_notes_of_what_was_never_live_are_an_empty_feed(project: GatedProject) -> None:
    notes = release_notes(project.store).of(project.scope, "replies")
    assert notes == []
    assert b"Changes of replies" in atom(notes, project.scope, "replies", "http://here/")
