"""The kill harness: starts a small platform, kills its processes at random moments, checks what must hold.

``python -m tests.chaos.harness.kill_harness --kills 20`` kills gateway, engine and worker 20 times each, under load,
each time after the one before has come back. What is checked stands in ``chaos_checks``; it looks from outside.
The moments are drawn from the seed; what happens at them is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec
from tests.chaos.harness import chaos_evidence
from tests.chaos.harness.chaos_checks import check_all
from tests.chaos.harness.chaos_evidence import Evidence
from tests.chaos.harness.chaos_load import Load
from tests.chaos.harness.chaos_project import ChaosProject, write_project
from tests.chaos.harness.running import ready, until

from antiphon.core.child_process import start_child

Victim = Literal["gateway", "engine", "worker"]
VICTIMS: tuple[Victim, ...] = ("gateway", "engine", "worker")
LONGEST_WAIT = 2.0
"""Seconds: a kill comes so long at most after everything was well."""

_RESTART_SECONDS = 90.0
_DRAIN_SECONDS = 60.0


class Kill(msgspec.Struct, frozen=True):
    """One kill: how long after everything was well, and how long until the process was well again (seconds)."""

    victim: Victim
    after: float
    recovered: float


class Report(msgspec.Struct, frozen=True):
    """The outcome of a run. ``violations`` has every check's name; all empty when the invariants held."""

    engine: str
    seed: int
    kills: tuple[Kill, ...]
    violations: dict[str, list[str]]
    acknowledged: int
    unanswered: int
    refused: int
    receipts: int
    events: int
    publications: int
    jobs: int
    job_rows: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing was violated."""
        return not any(self.violations.values())


async def run(
    root: Path, *, kills: int, seed: int, engine: str, say: TextIO | None = None, settings: str = "",
    prepare: Callable[[ChaosProject], None] = lambda project: None,
    beside: Callable[[Load], Awaitable[None]] | None = None,
) -> Report:  # fmt: skip
    """Run the harness in an empty folder.

    Args:
        settings: further sections of the project's.
        prepare: called before the first process starts.
        beside: another client; it ends once the load is stopped.

    Raises:
        TimeoutError: the platform did not come up, or a process did not come back.
        RuntimeError: the supervisor ended by itself.
    """
    began = time.monotonic()
    project = write_project(root, engine, settings)
    prepare(project)
    log = (root / "up.log").open("wb")
    supervisor = start_child(
        [sys.executable, "-m", "antiphon.cli.main", "up", "--project", str(root), "--json"],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        await _all_well(project, supervisor)
        async with Load(project, seed) as load:
            await load.start()
            clients = asyncio.gather(load.run(), *([beside(load)] if beside else []))
            try:
                done = await _kill_all(project, supervisor, kills, seed, say)
            finally:
                load.stop()
                await asyncio.wait_for(clients, 60)
            settled = await load.settle()
        left = await asyncio.to_thread(drained, project, supervisor)
        found = evidence_of(project, load, settled, left)
    finally:
        if supervisor.poll() is None:
            await asyncio.to_thread(drained, project, supervisor)
        log.close()
    return Report(
        engine=engine,
        seed=seed,
        kills=tuple(done),
        violations=check_all(found),
        acknowledged=len(found.acknowledged),
        unanswered=load.unanswered,
        refused=len(found.refused),
        receipts=len(found.receipts),
        events=len(found.events),
        publications=len(found.publications),
        jobs=len(found.jobs),
        job_rows=sum(map(len, found.job_rows.values())),
        seconds=time.monotonic() - began,
    )


async def _kill_all(
    project: ChaosProject, supervisor: subprocess.Popen[bytes],
    kills: int, seed: int, say: TextIO | None,
) -> list[Kill]:  # fmt: skip
    chance = random.Random(seed)
    victims = [victim for victim in VICTIMS for _ in range(kills)]
    chance.shuffle(victims)
    done: list[Kill] = []
    for victim in victims:
        after = chance.random() * LONGEST_WAIT
        await asyncio.sleep(after)
        pid = _pid(project, victim)
        os.kill(pid, signal.SIGKILL)
        struck = time.monotonic()
        await _well_again(project, supervisor, victim, pid)
        done.append(Kill(victim, round(after, 3), round(time.monotonic() - struck, 3)))
        if say is not None:
            say.write(f"{len(done):3}/{len(victims)}  {victim:<8} back after {done[-1].recovered:.2f} s\n")
            say.flush()
    return done


async def _all_well(project: ChaosProject, supervisor: subprocess.Popen[bytes]) -> None:
    """Wait until the gateway says that it can answer, and the worker that it works."""

    async def ask() -> bool:
        well = await ready(project.url, supervisor, project.root / "up.log")
        return well and (project.directory / "run" / "worker.ready").exists()

    await until(ask, bool, _RESTART_SECONDS * 2)


async def _well_again(project: ChaosProject, supervisor: subprocess.Popen[bytes], victim: Victim, dead: int) -> None:
    async def replaced() -> bool:
        return _pid(project, victim) != dead

    await until(replaced, bool, _RESTART_SECONDS)
    await _all_well(project, supervisor)


def _pid(project: ChaosProject, name: str) -> int:
    return int(json.loads((project.directory / "run" / f"{name}.pid").read_bytes())["pid"])


def drained(project: ChaosProject, supervisor: subprocess.Popen[bytes]) -> tuple[str, ...]:
    """Ask the supervisor to end; what still runs afterwards."""
    pids = {}
    for name in VICTIMS:
        try:
            pids[name] = _pid(project, name)
        except FileNotFoundError:
            continue
    supervisor.send_signal(signal.SIGTERM)
    try:
        supervisor.wait(_DRAIN_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(supervisor.pid, signal.SIGKILL)
        supervisor.wait()
        return ("the supervisor", *(name for name, pid in pids.items() if _runs(pid)))
    left = [name for name, pid in pids.items() if _runs(pid)]
    return (*left, *([f"exit code {supervisor.returncode}: it"] if supervisor.returncode else []))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def evidence_of(project: ChaosProject, load: Load, settled: dict[str, str], left: tuple[str, ...]) -> Evidence:
    """Everything that is to be found of a project whose stores are in its folder, once nothing runs."""
    catalog = chaos_evidence.read_catalog(project.directory)
    jobs = tuple(load.jobs)
    return Evidence(
        acknowledged=tuple(load.acknowledged),
        refused=tuple(load.refused),
        pushed=frozenset(load.pushed),
        jobs=jobs,
        settled=settled,
        left_running=left,
        outputs=chaos_evidence.read_outputs(jobs),
        **catalog,
        **chaos_evidence.read_files(project.directory, catalog["snapshots"]),
    )


def table(report: Report) -> str:
    """The report as a table for people."""
    lines = [f"engine {report.engine}, seed {report.seed}, {report.seconds:.0f} s under load"]
    for victim in VICTIMS:
        seconds = sorted(kill.recovered for kill in report.kills if kill.victim == victim)
        if seconds:
            lines.append(
                f"  {victim:<8} killed {len(seconds):3} times, back after {statistics.median(seconds):.2f} s "
                f"(median), {seconds[-1]:.2f} s (longest)"
            )
    return "\n".join([*lines, *load_and_checks(report)])


def load_and_checks(report: Any) -> list[str]:
    """Lines on the load of a report of any harness, and on what was checked."""
    lines = [
        f"  {report.acknowledged} answers acknowledged, {report.unanswered} broken off, {report.refused} refused; "
        f"{report.receipts} receipts, {report.events} events, {report.publications} publications, "
        f"{report.job_rows} rows of {report.jobs} batch jobs"
    ]
    for name, wrong in report.violations.items():
        lines.append(f"  {'ok  ' if not wrong else 'FAIL'} {name}" + (f": {len(wrong)} violations" if wrong else ""))
        lines += [f"         {one}" for one in wrong[:5]]
    return lines


def summary(report: Report) -> dict[str, object]:
    """The report as one JSON line."""
    whole: dict[str, object] = msgspec.to_builtins(report)
    recovered = {victim: sorted(kill.recovered for kill in report.kills if kill.victim == victim) for victim in VICTIMS}
    whole["kills"] = {victim: len(seconds) for victim, seconds in recovered.items()}
    whole["recovered_seconds"] = {
        victim: {"median": statistics.median(seconds), "longest": seconds[-1]}
        for victim, seconds in recovered.items()
        if seconds
    }
    whole["violations"] = {name: len(wrong) for name, wrong in report.violations.items()}
    return {"benchmark": "kill_harness", "holds": report.holds, **whole}


def main(arguments: list[str] | None = None) -> int:
    """Run and print; the exit code is 1 when an invariant was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.harness.kill_harness", description=__doc__)
    parser.add_argument("--kills", type=int, default=3, help="kills of each process")
    parser.add_argument("--seed", type=int, default=20130410, help="what the moments are drawn from")
    parser.add_argument("--engine", choices=["simulated", "llamacpp"], default="simulated")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--keep", type=Path, help="run in this folder and keep it")
    parser.add_argument("--results", type=Path, help="folder for the JSON result")
    options = parser.parse_args(arguments)
    say = None if options.json else sys.stderr
    with tempfile.TemporaryDirectory(prefix="antiphon-chaos-") as temporary:
        root = options.keep or Path(temporary)
        report = asyncio.run(run(root, kills=options.kills, seed=options.seed, engine=options.engine, say=say))
    line = json.dumps(summary(report))
    if options.results is not None:
        options.results.mkdir(parents=True, exist_ok=True)
        (options.results / f"kill_harness-{report.engine}-{options.kills}.json").write_text(
            line + "\n", encoding="utf-8"
        )
    if not options.json:
        sys.stdout.write(table(report) + "\n")
    sys.stdout.write(line + "\n")
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
