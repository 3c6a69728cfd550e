"""An engine of a running platform is drained, by a person and by a playbook whose worker is killed half-way and
which another one comes after."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.harness.ports import free_port
from tests.integration.cli.conftest import Run, Up, run_in
from tests.integration.cli.test_playbooks import until

from antiphon.catalog.incidents import Incident, IncidentEvidence, IncidentSymptom, RootCause
from antiphon.services.project.store import open_store

SPARE = """
from antiphon import Playbook, PlaybookStep

Playbook("spare", [PlaybookStep("drain-engine", only_if=())], roots=["engine"], signals=["pace"])
Playbook(
    "tell", [PlaybookStep("page", only_if=())], roots=["engine"], signals=["pace"], mode="alone", after="spare",
    once="mended",
)
Playbook(
    "stored", [PlaybookStep("serve-precomputed", only_if=(), wait="2s")], roots=["application"], signals=["slow"],
)
Playbook(
    "fewer", [PlaybookStep("limit-batch", only_if=(), wait="2s", slots=2)], roots=["engine"], signals=["pace"],
)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = run_in(tmp_path)("init", "tri", "--blueprint", "triage", "--port", str(free_port()), "--json")
    assert made.code == 0, made.err
    found = tmp_path / "tri"
    settings = found / "antiphon.toml"
    text = settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"\njoin = true')
    settings.write_text(text + "\n[processes]\nengines = 2\n")
    definitions = found / "definitions.py"
    definitions.write_text(definitions.read_text() + SPARE)
    return found


def drained(antiphon: Run) -> dict[str, str]:
    """Who drains which engine."""
    listed = antiphon("engines", "list", "--json").json()
    return {one["name"].partition("@")[0]: one["drain"]["principal"] for one in listed if one["drain"]}


def open_incident(project: Path, name: str, component: str, signal: str) -> None:
    """An incident of one cause, as the watch opens it."""
    now = datetime.now(UTC)
    with open_store(project) as store:
        evidence = IncidentEvidence(component, signal, f"{component} is slow.", now)
        incident = Incident(
            name, "open", "warning", "infrastructure", f"{component} is slow", now, now,
            (RootCause(component, "infrastructure", (evidence,)),),
            (IncidentSymptom(signal, component, now, evidence),),
        )  # fmt: skip
        with store.database.transaction() as connection:
            store.incidents.put(store.scope, incident, within=connection)


def kill_worker(project: Path) -> None:
    os.kill(json.loads((project / ".antiphon" / "run" / "worker.pid").read_text())["pid"], signal.SIGKILL)


def answers_from_store(antiphon: Run, project: Path) -> None:
    """Have the application answer from store alone by a playbook whose worker is killed, until the incident is over."""
    known, new = (("ask", "triage", question, "-e", "customer=acme") for question in ("Our shop is down.", "And now?"))
    open_incident(project, "inc_users", "application/triage", "slow")
    assert antiphon("playbooks", "run", "stored", "inc_users", "--reason", "users wait").code == 0
    kill_worker(project)
    runs = ("playbooks", "runs", "--playbook", "stored", "--json")
    until(lambda: antiphon(*runs).json()[0]["state"], lambda state: state == "done", 60, "it goes on")
    (mode,) = antiphon("precomputed", "list", "--json").json()
    assert (mode["application"], mode["principal"]) == ("triage", "playbook:stored")
    assert antiphon(*known).code == 0
    refused = antiphon(*new)
    assert (refused.code, "answers from store alone until" in refused.err) == (6, True)
    assert antiphon("precomputed", "begin", "triage", "--reason", "mine").code != 0
    assert antiphon("incidents", "resolve", "inc_users", "--reason", "they do not wait").code == 0
    until(lambda: antiphon("precomputed", "list", "--json").json(), lambda found: not found, 60, "it lasts")
    assert antiphon(*new).code == 0
    begun = antiphon("precomputed", "begin", "triage", "--reason", "an update", "--for", "10m", "--json")
    assert begun.json()["application"] == "triage"
    assert "answers as ever" in antiphon("precomputed", "end", "triage", "--reason", "done").out


