"""What an idle project takes of a core, and how soon a submitted run begins; goals 1 % and a few milliseconds.

Run ``python -m benchmarks.durability.wakeups``: a table, then one JSON line (kept in
``benchmarks/results/wakeups.jsonl``), for SQLite and for PostgreSQL (where it is installed). The worker's wait is
measured with the doorbell, and without it at the 10 looks a second of before. ``--source DIRECTORY`` takes the
idle processes from another tree (its ``src``).

What a wake-up costs differs tenfold between machines, and between hours of a shared one: a core that slept is woken
for it. So a process that only wakes ten times a second is measured beside the project in the same seconds, and
``wakes`` is how many of its wake-ups a second a process takes as much as.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.catalogs import KINDS, catalog_url, postgres
from tests.harness.ports import free_port
from tests.harness.ungated import declare_ungated

from antiphon.catalog.database import Database
from antiphon.catalog.doorbell import REST_AFTER
from antiphon.core.child_process import start_child
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.durable.runs import Runs

ROOT = Path(__file__).parents[2]
GOAL_CORE = 0.01
SETTLES_WITHIN = REST_AFTER + 30.0
"""Seconds until a project that was started is idle: its last ring, of applied definitions, is a minute ago."""

MODES = {"doorbell": 60.0, "polling": 0.1}
"""Seconds between two looks of a worker, with the doorbell and without it."""

BARE_WAKES = 10
_BARE = f"""
import asyncio, uvloop
async def idle():
    while True:
        await asyncio.sleep(1 / {BARE_WAKES})
uvloop.run(idle())
"""
_TICKS = os.sysconf("SC_CLK_TCK")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, keep; returns 1 when the goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability.wakeups")
    parser.add_argument("--seconds", type=float, default=30.0, help="of idling that are measured")
    parser.add_argument("--runs", type=int, default=200, help="submitted for each mode")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--source", type=Path, default=ROOT / "src")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "MODE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        asyncio.run(_work(Path(options.child[0]), options.child[1]))
        return 0
    found: dict[str, Any] = {}
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            idle = idle_cores(Path(folder), kind, options.seconds, options.source)
        with tempfile.TemporaryDirectory() as folder:
            waits = claim_waits(Path(folder), kind, options.runs)
        wakes = {name: BARE_WAKES * share / idle["bare"] for name, share in idle.items() if idle["bare"]}
        found[kind] = {"idle_cores": idle, "wakes": wakes, "begins_ms": waits}
        print(f"{kind}: of a core, idle for {options.seconds:.0f} s")
        for name, share in idle.items():
            print(f"  {name:<10} {100 * share:6.2f} %  like {wakes.get(name, float('nan')):5.1f} wake-ups a second")
        print(f"{kind}: from submitting to the run's first line, {options.runs} runs, ms")
        for mode, wait in waits.items():
            print(f"  {mode:<10} p50 {wait['p50']:7.1f}  p99 {wait['p99']:7.1f}  max {wait['max']:7.1f}")
    met = all(one["idle_cores"]["worker"] < GOAL_CORE for one in found.values())
    line = json.dumps(
        {
            "benchmark": "wakeups",
            "at": datetime.now(UTC).isoformat(),
            "source": "this tree" if options.source == ROOT / "src" else "another tree",
            "load": [round(each, 1) for each in os.getloadavg()],
            "catalogs": found,
            "met": met,
        }
    )
    if options.keep:
        with (ROOT / "benchmarks" / "results" / "wakeups.jsonl").open("a") as kept:
            kept.write(line + "\n")
    print(line)
    return 0 if met else 1


# ------------------------------------------------------------------ an idle project


def idle_cores(folder: Path, kind: str, seconds: float, source: Path) -> dict[str, float]:
    """The share of a core that each process of a new project takes, by its name."""
    environment = os.environ | {"PYTHONPATH": str(source)}
    command = [sys.executable, "-m", "antiphon.cli.main"]
    init = [*command, "init", "idle", "--port", str(free_port())]
    subprocess.run(init, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=60)
    declare_ungated(folder / "idle", "a benchmark measures what is idle")
    settings = folder / "idle" / "antiphon.toml"
    text = settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"', 1)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("models ="))
    if kind == "postgresql":
        server = postgres()
        server.run("CREATE SCHEMA IF NOT EXISTS idle")
        environment["IDLE_PASSWORD"] = server.password
        text += f'\n[catalog]\nurl = "{server.url}"\nschema = "idle"\npassword_variable = "IDLE_PASSWORD"\n'
    settings.write_text(text + "\n")
    with _up([*command, "up", "--project", str(folder / "idle"), "--json"], environment) as pids:
        bare = start_child([sys.executable, "-c", _BARE])
        try:
            time.sleep(SETTLES_WITHIN)
            if (until := _until_quarter()) < seconds:
                time.sleep(until + SETTLES_WITHIN)
            pids["bare"] = bare.pid
            before, began = {name: _processor(pid) for name, pid in pids.items()}, time.monotonic()
            time.sleep(seconds)
            took = time.monotonic() - began
            return {name: (_processor(pid) - before[name]) / took for name, pid in pids.items()}
        finally:
            bare.kill()
            bare.wait(timeout=30)


def _until_quarter() -> float:
    """Seconds until built-in schedules order refreshes, which is work and no idling."""
    return 900.0 - time.time() % 900.0


@contextmanager
def _up(command: list[str], environment: Mapping[str, str]) -> Iterator[dict[str, int]]:
    process = start_child(command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    pids = {"supervisor": process.pid}
    try:
        for line in process.stdout:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "ready":
                pids[event["process"]] = event["pid"]
            if event.get("event") == "up":
                break
        yield pids
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        process.stdout.close()


def _processor(pid: int) -> float:
    """Seconds of processor time that a process and its threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


