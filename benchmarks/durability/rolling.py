"""Every process of a platform replaced one by one under load: how many requests fail; the goal is none.

Run ``python -m benchmarks.durability.rolling [--rounds 10]``: two gateways on one port, two engines that joined, two
workers; clients ask (whole and streamed), push events, order refreshes and batch jobs, and never ask twice. A round is
``antiphon restart``. Then a table and one JSON line, kept in ``benchmarks/results/rolling.jsonl`` with ``--keep``.
``--killed`` ends each process with SIGKILL instead, which the count must show.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from tests.chaos.harness.chaos_load import Load
from tests.chaos.harness.chaos_project import ChaosProject, write_project
from tests.chaos.harness.running import scratch, supervised

from antiphon.operations.processes import read_records
from antiphon.operations.replacement import Replacement

RESULTS = Path(__file__).parents[1] / "results" / "rolling.jsonl"
PROCESSES = "\n[processes]\ngateways = 2\nworkers = 2\nengines = 2\n"
ENVIRONMENT = {"ANTIPHON_ENGINE__JOIN": "true", "ANTIPHON_WORKER__LEASE": "15s"}
QUIET_SECONDS = 1.0
"""Load before the first round and after each."""


class Report(msgspec.Struct, frozen=True):
    """Requests that were answered, and by what happened those that were refused or not answered to their end."""

    rounds: int
    replaced: tuple[Replacement, ...]
    answered: int
    events: int
    failures: dict[str, int]
    seconds: float

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


async def run(root: Path, rounds: int, killed: bool = False) -> Report:
    """Replace everything so many times in an empty folder.

    Raises:
        RuntimeError: the platform did not come up, or a command failed. TimeoutError: what was ordered did not end.
    """
    project = write_project(root, "simulated", PROCESSES)
    async with supervised(root, project.url, environment=ENVIRONMENT):
        async with Load(project, 1, pause=0.02) as load:
            await load.start()
            load.refused.clear()  # What is asked before the first publication is rightly refused.
            load.broken_off.clear()
            clients = asyncio.create_task(load.run())
            began, replaced = time.monotonic(), list[Replacement]()
            try:
                for _ in range(rounds):
                    await asyncio.sleep(QUIET_SECONDS)
                    if killed:
                        _kill(project)
                    replaced += await _restart(root)
                await asyncio.sleep(QUIET_SECONDS)
            finally:
                load.stop()
                await asyncio.wait_for(clients, 120)
            seconds = time.monotonic() - began
            failures = load.failures()
            await load.settle()
        return Report(
            rounds=rounds,
            replaced=tuple(replaced),
            answered=len(load.acknowledged),
            events=len(load.pushed),
            failures=failures,
            seconds=round(seconds, 1),
        )


async def _restart(root: Path) -> list[Replacement]:
    command = (sys.executable, "-m", "antiphon.cli.main", "restart", "--project", str(root), "--json")
    done = await asyncio.to_thread(
        subprocess.run, command, env={**os.environ, **ENVIRONMENT}, capture_output=True, timeout=600
    )
    if done.returncode != 0:
        raise RuntimeError(f"antiphon restart ended with {done.returncode}: {done.stderr.decode()[-2_000:]}")
    return [msgspec.json.decode(line, type=Replacement) for line in done.stdout.splitlines()]


def _kill(project: ChaosProject) -> None:
    for record in read_records(project.directory / "run"):
        if record.name in ("gateway", "engine"):
            os.kill(record.pid, signal.SIGKILL)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, keep; returns 1 when a request failed, or with ``--killed`` when none did."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability.rolling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--killed", action="store_true", help="kill one of a kind before each round")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    with scratch() as folder:
        report = asyncio.run(run(Path(folder) / "project", options.rounds, options.killed))
    seconds = sorted(one.seconds for one in report.replaced)
    print(f"{len(report.replaced)} processes replaced in {report.rounds} rounds, {report.seconds:.0f} s under load")
    if seconds:
        print(
            f"  each: median {seconds[len(seconds) // 2]:.1f} s, longest {seconds[-1]:.1f} s until the next was ready"
        )
    print(f"  {report.answered} questions answered, {report.events} events taken; {report.failed} failed")
    for name, times in report.failures.items():
        print(f"    {name}, {times} times")
    line: dict[str, Any] = {"benchmark": "rolling", "at": datetime.now(UTC).isoformat(), "cores": os.cpu_count()}
    line |= {"load": [round(one, 1) for one in os.getloadavg()], "killed": options.killed, "failed": report.failed}
    line |= msgspec.to_builtins(report) | {"replaced": len(report.replaced)}
    encoded = json.dumps(line)
    if options.keep:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(encoded + "\n")
    print(encoded)
    return 0 if (report.failed == 0) != options.killed else 1


if __name__ == "__main__":
    sys.exit(main())
