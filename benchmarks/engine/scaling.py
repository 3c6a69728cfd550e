"""Engines that are stopped while nobody needs them: memory given back, start, first request; the price when none is.

Run ``python -m benchmarks.engine.scaling [--size ci|demo] [--before REVISION]``: tables, then one JSON line, kept in
``benchmarks/results/engine_scaling.jsonl`` with ``--keep``.

- *Stop and start*: a platform over llama.cpp whose engine is stopped after a second. Memory of the engine, and of all
  its processes together, before and after; then the first request after each stop: how long it takes beside one that
  finds the engine up, and how much of that the platform itself says it waited for the start.
- *Online path*: two platforms over the simulated engine, side by side, one request to each by turns: with scaling,
  where nothing is stopped, and without it (``--before``: the code of an earlier revision). The ratio of the medians of
  blocks.

It holds when the engine's whole memory is given back, every request is answered, and the online path takes at most
:data:`MOST_RATIO` times as long.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from benchmarks.paired import checkout
from tests.chaos.harness.chaos_project import ChaosProject, write_project
from tests.chaos.harness.running import scratch, supervised, until

from antiphon.operations.processes import ProcessStatus, statuses

RESULTS = Path(__file__).parents[1] / "results" / "engine_scaling.jsonl"
IDLE = '\n[scaling]\nidle = "1s"\n'
NEVER_IDLE = '\n[scaling]\nidle = "1h"\n'
MOST_RATIO = 1.03
QUIET_LOAD = 1.0
"""Load of the machine before a run, above which its seconds are not worth keeping."""


class Size(msgspec.Struct, frozen=True):
    """The number of starts, and of blocks with so many requests to each contender."""

    starts: int
    blocks: int
    requests: int


SIZES = {"ci": Size(3, 4, 40), "demo": Size(15, 12, 150)}


class Starts(msgspec.Struct, frozen=True):
    """Figures of stop and start; memory in MB (resident, and proportional of all processes), times in seconds."""

    engine_before: float
    engine_after: float
    platform_before: float
    platform_after: float
    start_p50: float
    first_request_p50: float
    first_request_most: float
    waited_p50: float
    next_request_p50: float
    first_comment_p50: float
    failed: int


class OnlinePath(msgspec.Struct, frozen=True):
    """Milliseconds of a request with scaling and without, and the ratio of the blocks' medians with its range."""

    with_scaling: float
    without: float
    ratio: float
    least: float
    most: float


async def stop_and_start(root: Path, size: Size) -> Starts:
    """Measure stops and starts of a llama.cpp engine.

    Raises:
        TimeoutError: the engine was not stopped, or not started.
    """
    project = write_project(root, "llamacpp", IDLE)
    first, waited, following, comments, failed = [], [], [], [], 0
    async with supervised(root, project.url), client_of(project) as client:
        await _ask(client, project)
        before, platform_before = _engine(project), _proportional(project)
        await _stopped(project)
        after, platform_after = _engine(project), _proportional(project)
        for number in range(size.starts):
            await _stopped(project)
            began = time.perf_counter()
            if number % 2:
                comments.append(await _first_comment(client, project))
                first.append(time.perf_counter() - began)
            else:
                answer = await _ask(client, project)
                first.append(time.perf_counter() - began)
                failed += answer.status_code != 200
                waited.append(float(answer.headers.get("x-antiphon-start-seconds", 0)))
            began = time.perf_counter()
            failed += (await _ask(client, project)).status_code != 200
            following.append(time.perf_counter() - began)
        starts = msgspec.json.decode((project.directory / "run" / "engine.starts").read_bytes(), type=list[float])
    return Starts(
        engine_before=round((before.resident_bytes or 0) / 1e6, 1),
        engine_after=round((after.resident_bytes or 0) / 1e6, 1),
        platform_before=round(platform_before / 1e6, 1),
        platform_after=round(platform_after / 1e6, 1),
        start_p50=round(statistics.median(starts), 3),
        first_request_p50=round(statistics.median(first), 3),
        first_request_most=round(max(first), 3),
        waited_p50=round(statistics.median(waited), 3),
        next_request_p50=round(statistics.median(following), 3),
        first_comment_p50=round(statistics.median(comments), 3),
        failed=failed,
    )


