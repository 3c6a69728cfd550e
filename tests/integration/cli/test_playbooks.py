"""``antiphon playbooks`` over a platform that runs: a refresh that failed is mended without a person, also by a worker
that is killed half-way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from tests.harness.ports import free_port
from tests.integration.cli.conftest import Run, Up, run_in

BY = "playbook:rerun-refresh"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = run_in(tmp_path)("init", "tri", "--blueprint", "triage", "--port", str(free_port()), "--json")
    assert made.code == 0, made.err
    found = tmp_path / "tri"
    settings = found / "antiphon.toml"
    settings.write_text(settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"'))
    return found


def until(read: Callable[[], Any], condition: Callable[[Any], bool], seconds: float, what: str) -> Any:
    end = monotonic() + seconds
    while not condition(found := read()):
        assert monotonic() < end, f"{what}: {found}"
        sleep(0.5)
    return found


def runs(antiphon: Run) -> Any:
    return antiphon("playbooks", "runs", "--playbook", "rerun-refresh", "--json").json()


def test_a_refresh_that_failed_is_mended_without_a_person(project: Path) -> None:
    antiphon = run_in(project)
    up = Up(project)
    try:
        up.until(lambda told: any(one.get("event") == "up" for one in told))
        listed = {one["playbook"]["name"]: one for one in antiphon("playbooks", "list", "--json").json()}
        assert not listed["rerun-refresh"]["alone"]
        assert "It would have acted in 0 of 0 incidents" in antiphon("playbooks", "test", "rerun-refresh").out
        assert antiphon("playbooks", "allow", "rerun-refresh", "--reason", "seen to work", "--json").json()["alone"]
        assert antiphon("features", "refresh", "tickets", "--wait").code == 0

        (project / "tickets.csv").rename(project / "away.csv")
        refresh = antiphon("features", "refresh", "tickets", "--json").json()
        (met,) = until(lambda: runs(antiphon), bool, 60, "no playbook met the incident")
        assert (met["state"], met["decided_by"]) == ("ordered", BY)
        (planned,) = met["plan"]
        assert planned["target"] in json.dumps(refresh)
        os.kill(json.loads((project / ".antiphon" / "run" / "worker.pid").read_text())["pid"], signal.SIGKILL)
        (project / "away.csv").rename(project / "tickets.csv")
        mended = until(lambda: runs(antiphon)[0], lambda one: one["state"] not in ("ordered",), 120, "it goes on")
        assert mended["state"] == "done", mended["problem"]
        assert [one["action"] for one in mended["outcomes"]] == ["rerun-refresh"]
        again = mended["outcomes"][0]["sentence"].rpartition(" ")[2].rstrip(".")
        assert antiphon("runs", "show", again, "--json").json()["run"]["status"] == "succeeded"

        incident = until(
            lambda: antiphon("incidents", "show", met["incident"], "--json").json(),
            lambda one: one["state"] in ("mitigated", "resolved"), 120, "it is not mitigated",
        )  # fmt: skip
        assert not incident["owner"]
        said = [one for one in incident["timeline"] if one["kind"] == "playbook"]
        assert {one["principal"] for one in said} == {BY}
        assert antiphon("playbooks", "run", "rerun-refresh", met["incident"], "--reason", "again").code != 0
        assert antiphon("playbooks", "run", "freeze-batch", met["incident"], "--dry-run").code != 0
    finally:
        assert up.stop() == 0
