"""A bad release on real processes: what users get of it through the gateway has the worker take it back by itself."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx2
import pytest
from tests.harness.ports import free_port
from tests.harness.ungated import declare_ungated
from tests.integration.cli.conftest import Run, Up, run_in

KEYS = {"desk": ("orders.csv", "shop"), "triage": ("tickets.csv", "customer")}
"""Application to the file and the column that its entities stand in."""
TOO_SHORT = 'slo=SLO(ttft_p99="1ms", latency_p99="10s")'


def new_project(folder: Path, blueprint: str) -> Path:
    made = run_in(folder)("init", "mine", "--blueprint", blueprint, "--port", str(free_port()), "--json")
    assert made.code == 0, made.err
    settings = folder / "mine" / "antiphon.toml"
    settings.write_text(settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"'))
    if blueprint == "desk":
        declare_ungated(folder / "mine")
    else:  # The simulated model writes as much as the schema permits.
        definitions = folder / "mine" / "definitions.py"
        definitions.write_text(definitions.read_text().replace("max_tokens=40", "max_tokens=400"))
    return folder / "mine"


def declare_late(project: Path, application: str) -> None:
    """Declare another release, whose answers are all late by its own service level."""
    definitions = project / "definitions.py"
    text = definitions.read_text().replace('    slo=SLO(ttft_p99="10s", latency_p99="20s"),\n', "")
    text = text.replace('reuse=Reuse("fingerprint")', 'reuse=Reuse("never", identical_prompts=False)')
    text = text.replace(f'    "{application}",\n', f'    "{application}",\n    {TOO_SHORT},\n', 1)
    definitions.write_text(text.replace("    Application,\n", "    Application,\n    SLO,\n", 1))


@contextmanager
def running(project: Path) -> Iterator[Up]:
    up = Up(project)
    try:
        up.until(lambda told: any(line.get("event") == "up" for line in told))
        yield up
    finally:
        up.stop()


def ask(project: Path, port: int, application: str, times: int) -> None:
    key = (project / ".antiphon" / "keys" / "admin.key").read_text().strip()
    file, column = KEYS[application]
    with (project / file).open(newline="") as rows:
        entity = {column: next(csv.DictReader(rows))[column]}
    with httpx2.Client(headers={"authorization": f"Bearer {key}"}, timeout=30) as client:
        for number in range(times):
            asked = [{"role": "user", "content": f"The printer is broken, says number {number}."}]
            body = {"model": application, "entity": entity, "messages": asked}
            answer = client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text


def stages(antiphon: Run, application: str) -> dict[int, str]:
    return {line["number"]: line["stage"] for line in antiphon("releases", "list", application, "--json").json()}


@pytest.mark.parametrize("application", ["desk", "triage"])
def test_a_bad_release_is_rolled_back_without_a_person(application: str, tmp_path: Path) -> None:
    project = new_project(tmp_path, application)
    antiphon = run_in(project)
    with running(project) as up:
        ask(project, up.port, application, 10)
        first = antiphon("releases", "list", application, "--json").json()[0]
        declare_late(project, application)
        assert (applied := antiphon("apply", "--no-activate")).code == 0, applied.err
        second = antiphon("releases", "list", application, "--json").json()[0]
        assert second["release"] != first["release"]
        forced = antiphon(
            "releases", "activate", application, second["release"], "--force", "--reason", "it looks faster"
        )
        assert forced.code == 0, forced.err
        ask(project, up.port, application, 60)
        end = monotonic() + 90
        while stages(antiphon, application)[second["number"]] != "rolled_back":
            assert monotonic() < end, antiphon("releases", "watch", application).out
            sleep(1)
        assert stages(antiphon, application)[first["number"]] == "live"
        shown = antiphon("releases", "show", second["release"], "--json").json()["watch"]
        (decision,) = [one for one in shown["decisions"] if one["decision"] == "roll_back"]
        assert (decision["measure"], decision["to"]) == ("first_byte", first["release"])
        assert "first bytes over the service level: 100.0%" in decision["sentence"]
        audit = antiphon("audit", "query", "--action", "release.rollback", "--json").out
        assert '"watcher"' in audit