async def online_path(root: Path, size: Size, before: Path | None) -> OnlinePath:
    """Compare the online path with scaling, while nothing is stopped, with the one without."""
    ours = write_project(root / "with", "simulated", NEVER_IDLE)
    other = write_project(root / "without", "simulated")
    source = {} if before is None else {"PYTHONPATH": os.pathsep.join([str(before / "src"), str(before)])}
    ratios, mine, theirs = list[float](), list[float](), list[float]()
    async with (
        supervised(ours.root, ours.url),
        supervised(other.root, other.url, environment=source),
        client_of(ours) as to_ours,
        client_of(other) as to_other,
    ):
        for block in range(-1, size.blocks):
            taken: tuple[list[float], list[float]] = ([], [])
            for number in range(size.requests):
                pair = [(0, to_ours, ours), (1, to_other, other)]
                for index, client, project in pair if number % 2 else pair[::-1]:
                    began = time.perf_counter()
                    (await _ask(client, project)).raise_for_status()
                    taken[index].append(time.perf_counter() - began)
            if block < 0:  # To warm both up.
                continue
            medians = [statistics.median(one) for one in taken]
            ratios.append(medians[0] / medians[1])
            mine.append(medians[0])
            theirs.append(medians[1])
    return OnlinePath(
        with_scaling=round(1e3 * statistics.median(mine), 3),
        without=round(1e3 * statistics.median(theirs), 3),
        ratio=round(statistics.median(ratios), 4),
        least=round(min(ratios), 4),
        most=round(max(ratios), 4),
    )


@asynccontextmanager
async def client_of(project: ChaosProject) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with the administrator's key."""
    headers = {"authorization": f"Bearer {project.key}"}
    async with httpx2.AsyncClient(base_url=project.url, headers=headers, timeout=120.0) as client:
        yield client


def _body(project: ChaosProject, **more: Any) -> dict[str, Any]:
    return {
        "model": project.model,
        "messages": [{"role": "user", "content": "Name a river."}],
        "max_tokens": 4,
        **more,
    }


async def _ask(client: httpx2.AsyncClient, project: ChaosProject) -> httpx2.Response:
    return await client.post("/v1/chat/completions", json=_body(project))


async def _first_comment(client: httpx2.AsyncClient, project: ChaosProject) -> float:
    """Seconds until a client that streams is told of the start, or has its text; the stream is read to its end."""
    began, first = time.perf_counter(), 0.0
    async with client.stream("POST", "/v1/chat/completions", json=_body(project, stream=True)) as response:
        async for line in response.aiter_lines():
            first = first or (time.perf_counter() - began if line else 0.0)
    return first


def _engine(project: ChaosProject) -> ProcessStatus:
    return next(one for one in statuses(project.directory / "run") if one.name == "engine")


async def _stopped(project: ChaosProject) -> None:
    async def state() -> str:
        return _engine(project).state

    await until(state, lambda found: found == "stopped", 60.0)


def _proportional(project: ChaosProject) -> float:
    """Bytes of the platform's processes, with their shares of pages that several have (``Pss``, proc(5))."""
    pids = [one.pid for one in statuses(project.directory / "run") if one.alive]
    total = 0
    for pid in (*pids, _parent(pids[0])):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1_024
    return float(total)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


@contextmanager
def _tree(revision: str | None) -> Iterator[tuple[Path | None, str | None]]:
    if revision is None:
        yield None, None
        return
    with checkout(revision) as found:
        yield found


def _print(title: str, figures: msgspec.Struct, units: Sequence[str]) -> None:
    print(title)
    for (name, value), unit in zip(msgspec.structs.asdict(figures).items(), units, strict=True):
        print(f"  {name.replace('_', ' '):<22} {value:>10} {unit}")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, keep; returns 1 when it does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.scaling", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="demo")
    parser.add_argument("--before", help="compare the online path with this revision's, instead of scaling off")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    size, load = SIZES[options.size], os.getloadavg()[0]
    with scratch() as folder, _tree(options.before) as (tree, commit):
        starts = asyncio.run(stop_and_start(Path(folder) / "starts", size))
        path = asyncio.run(online_path(Path(folder) / "path", size, tree))
    _print("Stop and start (llama.cpp)", starts, ["MB"] * 4 + ["s"] * 6 + [""])
    _print("Online path while nothing is stopped", path, ["ms", "ms", "×", "×", "×"])
    holds = starts.engine_after == 0 and starts.failed == 0 and path.ratio <= MOST_RATIO
    quiet = load <= QUIET_LOAD
    print(f"{'holds' if holds else 'DOES NOT HOLD'}; load before: {load:.1f}{'' if quiet else ', too busy to be kept'}")
    line: dict[str, Any] = {"benchmark": "engine_scaling", "at": datetime.now(UTC).isoformat(timespec="seconds")}
    line |= {"size": options.size, "cores": os.cpu_count(), "load": round(load, 2), "quiet": quiet, "before": commit}
    line |= {"starts": msgspec.structs.asdict(starts), "path": msgspec.structs.asdict(path), "holds": holds}
    encoded = json.dumps(line)
    if options.keep and quiet:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(encoded + "\n")
    print(encoded)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
