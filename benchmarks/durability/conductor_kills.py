"""Workers killed at random moments while the conductor makes what is stale: nothing is stranded, nothing made twice.

``python -m benchmarks.durability.conductor_kills [--size ci|demo|full] [--catalog sqlite|postgresql] [--keep]``: a
table, then one JSON line, kept in ``benchmarks/results/conductor_kills.jsonl``.

A project whose workflows are a graph: files, a part for each of them, a second workflow over each part, and a report
over all. Two workers of ``antiphon.app.worker`` share it; one of them, drawn, is killed with SIGKILL at a drawn moment
and begun again, while files change and freezes of a second come and go. A fault injector of its own: it knows files,
processes and the command line alone.

Checked at the end, when files have stood still: every part is made of the files as they are, by a computation of its
own (none wrong); no run is left that neither ended nor has a living worker (none stranded); in the last quarter of the
kills, in which no file changes, nothing is made (none twice); a step's effect outside of the catalog is there once for
each recorded step, and once more at most for each kill (it may have been under way).
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
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.durability.kill_harness_command import finish
from sqlalchemy.engine import make_url
from tests.catalogs import KINDS, catalog_url

from antiphon.core.child_process import start_child
from antiphon.services.project.store import Store

PARTS = tuple(f"p{number}" for number in range(8))
SETTLES_SECONDS = 120.0
PASSWORD = "CONDUCTOR_KILLS_PASSWORD"

SETTINGS = """[project]
name = "kills"
workflow_modules = ["work"]
[engine]
kind = "simulated"
[worker]
lease = "2s"
poll = "1s"
"""
DEFINITIONS = """from antiphon import Schedule, stale
from work import over, report, part

Schedule(part, when=stale(), settle="1s")
Schedule(over, when=stale(), settle="1s")
Schedule(report, when=stale(), settle="1s")
"""
WORK = """import time
from pathlib import Path

from antiphon import files, keyed, workflow

HERE = Path(__file__).parent
PARTS = {parts!r}


def effect(run, step):
    # One short line at the end of a file: whole or not there.
    with (HERE / "effects.log").open("a") as log:
        log.write(f"{{run}} {{step}}\\n")
    time.sleep(0.15)


def read(run, key):
    effect(run, "read")
    return int((HERE / f"in/{{key}}.txt").read_text() or 0)


def add(run, value):
    effect(run, "add")
    return value + 1


@workflow(reads=[files("in/{{key}}.txt")], partitions=keyed(*PARTS), attempts=100)
async def part(run, key: str) -> int:
    value = await run.step("read", read, run.id, key)
    return await run.step("add", add, run.id, value)


@workflow(reads=[part], partitions=keyed(*PARTS), attempts=100)
async def over(run, key: str) -> int:
    value = await run.step("read", read, run.id, key)
    for _ in range(3):
        value = await run.step("add", add, run.id, value)
    return value


def total(run):
    effect(run, "total")
    return sum(int((HERE / f"in/{{key}}.txt").read_text() or 0) + 3 for key in PARTS)


@workflow(reads=[over], attempts=100)
async def report(run) -> int:
    return await run.step("total", total, run.id)
"""


class Size(msgspec.Struct, frozen=True):
    """How many kills, and the seed."""

    kills: int
    seed: int = 19


SIZES = {"ci": Size(4), "demo": Size(60), "full": Size(500)}


class KillFigures(msgspec.Struct, frozen=True):
    """What a trial showed.

    Attributes:
        wrong: parts whose output is not what the files say. stranded: runs without end or living worker.
        twice: runs that began when everything was made and no file had changed.
        repeated: effects of steps beyond one for each record.
        lost_records: recorded steps without an effect.
        attempts: of all runs, so that it is seen that kills met work.
    """

    catalog: str
    kills: int
    changes: int
    freezes: int
    runs: int
    attempts: int
    wrong: int
    stranded: int
    twice: int
    repeated: int
    lost_records: int
    settled_seconds: float
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, stranded or made twice."""
        return not (self.wrong or self.stranded or self.twice or self.lost_records) and self.repeated <= self.kills


