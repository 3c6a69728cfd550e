"""A backlog of events: how fast one worker consumes it, two that have half of the partitions each, and one that has
half of them, which tells what reading another one's events costs.

A part of ``benchmarks.features.stream``.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.features.stream import ENTITIES, Opened, Size, child, event


def sustained(opened: Opened, places: list[str], backlog: int) -> dict[str, Any]:
    """Appending without a consumer, then consuming without appending."""
    started = time.perf_counter()
    for start in range(0, backlog, 500):
        batch = [event(f"back-{n}", f"sensor-{n % ENTITIES}", 1) for n in range(start, min(start + 500, backlog))]
        opened.log.append(opened.scope, "readings", batch)
    appending = backlog / (time.perf_counter() - started)
    watching = opened.consumer()
    with child("consume", places):
        deadline = time.perf_counter() + 170
        while (first := min(stream.consumed for stream in watching.status(datetime.now(UTC)))) == 0:
            assert time.perf_counter() < deadline, "the consumer does not move"
            time.sleep(0.002)
        began = time.perf_counter()
        while (now := min(stream.consumed for stream in watching.status(datetime.now(UTC)))) < backlog:
            assert time.perf_counter() < deadline, "the backlog is too long for this machine"
            time.sleep(0.005)
        took = time.perf_counter() - began
    return {"appended_per_s": round(appending), "consumed_per_s": round((now - first) / took) if took > 0 else None}


DIVISIONS: dict[str, list[list[int]]] = {
    "one": [[0, 1, 2, 3, 4, 5, 6, 7]],
    "two": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "half": [[0, 1, 2, 3]],
}
"""Partitions of each worker."""


class Consumed(NamedTuple):
    """Events/s of the log by the clock, and microseconds of a processor that the busiest worker took for each."""

    per_second: float
    processor: float


def divided(folder: Path, nats: str | None, redis: str | None, size: Size) -> dict[str, Any]:
    """How fast a backlog is through in all partitions that are consumed, by how they are divided; the best of rounds in
    turns, since what disturbs makes it slower only.

    ``two_by_one`` is of this machine as it is. ``two_by_one_with_cores`` is by the processor time of the busiest
    worker: what a machine with a core for each would show, if nothing waited.
    """
    found: dict[str, list[Consumed]] = {name: [] for name in DIVISIONS}
    backlog = size.backlog if size.rounds == 1 else size.backlog // 2
    for number in range(size.rounds):
        for name, workers in DIVISIONS.items():
            opened = Opened(folder, nats, redis, f"{name}-{number}")
            try:
                done = consumed(opened, [str(folder), nats or "-", redis or "-"], workers, backlog)
            finally:
                opened.close()
            found[name].append(done)
    best = {name: max(one.per_second for one in done) for name, done in found.items()}
    least = {name: min(one.processor for one in done) for name, done in found.items()}
    return {
        **{f"{name}_per_s": [round(one.per_second) for one in done] for name, done in found.items()},
        **{f"{name}_processor_us": [round(one.processor, 1) for one in done] for name, done in found.items()},
        "two_by_one": round(best["two"] / best["one"], 2),
        "two_by_one_with_cores": round(least["one"] / least["two"], 2),
    }


def consumed(opened: Opened, places: list[str], workers: list[list[int]], backlog: int) -> Consumed:
    """Have workers consume a backlog that was appended while all of them waited for its end."""
    from antiphon.features.online.overlay_records import view_prefix
    from antiphon.training.child import processor_seconds

    prefixes = [view_prefix(spec.key) for spec in opened.specs]
    numbers = [number for worker in workers for number in worker]

    def behind() -> bool:
        progress = opened.overlay.read(prefixes).progress
        return min(progress[view][number].offset for view in prefixes for number in numbers) < backlog

    with ExitStack() as stack:
        started = [
            stack.enter_context(child("consume", places, opened.scope.tenant, ",".join(map(str, worker)))).pid
            for worker in workers
        ]
        for start in range(0, backlog, 500):
            batch = [event(f"{n}", f"sensor-{n % ENTITIES}", 1) for n in range(start, min(start + 500, backlog))]
            opened.log.append(opened.scope, "readings", batch)
        before, began = [processor_seconds(pid) or 0.0 for pid in started], time.perf_counter()
        opened.go.touch()
        while behind():
            assert time.perf_counter() < began + 170, "the backlog is too long for this machine"
            time.sleep(0.02)
        took = time.perf_counter() - began
        used = [(processor_seconds(pid) or 0.0) - was for pid, was in zip(started, before, strict=True)]
    return Consumed(backlog / took, max(used) / backlog * 1e6)
