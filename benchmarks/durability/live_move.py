"""A project moved to servers and back while it runs: how long is the freeze, does a request fail, and is it the same?

Run ``python -m benchmarks.durability.live_move [--moves 6] [--kills 10]``: a small project (shops and their orders)
under ``antiphon up``, and a gateway that was started by itself. Clients ask through both (whole and streamed), push
events, order refreshes and batch jobs, wait 30 s for anything, and never ask twice. ``antiphon migrate --live`` moves
it to PostgreSQL, S3, Redis and NATS and back by turns. Then the command is killed at random moments of its time, and
without load the supervisor at random moments of the command's, and started again. What
clients were told is held against what is in the catalog at the end by the checks of the kill harness, and a sample of
predictions is made again. Then a table and one JSON line, kept in ``benchmarks/results/live_move.jsonl`` with
``--keep``. The servers are this machine's own, over loopback.

With ``--hosts none kill stop cut`` it has two hosts in networks of their own instead, whose engines have joined, and
one server behind the fronts of both (``tests/chaos/harness/moving_hosts.py``): a move for each of these faults.
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
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import msgspec
from tests.chaos.harness import moving_hosts
from tests.chaos.harness.chaos_checks import check_all
from tests.chaos.harness.chaos_load import Load
from tests.chaos.harness.chaos_project import ChaosProject, write_project
from tests.chaos.harness.host_moves import Fault
from tests.chaos.harness.kill_harness import drained, evidence_of
from tests.chaos.harness.running import ready, scratch, supervised, until
from tests.harness.moved_project import CREDENTIALS, STORES, Servers
from tests.harness.ports import free_port

from antiphon.app.wiring import open_project
from antiphon.core.child_process import start_child
from antiphon.core.settings import FILE_NAME
from antiphon.core.settings import load as load_settings
from antiphon.services.moving.project import ProjectMove, move
from antiphon.services.moving.settings_file import EMBEDDED, edited
from antiphon.services.predictions import ProjectPredictions

RESULTS = Path(__file__).parents[1] / "results" / "live_move.jsonl"
CLIENT_SECONDS = 30.0
QUIET_SECONDS = 1.0
"""Load before the first move and after each."""

SEED = 1
ENVIRONMENT = {"ANTIPHON_WORKER__LEASE": "15s"}
_ANTIPHON = (sys.executable, "-m", "antiphon.cli.main")
_BACK = dict.fromkeys(STORES, EMBEDDED)


class Moved(msgspec.Struct, frozen=True):
    """One move under load: seconds of the command, of the freeze, and of the slowest request meanwhile."""

    to: str
    seconds: float
    frozen_seconds: float
    expected_seconds: float
    longest_request: float
    passes: tuple[float, ...]
    tables: int
    processes: int


class Report(msgspec.Struct, frozen=True):
    """A whole run. ``violations`` are by check; all empty when nothing was lost, torn or done twice."""

    moves: tuple[Moved, ...]
    kills: int
    killed_after_switch: int
    supervisor_kills: int
    answered: int
    events: int
    jobs: int
    failures: dict[str, int]
    violations: dict[str, list[str]]
    replayed: int
    identical: int
    seconds: float

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def holds(self) -> bool:
        """Whether no request failed, nothing was lost, and every sampled prediction was made again byte for byte."""
        return not self.failed and not any(self.violations.values()) and 0 < self.replayed == self.identical


def say(text: str) -> None:
    """Tell what is being done."""
    print(text, file=sys.stderr, flush=True)


async def run(
    root: Path,
    servers: Servers,
    *,
    moves: int,
    kills: int,
    supervisor_kills: int = 0,
    replays: int = 20,
    pause: float = 0.05,
) -> Report:
    """Move a project that runs there and back by turns in an empty folder; from there it comes back stopped.

    Args:
        pause: seconds between two questions of a client.

    Raises:
        RuntimeError: the platform did not come up, or a command failed. TimeoutError: what was ordered did not end.
    """
    project = write_project(root, "simulated", CREDENTIALS)
    began = time.monotonic()
    async with supervised(root, project.url, environment=ENVIRONMENT) as supervisor, _own_gateway(project) as own:
        async with Load(project, SEED, (project.url, own), timeout=CLIENT_SECONDS, pause=pause) as load:
            await load.start()
            load.refused.clear()  # What is asked before the first publication is rightly refused.
            load.broken_off.clear()
            clients, done = asyncio.create_task(load.run()), list[Moved]()
            try:
                for number in range(moves):
                    await asyncio.sleep(QUIET_SECONDS)
                    there = number % 2 == 0
                    urls = servers.fresh() if there else _BACK
                    done.append(await _moved(project, load, "servers" if there else "folder", urls))
                switched = await _killed(project, load, servers, kills, _typical(done))
                await asyncio.sleep(QUIET_SECONDS)
            finally:
                load.stop()
                await asyncio.wait_for(clients, 120)
            failures = load.failures()
            settled = await load.settle()
            answered = [one.prediction for one in load.acknowledged]
            again = await _replayed(root, random.Random(SEED).sample(answered, min(replays, len(answered))))
        left = await asyncio.to_thread(drained, project, supervisor)
    await _supervisor_killed(project, servers, supervisor_kills, _typical(done))
    if _there(project):
        move(root, edited((root / FILE_NAME).read_text(), _BACK))
    violations = check_all(evidence_of(project, load, settled, left))
    return Report(
        moves=tuple(done),
        kills=kills,
        killed_after_switch=switched,
        supervisor_kills=supervisor_kills,
        answered=len(answered),
        events=len(load.pushed),
        jobs=len(load.jobs),
        failures=failures,
        violations=violations,
        replayed=len(again),
        identical=sum(again),
        seconds=round(time.monotonic() - began, 1),
    )


def _typical(done: Sequence[Moved]) -> float:
    return done[0].seconds if done else 20.0


@asynccontextmanager
async def _own_gateway(project: ChaosProject) -> AsyncIterator[str]:
    """A gateway that no supervisor keeps; its URL."""
    port, log = free_port(), project.root / "own.log"
    with log.open("ab") as out:
        process = start_child(
            [*_ANTIPHON, "gateway", "--name", "own", "--port", str(port), "--project", str(project.root)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://{project.address}:{port}"
        await until(lambda: ready(url, process, log), bool, 60)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, 30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _command(project: ChaosProject, urls: dict[str, str]) -> list[str]:
    named = [word for store, url in urls.items() for word in (f"--{store}", url)]
    return [*_ANTIPHON, "migrate", "--live", "--json", "--project", str(project.root), *named]


async def _moved(project: ChaosProject, load: Load, to: str, urls: dict[str, str]) -> Moved:
    load.longest, began = 0.0, time.monotonic()
    done = await asyncio.to_thread(subprocess.run, _command(project, urls), capture_output=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"antiphon migrate ended with {done.returncode}: {done.stderr.decode()[-2_000:]}")
    moved = msgspec.json.decode(done.stdout, type=ProjectMove)
    await _answers(load)
    say(f"moved to {to}: {moved.frozen_seconds:.2f} s frozen, slowest request {load.longest:.2f} s")
    if moved.missing:
        raise RuntimeError(f"Not back: {moved.missing}")
    return Moved(
        to=to,
        seconds=round(time.monotonic() - began, 2),
        frozen_seconds=round(moved.frozen_seconds, 2),
        expected_seconds=round(moved.expected_seconds or 0.0, 2),
        longest_request=round(load.longest, 2),
        passes=tuple(round(one, 2) for one in moved.passes),
        tables=len(moved.tables),
        processes=len(moved.processes),
    )


async def _killed(project: ChaosProject, load: Load, servers: Servers, kills: int, seconds: float) -> int:
    """Kill the command at random moments; how often the project had been moved by then, and went on there."""
    drawn, switched = random.Random(SEED), 0
    for number in range(kills):
        before = _there(project)
        moving = start_child(
            _command(project, _BACK if before else servers.fresh()),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await asyncio.to_thread(moving.wait, drawn.uniform(0.2, 1.05) * seconds)
        except subprocess.TimeoutExpired:
            moving.kill()
        await asyncio.to_thread(moving.wait)
        await _answers(load)
        switched += _there(project) is not before
        say(f"killed {number + 1} times, {switched} of them after the switch")
    return switched


async def _supervisor_killed(project: ChaosProject, servers: Servers, kills: int, seconds: float) -> None:
    """Kill the supervisor at random moments of a move, and start it again, which must become ready."""
    drawn = random.Random(SEED)
    for number in range(kills):
        async with supervised(project.root, project.url, environment=ENVIRONMENT) as supervisor:
            urls = _BACK if _there(project) else servers.fresh()
            moving = start_child(_command(project, urls), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            await asyncio.sleep(drawn.uniform(0.2, 0.9) * seconds)
            supervisor.kill()
        async with supervised(project.root, project.url, environment=ENVIRONMENT):
            ended = await asyncio.to_thread(moving.wait, 180)
        where = "servers" if _there(project) else "folder"
        say(f"supervisor killed {number + 1} times; the command ended with {ended}, the project is in: {where}")


def _there(project: ChaosProject) -> bool:
    return load_settings(project.root)[0].catalog.url is not None


async def _answers(load: Load) -> None:
    """Wait until two clients were answered anew: a request that was sent before does not count for one after."""
    before = len(load.acknowledged)
    async with asyncio.timeout(60):
        while len(load.acknowledged) < before + 4:
            await asyncio.sleep(0.05)


async def _replayed(root: Path, predictions: Sequence[str]) -> list[bool]:
    wired = open_project(root)
    try:
        found = ProjectPredictions(wired.store)
        scope = wired.store.scope
        return [bool((await found.replay(wired.engine, scope, one)).get("identical")) for one in predictions]
    finally:
        await wired.close()


def table(report: Report) -> list[str]:
    """The report as lines for people."""
    lines = [f"{'moved to':<9} {'command':>8} {'freeze':>7} {'expected':>9} {'slowest request':>16}  passes ahead"]
    lines += [
        f"{one.to:<9} {one.seconds:>7.1f}s {one.frozen_seconds:>6.2f}s {one.expected_seconds:>8.2f}s "
        f"{one.longest_request:>15.2f}s  {', '.join(f'{seconds:.2f}' for seconds in one.passes)}"
        for one in report.moves
    ]
    return [
        *lines,
        f"{report.answered} questions answered, {report.events} events taken, {report.jobs} batch jobs; "
        f"{report.failed} requests failed; {report.identical} of {report.replayed} replayed byte for byte",
        f"command killed {report.kills} times, {report.killed_after_switch} of them after the switch; "
        f"supervisor killed {report.supervisor_kills} times",
        *(f"    {name}, {times} times" for name, times in report.failures.items()),
    ]


def on_one_host(moves: int, kills: int, supervisor_kills: int) -> Report:
    """:func:`run` with servers of its own."""
    servers = Servers(durable=True)
    os.environ.update(servers.environment)
    try:
        with scratch() as folder:
            root = Path(folder) / "project"
            return asyncio.run(run(root, servers, moves=moves, kills=kills, supervisor_kills=supervisor_kills))
    finally:
        servers.remove()


def on_hosts(faults: Sequence[Fault]) -> moving_hosts.Report:
    """One move on two hosts for each fault."""
    with scratch() as folder:
        return asyncio.run(moving_hosts.run(Path(folder), faults, say=say))


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, keep; returns 1 when a request failed or something is not as it was."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability.live_move", description=__doc__)
    parser.add_argument("--moves", type=int, default=6)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--supervisor-kills", type=int, default=4)
    parser.add_argument(
        "--hosts", nargs="+", metavar="FAULT", choices=get_args(Fault), help="two hosts instead, one move "
        "for each of these (none, kill, stop, cut); needs root",
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    report: Report | moving_hosts.Report
    if options.hosts:
        report = on_hosts(options.hosts)
        lines = moving_hosts.table(report)
    else:
        report = on_one_host(options.moves, options.kills, options.supervisor_kills)
        lines = table(report)
    for name, wrong in report.violations.items():
        lines.append(f"  {'FAIL' if wrong else 'ok  '} {name}" + (f": {wrong[:3]}" if wrong else ""))
    line: dict[str, Any] = {"benchmark": "live_move", "at": datetime.now(UTC).isoformat(), "cores": os.cpu_count()}
    line |= {"load": [round(one, 1) for one in os.getloadavg()], "hosts": 2 if options.hosts else 1}
    line |= {"holds": report.holds, **msgspec.to_builtins(report)}
    line |= {"violations": {name: len(one) for name, one in report.violations.items()}}
    encoded = json.dumps(line)
    if options.keep:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(encoded + "\n")
    print("\n".join([*lines, encoded]))
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
