"""``antiphon incidents`` over a platform that runs: an engine that is killed is one incident, with its cause."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from tests.harness.ports import free_port
from tests.harness.ungated import declare_ungated
from tests.integration.cli.conftest import Run, Up, run_in


@pytest.fixture
def project(tmp_path: Path) -> Path:
    assert run_in(tmp_path)("init", "mydesk", "--port", str(free_port()), "--json").code == 0
    found = tmp_path / "mydesk"
    settings = found / "antiphon.toml"
    settings.write_text(settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"'))
    declare_ungated(found)
    return found


def until_listed(antiphon: Run, seconds: float) -> list[dict[str, Any]]:
    end = monotonic() + seconds
    while not (found := json.loads(antiphon("incidents", "list", "--json").out)):
        assert monotonic() < end, "no incident was opened"
        sleep(0.5)
    return found


def test_an_engine_that_is_killed_is_one_incident_with_its_cause(project: Path) -> None:
    antiphon = run_in(project)
    up = Up(project)
    try:
        up.until(lambda told: any(one.get("event") == "ready" and one.get("process") == "worker" for one in told))
        assert json.loads(antiphon("incidents", "list", "--json").out) == []
        os.kill(json.loads((project / ".antiphon" / "run" / "engine.pid").read_text())["pid"], signal.SIGKILL)
        (found,) = until_listed(antiphon, 40)
        assert found["class_"] == "infrastructure"
        assert [root["component"] for root in found["roots"]] == ["engine/engine"]
        assert found["roots"][0]["evidence"][0]["record"] == "process/engine"
        taken = json.loads(antiphon("incidents", "acknowledge", found["id"], "--json").out)
        assert (taken["state"], bool(taken["owner"])) in (("acknowledged", True), ("mitigated", True))
        assert "engine ended" in antiphon("incidents", "report", found["id"]).out
        assert found["id"] in antiphon("incidents", "show", found["id"]).out
        noted = antiphon("incidents", "note", found["id"], "seen on the pager", "--json")
        assert json.loads(noted.out)["timeline"][-1]["text"] == "seen on the pager"
        ended = json.loads(antiphon("incidents", "resolve", found["id"], "--reason", "it is back", "--json").out)
        assert ended["state"] == "resolved"
        assert antiphon("incidents", "acknowledge", found["id"]).code != 0
    finally:
        assert up.stop() == 0
