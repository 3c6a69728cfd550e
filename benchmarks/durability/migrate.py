"""The flight desk's project moved to PostgreSQL, S3, Redis and NATS and back: how long, how many bytes, and the same.

Run ``python -m benchmarks.durability.migrate [--size ci|demo] [--project DIR] [--replays N]``: a table, then one JSON
line (kept in ``benchmarks/results/migrate.jsonl`` with ``--record``). ``demo`` moves a copy of the project that ``make
demo`` left behind; ``ci`` first makes a small one. The servers are this machine's own, over loopback. On each stop
every logical hash must be what it was, and a seeded sample of predictions is made again by the real engine, byte for
byte; exit code 1 otherwise. The third move goes to servers that hold nothing yet and was copied ahead, while the
project served: its frozen seconds are those of a short freeze. From there it comes back while it serves (``--live``),
compared by the command itself. Before the first move the command is killed ``--kills`` times at random moments, from
its beginning to its end: the project must stay as it was, or be there whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.flight_desk.evidence import PROJECT, every_receipt, replay_all, sample
from examples.flight_desk import data, drive, host, settings
from examples.flight_desk.desk_client import Desk, Platform
from examples.flight_desk.records import Journal
from tests.harness.moved_project import CREDENTIALS, STORES, Servers, logical_hashes

from antiphon.app.wiring import open_project
from antiphon.core.child_process import start_child
from antiphon.core.errors import SetupError
from antiphon.core.settings import FILE_NAME
from antiphon.services.moving.live import move_live
from antiphon.services.moving.project import ProjectMove, copy_ahead, move
from antiphon.services.moving.settings_file import EMBEDDED, edited

SEED = 1


def say(text: str) -> None:
    """Tell what is being done."""
    print(text, file=sys.stderr, flush=True)


def small_project(folder: Path) -> Path:
    """The flight desk over a few flights of one day, asked for real."""
    declared = settings.load()
    declared = msgspec.structs.replace(
        declared, demand=msgspec.structs.replace(declared.demand, flights_per_day=3, asks_per_flight=3)
    )
    events = data.prepare(folder / "events", declared.sources, declared.zone)
    project = host.prepare(folder, events, declared.start(declared.demo))

    async def ask(platform: Platform) -> None:
        async with Desk(platform) as desk:
            await drive.Replay(declared, declared.demo, events, desk, Journal(folder), lambda *progress: None).run()

    with host.running(project, say) as platform:
        asyncio.run(ask(platform))
    return project


def moved(project: Path, urls: dict[str, str]) -> ProjectMove:
    """Move the project, and say how far it is."""
    last = {"label": ""}

    def tell(label: str, done: int, total: int) -> None:
        if label != last["label"]:
            last["label"] = label
            say(f"  {label}: {total:,}")

    return move(project, edited((project / FILE_NAME).read_text(), urls), tell)


async def replays(project: Path, number: int) -> dict[str, Any]:
    """A sample of predictions made again by the running engine."""
    wired = open_project(project)
    try:
        chosen = sample(every_receipt(wired), number, SEED)
        again = await replay_all(wired, chosen)
        return {"replayed": len(again), "identical": sum(bool(one["identical"]) for one in again)}
    finally:
        await wired.close()


def stop(project: Path, name: str, urls: dict[str, str], number: int, *, ahead: bool = False) -> dict[str, Any]:
    """One move, what stayed the same, and predictions made again there."""
    copied = 0.0
    if ahead:
        with host.running(project, say):
            began = time.monotonic()
            copy_ahead(project, edited((project / FILE_NAME).read_text(), urls))
            copied = time.monotonic() - began
    before = logical_hashes(project)
    say(f"moving {name}")
    began = time.monotonic()
    done = moved(project, urls)
    seconds = time.monotonic() - began
    after = logical_hashes(project)
    with host.running(project, say):
        again = asyncio.run(replays(project, number))
    return {
        "stop": name,
        "ahead_seconds": round(copied, 2),
        "seconds": round(seconds, 2),
        "frozen_seconds": round(done.frozen_seconds, 2),
        "bytes": sum(part.bytes for part in done.parts),
        "parts": _figures(done),
        "hashes": len(before),
        "differ": sorted(name for name in before if before[name] != after[name]),
        **again,
    }


def live_stop(project: Path, name: str, urls: dict[str, str], number: int) -> dict[str, Any]:
    """One move while the platform serves, what the command compared, and predictions made again there."""
    with host.running(project, say):
        began = time.monotonic()
        done = move_live(project, edited((project / FILE_NAME).read_text(), urls))
        seconds = time.monotonic() - began
        again = asyncio.run(replays(project, number))
    return {
        "stop": name,
        "ahead_seconds": round(sum(done.passes), 2),
        "seconds": round(seconds, 2),
        "frozen_seconds": round(done.frozen_seconds, 2),
        "bytes": sum(part.bytes for part in done.parts),
        "parts": _figures(done),
        "hashes": len(done.tables) + len(done.streams) + len(done.overlays),
        "differ": list(done.missing),
        **again,
    }


def _figures(done: ProjectMove) -> dict[str, dict[str, float]]:
    return {
        part.part: {"items": part.items, "moved": part.moved, "seconds": round(part.seconds, 2)} for part in done.parts
    }


def killed(project: Path, urls: dict[str, str], kills: int) -> dict[str, Any]:
    """The command, killed at random moments of its time and started again; what the project is after each kill."""
    command = [sys.executable, "-m", "antiphon.cli.main", "migrate", "--project", str(project)]
    command += [word for store, url in urls.items() for word in (f"--{store}", url)]
    before, seconds, drawn = logical_hashes(project), 8.0, random.Random(SEED)
    back = dict.fromkeys(STORES, EMBEDDED)
    ended = differ = 0
    for number in range(kills):
        began = time.monotonic()
        moving = start_child(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            moving.wait(drawn.uniform(0.3, 1.0) * seconds)
        moving.kill()
        if moving.wait() == 0:
            seconds, ended = time.monotonic() - began, ended + 1
            moved(project, back)  # Whole, and back for the next.
        try:
            differ += logical_hashes(project) != before
        except SetupError:  # Between its last two steps: neither side is used, and the next move ends it.
            moved(project, urls)
            moved(project, back)
            differ += logical_hashes(project) != before
        if urls["log"] in (project / FILE_NAME).read_text():  # It had been decided: all is there.
            moved(project, back)
        say(f"killed {number + 1} times, {ended} moves ended before")
    return {"kills": kills, "ended": ended, "differ": differ}


def run(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """There, back, and there again."""
    if options.size == "ci":
        project = small_project(scratch / "desk")
    else:
        if not (options.project / FILE_NAME).exists():
            raise SetupError(
                "There is no project of the flight desk.", where=str(options.project), next_step="Run `make demo`."
            )
        project = Path(shutil.copytree(options.project, scratch / "project"))
    with (project / FILE_NAME).open("a") as file:
        file.write(CREDENTIALS)
    servers = Servers(durable=True)
    os.environ.update(servers.environment)
    try:
        back = dict.fromkeys(STORES, EMBEDDED)
        kills = killed(project, servers.fresh(), options.kills)
        there = servers.fresh()
        stops = [
            stop(project, "there", there, options.replays),
            stop(project, "back", back, options.replays),
            stop(project, "copied ahead", servers.fresh(), options.replays, ahead=True),
            live_stop(project, "back, live", back, options.replays),
        ]
    finally:
        servers.remove()
    return {
        "benchmark": "migrate",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": options.size,
        "kills": kills,
        "stops": stops,
        "holds": kills["differ"] == 0
        and all(not one["differ"] and 0 < one["replayed"] == one["identical"] for one in stops),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print a table and the JSON line; returns 1 unless everything is as it was."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--size", choices=("ci", "demo"), default="demo")
    parser.add_argument("--project", type=Path, default=PROJECT)
    parser.add_argument("--replays", type=int, default=40)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="antiphon-migrate-") as scratch:
        result = run(options, Path(scratch))
    print(f"{'stop':<12} {'part':<8} {'items':>10} {'written':>10} {'seconds':>8}")
    for one in result["stops"]:
        for part, figures in one["parts"].items():
            print(
                f"{one['stop']:<12} {part:<8} {figures['items']:>10,} {figures['moved']:>10,} {figures['seconds']:>8}"
            )
        print(
            f"{one['stop']:<12} {'all':<8} {one['bytes']:>10,} bytes, {one['frozen_seconds']} s frozen; "
            f"{one['hashes'] - len(one['differ'])} of {one['hashes']} hashes equal, "
            f"{one['identical']} of {one['replayed']} replayed byte for byte"
        )
    print(f"killed {result['kills']['kills']} times: {result['kills']['differ']} differences")
    line = json.dumps(result)
    if options.record:
        with (Path(__file__).parents[1] / "results" / "migrate.jsonl").open("a") as kept:
            kept.write(line + "\n")
    print(line)
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