# ------------------------------------------------------------------ runs that begin


def claim_waits(folder: Path, kind: str, runs: int) -> dict[str, dict[str, float]]:
    """How long submitted runs wait for an idle worker in a process of its own, in ms."""
    os.environ["ANTIPHON_TEST_CATALOG"] = kind
    waits: dict[str, dict[str, float]] = {}
    moment = random.Random(7)
    for mode in MODES:
        place = folder / mode
        place.mkdir()
        database = Database.open(catalog_url(place))
        database.migrate()
        submitted = Runs(database)
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
        command = [sys.executable, "-m", "benchmarks.durability.wakeups", "--child", str(place), mode]
        process = start_child(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            process.stdout.readline()
            took = []
            for _ in range(runs):
                time.sleep(moment.uniform(0.03, 0.15))  # It waits again, at any point between two looks.
                at = time.time()
                run = submitted.submit(Scope(), "began", {})
                while (found := submitted.get(Scope(), run)).status not in ENDED:
                    time.sleep(0.005)
                took.append(1e3 * ((found.result or {})["began"] - at))
        finally:
            process.kill()
            process.wait(timeout=30)
            process.stdout.close()
            database.close()
        took.sort()
        waits[mode] = {"p50": took[len(took) // 2], "p99": took[int(0.99 * len(took))], "max": took[-1]}
    return waits


async def _work(folder: Path, mode: str) -> None:
    """The worker."""

    async def began(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"began": time.time()}

    database, registry = Database.open(catalog_url(folder)), WorkflowRegistry()
    if mode == "polling":
        database.doorbell.listen = lambda wake, names: lambda: None  # type: ignore[method-assign]
    registry.add("began", began)
    executor = Executor(database, registry, "worker", Scope(), poll=MODES[mode])
    working = asyncio.create_task(executor.run_until(asyncio.Event()))
    first = Runs(database).submit(Scope(), "began", {})
    while Runs(database).get(Scope(), first).status not in ENDED:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await working


if __name__ == "__main__":
    sys.exit(main())