def test_an_engine_is_drained_and_comes_back(project: Path) -> None:
    antiphon = run_in(project)
    up = Up(project)
    try:
        up.until(lambda told: any(one.get("event") == "up" for one in told))
        until(lambda: antiphon("engines", "list", "--json").json(), lambda found: len(found) == 2, 30, "they join")
        assert antiphon("features", "refresh", "tickets", "--wait").code == 0
        assert antiphon("engines", "drain", "engine", "--reason", "an update", "--for", "10m").code == 0
        assert antiphon("engines", "drain", "engine-2", "--reason", "too").code != 0
        assert "drained" in until(lambda: antiphon("status").out, lambda said: "drained" in said, 10, "it is shown")
        assert antiphon("ask", "triage", "Our shop is down.", "-e", "customer=acme").code == 0
        assert antiphon("engines", "resume", "engine", "--reason", "done").code == 0
        assert drained(antiphon) == {}

        open_incident(project, "inc_slow", "engine/engine-2", "pace")
        early = antiphon("playbooks", "run", "tell", "inc_slow", "--reason", "now")
        assert "The turn of tell is after spare, once it has done its steps" in early.err
        assert "turn: after spare, once it has done its steps" in antiphon("playbooks", "show", "tell").out
        begun = antiphon("playbooks", "run", "spare", "inc_slow", "--reason", "it is slow", "--json")
        assert begun.code == 0, begun.err
        until(lambda: drained(antiphon), bool, 60, "it is not drained")
        kill_worker(project)
        runs = ("playbooks", "runs", "--playbook", "spare", "--json")
        run = until(lambda: antiphon(*runs).json()[0], lambda one: one["state"] not in ("ordered",), 120, "it goes on")
        assert run["state"] == "done", run["problem"]
        assert [one["action"] for one in run["outcomes"]] == ["drain-engine"]
        assert "and nothing is in it" in run["outcomes"][0]["sentence"]
        assert drained(antiphon) == {"engine-2": "playbook:spare"}
        told = ("playbooks", "runs", "--playbook", "tell", "--json")
        until(lambda: antiphon(*told).json(), lambda found: found and found[0]["state"] == "done", 60, "it goes on")

        limited = ("playbooks", "runs", "--playbook", "fewer", "--json")
        assert antiphon("playbooks", "run", "fewer", "inc_slow", "--reason", "users wait").code == 0
        kill_worker(project)
        until(lambda: antiphon(*limited).json()[0]["state"], lambda state: state == "done", 60, "it goes on")
        (limit,) = antiphon("freeze", "list", "--json").json()
        assert (limit["kind"], limit["slots"], limit["principal"]) == ("limit", 2, "playbook:fewer")
        mine = ("--reason", "mine", "--for", "1h", "--work", "batch", "--slots", "1")
        own = antiphon("freeze", "begin", *mine, "--json")
        assert (own.json()["kind"], own.json()["slots"]) == ("limit", 1)
        assert antiphon("freeze", "end", own.json()["id"]).code == 0

        answers_from_store(antiphon, project)

        assert antiphon("incidents", "resolve", "inc_slow", "--reason", "it is quick again").code == 0
        until(lambda: antiphon(*runs).json()[0]["state"], lambda state: state == "ended", 60, "it is not undone")
        assert drained(antiphon) == {}
        until(lambda: antiphon("freeze", "list", "--json").json(), lambda found: not found, 60, "the limit lasts")
        acts = [
            (one["principal"], one["action"])
            for one in antiphon("audit", "query", "--json", "--limit", "1000").json()
            if one["action"].startswith("engine.")
        ]
        assert [act for by, act in acts if by == "playbook:spare"] in (
            ["engine.drain", "engine.resume"], ["engine.resume", "engine.drain"],
        )  # fmt: skip
    finally:
        assert up.stop() == 0
