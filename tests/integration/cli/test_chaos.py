"""``antiphon chaos``: a small game day over a project that ``antiphon up`` runs, and a runner that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from tests.harness.ports import free_port
from tests.harness.ungated import declare_ungated
from tests.integration.cli.conftest import PROGRAM, Run, Up, run_in

from antiphon.core.child_process import start_child

QUICK = {"window": "2s", "duration": "2s", "rate": 5, "after": 1}

EXPERIMENT: dict[str, Any] = {
    "title": "The worker stands still",
    "description": "Until it goes on.",
    "configuration": {"duration": "2s"},
    "steady-state-hypothesis": {
        "title": "All run",
        "probes": [
            {
                "type": "probe", "name": "worker", "tolerance": "running",
                "provider": {
                    "type": "python", "module": "antiphon.chaos", "func": "process_state",
                    "arguments": {"process": "worker"},
                },
            },
            {"type": "probe", "name": "health", "tolerance": 200, "provider": {"type": "http", "url": "/healthz"}},
            {"type": "probe", "name": "folder", "tolerance": 0, "provider": {"type": "process", "path": "ls",
            "arguments": "."}},
        ],
    },
    "method": [
        {
            "type": "action", "name": "stop",
            "provider": {
                "type": "python", "module": "antiphon.chaos", "func": "stop_process",
                "arguments": {"process": "worker", "duration": "${duration}"},
            },
        }
    ],
    "runtime": {"hypothesis": {"strategy": "continuously", "frequency": 0.2}},
    "extensions": [
        {"name": "antiphon", "blast-radius": {"processes": ["worker"], "beyond-lease": True}, "recovery": "20s"}
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chaos")
    assert run_in(folder)("init", "mydesk", "--port", str(free_port()), "--json").code == 0
    found = folder / "mydesk"
    settings = found / "antiphon.toml"
    text = settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"')
    settings.write_text(f"{text}\n[worker]\nnice = 0\n")
    declare_ungated(found)
    (found / "chaos").mkdir()
    (found / "chaos" / "still.json").write_text(json.dumps(EXPERIMENT))
    limited = json.loads(json.dumps(EXPERIMENT))
    limited["configuration"]["duration"] = "60s"
    limited["extensions"][0]["stop-when"] = [{"probe": "worker", "for": "500ms"}]
    (found / "chaos" / "limited.json").write_text(json.dumps(limited))
    (found / "chaos" / "broken.json").write_text("{")
    return found


def variables(**values: Any) -> list[str]:
    return [word for name, value in (QUICK | values).items() for word in ("--var", f"{name}={value}")]


def worker_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def worker_pid(project: Path) -> int:
    return int(json.loads((project / ".antiphon" / "run" / "worker.pid").read_text())["pid"])


def test_without_processes_experiments_are_listed_and_refused(project: Path, antiphon: Run) -> None:
    listed = {one["name"]: one for one in antiphon("chaos", "list", "--json").json()}
    assert {name for name, one in listed.items() if one["origin"] == "shipped"} >= {
        "kill-gateway",
        "kill-engine",
        "stop-worker",
    }
    assert "not JSON" in listed["broken"]["obstacles"][0]
    assert "start `antiphon up`" in " ".join(listed["still"]["obstacles"])
    refused = antiphon("chaos", "run", "still")
    assert (refused.code, "Nothing was begun" in refused.err) == (4, True)
    assert antiphon("chaos", "run", "stil").code == 3
    assert antiphon("chaos", "run").code == 2
    assert antiphon("chaos", "report").code == 3
    assert antiphon("chaos", "proxy").code == 2


def test_a_game_day_a_limit_and_a_runner_that_dies(project: Path, antiphon: Run, up: Up) -> None:
    assert antiphon("features", "refresh", "--wait").code == 0
    dry = antiphon("chaos", "run", "kill-gateway", "still", "--dry-run", *variables())
    assert dry.code == 0, dry.err
    for told in ("gateway", "its leases of 10 s may go to another process", "ready", "200"):
        assert told in dry.out
    assert antiphon("chaos", "list", "--runs", "--json").json() == []

    began = monotonic()
    listed = {one["name"]: one["obstacles"] for one in antiphon("chaos", "list", "--json").json()}
    clocks = tuple(name for name in ("clock-ahead", "clock-behind") if not listed[name])
    assert clocks or "clock" in str(listed["clock-ahead"])
    names = ("kill-worker", "kill-gateway", "stop-worker", "late-events", *clocks)
    day = antiphon("chaos", "run", *names, "--reason", "game day", "--json", *variables())
    seconds = monotonic() - began
    assert day.code == 0, (day.out, day.err)
    report = day.json()
    assert report["held"]
    assert [(one["experiment"], one["status"]) for one in report["experiments"]] == [(name, "held") for name in names]
    for one in report["experiments"]:
        assert all(fault["ends"] for fault in one["faults"])
        assert one["questions"]["answered"] > 0
        assert one["questions"]["unexplained"] == 0
    stopped = report["experiments"][2]
    (worker,) = [one for one in stopped["probes"] if one["probe"] == "worker"]
    assert 1.0 < worker["outside_seconds"] < 4.0
    assert stopped["outside_share"] > 0
    for one in report["experiments"][4:]:
        assert (one["outside_seconds"], one["faults"][0]["reason"]) == (0, "its time was over")
    assert seconds < 40 + 10 * len(clocks)

    limited = antiphon("chaos", "run", "limited", "--json")
    (one,) = limited.json()["experiments"]
    assert (limited.code, one["status"], one["faults"][0]["reason"]) == (1, "stopped", "the experiment ended it")
    assert one["recovered_after"] is not None

    a_runner_that_is_killed(project, antiphon)
    acts = [line["action"] for line in antiphon("audit", "query", "--action", "chaos.*", "--json").json()]
    assert (acts.count("chaos.run"), acts.count("chaos.end")) == (3, 2)
    assert len(antiphon("chaos", "list", "--runs", "--json").json()) == 3
    shown = antiphon("chaos", "report", report["run"], "--markdown")
    assert f"# Chaos run {report['run']}" in shown.out
    assert "of the observed" not in shown.err
    assert "kill_process(process=gateway)" in antiphon("chaos", "report", report["run"]).out
    keys = [one for one in antiphon("keys", "list", "--json").json() if one["name"] == "chaos"]
    assert len(keys) >= len(names)
    assert up.stop() == 0


def a_runner_that_is_killed(project: Path, antiphon: Run) -> None:
    pid = worker_pid(project)
    runner = start_child(
        [*PROGRAM, "chaos", "run", "still", "--var", "duration=600s"], cwd=project, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "OTEL_SDK_DISABLED": "true"},
    )  # fmt: skip
    try:
        until(lambda: worker_state(pid) == "T")
        assert antiphon("chaos", "report", "--json").json()["experiments"][0]["status"] == "under way"
        lasting = f"still: stop_process(process=worker, duration=600s): worker (process {pid})"
        assert antiphon("status", "--json").json()["faults"] == [lasting]
        assert f"A chaos experiment is under way: {lasting}" in antiphon("status").out
        assert antiphon("chaos", "run", "still").code == 5
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        until(lambda: worker_state(pid) != "T")
    finally:
        runner.kill()
        runner.wait()
    assert antiphon("status", "--json").json()["faults"] == []
    (one,) = antiphon("chaos", "report", "--json").json()["experiments"]
    assert (one["status"], one["faults"][0]["reason"]) == ("interrupted", "the runner is gone")


def until(condition: Any) -> None:
    deadline = monotonic() + 30
    while not condition():
        assert monotonic() < deadline, "it did not come true in time"
        sleep(0.02)