def main(arguments: Sequence[str] | None = None) -> int:
    """Try, print, keep; returns 1 when something was lost, stranded or made twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability.conductor_kills")
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--catalog", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    size, found = SIZES[options.size], []
    for kind in options.catalog:
        with tempfile.TemporaryDirectory() as folder:
            one = asyncio.run(trial(Path(folder), kind, size))
        found.append(one)
        print(
            f"{kind}: {one.kills} kills, {one.runs} runs in {one.attempts} attempts, {one.changes} changed files, "
            f"{one.freezes} freezes; {one.wrong} wrong, {one.stranded} stranded, {one.twice} made twice, "
            f"{one.repeated} effects repeated, {one.lost_records} records without effect"
        )
    said = {
        "benchmark": "conductor-kills",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": options.size,
        "seed": size.seed,
        "trials": msgspec.to_builtins(found),
        "holds": all(one.holds for one in found),
    }
    return finish("conductor_kills", said, keep=options.keep)


async def trial(folder: Path, kind: str, size: Size) -> KillFigures:
    """One project under kills."""
    began, draw = time.monotonic(), random.Random(f"{size.seed} {kind}")
    write_project(folder, kind)
    antiphon(folder, "apply")
    workers = [_worker(folder, name) for name in ("w1", "w2")]
    changes = freezes = 0
    quiet = max(size.kills // 4, 1)

    async def kill() -> None:
        await asyncio.sleep(draw.uniform(0.2, 3.0))
        victim = draw.randrange(len(workers))
        workers[victim].send_signal(signal.SIGKILL)
        workers[victim].wait()
        workers[victim] = _worker(folder, f"w{victim + 1}")

    try:
        for _ in range(size.kills - quiet):
            for _ in range(draw.randint(1, 3)):
                (folder / "in" / f"{draw.choice(PARTS)}.txt").write_text(str(draw.randint(0, 1_000_000)))
                changes += 1
            if draw.random() < 0.05:
                antiphon(folder, "freeze", "begin", "--for", "1s", "--reason", "kill trial")
                freezes += 1
            await kill()
        settled, before = await _settled(folder)
        for _ in range(quiet):
            await kill()
        _, after = await _settled(folder)
        store = Store.open(folder)
        try:
            return _checked(
                store, folder, kind, size.kills, changes, freezes, settled, after - before, time.monotonic() - began
            )
        finally:
            store.close()
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def write_project(folder: Path, kind: str) -> None:
    """The project's files; its catalog is of a kind."""
    catalog = ""
    if kind != "sqlite":
        url = make_url(catalog_url(folder, kind))
        os.environ[PASSWORD] = url.password or ""  # the processes of the trial inherit it
        shown = url._replace(password=None).render_as_string()
        catalog = f'[catalog]\nurl = "{shown}"\npassword_variable = "{PASSWORD}"\n'
    (folder / "antiphon.toml").write_text(SETTINGS + catalog)
    (folder / "definitions.py").write_text(DEFINITIONS)
    (folder / "work.py").write_text(WORK.format(parts=PARTS))
    (folder / "in").mkdir()
    for name in PARTS:
        (folder / "in" / f"{name}.txt").write_text("0")


def antiphon(folder: Path, *command: str) -> str:
    """What a command printed.

    Raises:
        RuntimeError: it failed.
    """
    ended = subprocess.run(
        [sys.executable, "-m", "antiphon.cli.main", *command], cwd=folder, capture_output=True, text=True, timeout=120
    )
    if ended.returncode != 0:
        raise RuntimeError(f"`antiphon {' '.join(command)}` failed: {ended.stdout}{ended.stderr}")
    return ended.stdout


def _worker(folder: Path, name: str) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.out").open("ab") as out:
        command = [sys.executable, "-m", "antiphon.app.worker", "--project", str(folder), "--name", name]
        return start_child(command, env=dict(os.environ), stdout=out, stderr=out)


async def _settled(folder: Path) -> tuple[float, int]:
    """Seconds until every part is current, or those of the bound; and how many runs there are then."""
    began, runs = time.monotonic(), 0
    while time.monotonic() - began < SETTLES_SECONDS:
        listed = json.loads(antiphon(folder, "assets", "list", "--stale", "--json"))
        store = Store.open(folder)
        try:
            runs = len(store.runs.list(store.scope, 1_000_000))
            if not listed and not store.runs.unended(store.scope, 10):
                break
        finally:
            store.close()
        await asyncio.sleep(1.0)
    return round(time.monotonic() - began, 1), runs


def _checked(
    store: Store,
    folder: Path,
    kind: str,
    kills: int,
    changes: int,
    freezes: int,
    settled: float,
    twice: int,
    seconds: float,
) -> KillFigures:
    runs = store.runs.list(store.scope, 1_000_000)
    inputs = {name: int((folder / "in" / f"{name}.txt").read_text()) for name in PARTS}
    expected: dict[tuple[str, str], int] = {("part", name): value + 1 for name, value in inputs.items()}
    expected |= {("over", name): value + 3 for name, value in inputs.items()}
    expected["report", ""] = sum(value + 3 for value in inputs.values())
    latest: dict[tuple[str, str], Any] = {}
    for run in sorted(
        (one for one in runs if one.status == "succeeded"), key=lambda one: one.ended_at or one.created_at
    ):
        part = (str(run.arguments["workflow"]), str(run.arguments.get("arguments", {}).get("key", "")))
        latest[part] = (run.result or {}).get("result")
    lines = Counter((folder / "effects.log").read_text().splitlines())
    recorded: Counter[str] = Counter()
    for run in runs:
        recorded.update(f"{run.id} {step.name}" for step in store.runs.steps(store.scope, run.id))
    return KillFigures(
        kind,
        kills,
        changes,
        freezes,
        len(runs),
        sum(run.epoch for run in runs),
        sum(latest.get(part) != value for part, value in expected.items()),
        len(store.runs.unended(store.scope, 1_000)),
        twice,
        sum(max(count - recorded[line], 0) for line, count in lines.items()),
        sum(max(count - lines[line], 0) for line, count in recorded.items()),
        settled,
        round(seconds, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
