"""The feature platform killed at random moments: nothing lost, nothing wrong, nothing left behind.

Run ``python -m benchmarks.durability.feature_chaos --size full`` (200 kills with the embedded stores and 60 with Redis
online), or ``demo`` (40 and 20) or ``ci`` (6): a table, then one JSON line (kept in
``benchmarks/results/feature_chaos.jsonl``).

A process appends events, consumes them, refreshes (materialize, gate, publish), collects garbage and rolls back on a
real project: SQLite catalog, lake on disk, LMDB or Redis online. It is killed with SIGKILL at a moment drawn over the
measured duration of an operation that is drawn as well (seed declared), so that kills fall into all of its phases;
which phase is told by what it said last. Then everything is looked at from outside (``feature_chaos_evidence``), a new
process reads what is served at once, finishes what is open, collects, reads again, and everything is looked at again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.durability.kill_harness_command import command
from tests.chaos.harness import feature_chaos_checks as checks
from tests.chaos.harness.feature_chaos_child import KEPT, OPERATIONS
from tests.chaos.harness.feature_chaos_evidence import Found, Looker, read_orders, read_stock
from tests.chaos.harness.feature_chaos_lives import Aim, Lives, phase_of
from tests.chaos.harness.feature_chaos_project import batch, write_project, write_stock
from tests.chaos.harness.running import scratch

SEED = 20130410
SIZES = {"ci": (6, 0), "demo": (40, 20), "full": (200, 60)}
"""Kills with the embedded stores, and with Redis online."""


class Killed(msgspec.Struct, frozen=True):
    """One kill: what it was meant for, how far into its usual duration, and the phase that it fell into."""

    aimed: str
    fraction: float
    phase: str


class Report(msgspec.Struct, frozen=True):
    """What came of a run; ``violations`` by check, all empty when the platform held."""

    store: str
    seed: int
    kills: tuple[Killed, ...]
    violations: dict[str, list[str]]
    events: int
    publications: int
    snapshots: int
    files: int
    readings: int
    values: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing was violated."""
        return not any(self.violations.values())


class Harness:
    """One project, killed again and again."""

    def __init__(
        self, root: Path, seed: int, redis: Any = None, broken: str | None = None, lives: Lives | None = None
    ) -> None:
        self._root, self._seed, self._broken = root, seed, broken
        self._base = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
        self._chance = random.Random(seed)
        url = None if redis is None else redis.url
        write_project(root, seed, self._base, url)
        self._history = read_orders(root / "orders.parquet")
        self._versions = 1
        self._stock = dict([read_stock(root / "stock-0.parquet")])
        self._looker = Looker(root, None if redis is None else redis.client())
        self._batch = self._life = 0
        self._acknowledged: set[str] = set()
        self._seconds: dict[str, list[float]] = {}
        self._offsets: dict[str, int] = {}
        self._publications: dict[int, dict[str, str]] = {}
        self.violations: dict[str, list[str]] = {}
        self.kills: list[Killed] = []
        self.readings = self.values = 0
        self.found: Found | None = None
        self._own = lives is None
        self._lives = lives or Lives(root)

    def prepare(self, turns: int = 3) -> None:
        """Apply the definitions, and let a life that is not killed say how long every operation takes."""
        said, code = self._lives.whole(self._order("apply"))
        assert code == 0, f"it could not be applied: {self._last_words()}"
        said, code = self._lives.whole(self._order("work", operations=[*OPERATIONS] * turns))
        self._hear(said)
        self._note("no life fails", [] if code == 0 else [f"code {code}: {self._last_words()}"])

    def kill(self, only: str | None = None) -> None:
        """One life, killed in an operation that is drawn, or in this one; then what it left, before and after it is put
        in order."""
        operations = list(OPERATIONS)
        aimed, _, told = (only or self._chance.choice(operations)).partition(": ")
        phase = told or self._chance.choice((None, *OPERATIONS[aimed]))
        passed = 0 if told else self._chance.randrange(4)
        before = [self._chance.choice(operations) for _ in range(self._chance.randrange(3))]
        before += {"consume": ["append"], "collect": ["refresh"], "rollback": ["refresh"], "release": ["refresh"]}.get(
            aimed, []
        )
        fraction = self._chance.random() * 1.05
        if self._chance.random() < 0.5:
            kept = write_stock(self._root, self._seed, self._base, self._versions)
            self._stock.update([read_stock(kept)])
            self._versions += 1
        aim = Aim(aimed, phase, before.count(aimed), passed)
        pid = self._lives.begin(self._order("work", operations=[*before, aimed, *operations * 5]))
        said = []
        while not aim.reached(line := self._lives.hear()):
            said.append(line)
            if line.startswith("ended "):
                self._lives.reap()
                self._note("no life fails", [f"{line}: {self._last_words()}"])
                return
        said.append(line)
        usual = self._seconds.get(phase if phase is not None and line == f"in {phase}" else aimed, [])
        time.sleep(fraction * statistics.median(usual[-9:] or [0.01]))
        os.kill(pid, signal.SIGKILL)
        rest, code = self._lives.rest()
        said += rest
        self._hear(said)
        if code != -signal.SIGKILL:
            self._note("no life fails", [f"code {code}: {self._last_words()}"])
            return
        self.kills.append(Killed(f"{aimed}: {phase}" if phase else aimed, round(fraction, 3), phase_of(said)))
        self._look(checks_kept=KEPT)
        self._settle()

    def _look(self, checks_kept: int) -> Found:
        found = self._looker.look()
        self._note("catalog whole", checks.catalog_whole(found, checks_kept))
        self._note("no event lost", checks.events_kept(found, self._acknowledged))
        self._note("offsets go on", checks.offsets_forward(self._offsets, found))
        self._note("publications stay", checks.publications_forward(self._publications, found))
        self._offsets, self._publications, self.found = found.offsets, found.publications, found
        return found

    def _settle(self) -> None:
        found = self.found
        assert found is not None
        said, code = self._lives.whole(self._order("settle"))
        if code != 0:
            self._note("no life fails", [f"settling, code {code}: {self._last_words()}"])
            return
        told = json.loads(next(line for line in said if line.startswith("settled ")).partition(" ")[2])
        self._acknowledge(self._batch)
        self._note("values right at once", self._right(found, told["at_once"], found.offsets))
        found = self._look(checks_kept=KEPT)
        self._note("values right when settled", self._right(found, told["settled"], found.offsets))
        behind = [f"{view} stays at {at} of {end}" for view, (at, end) in told["consumed"].items() if at != end]
        self._note("everything is consumed", behind)
        self._note("runs end well", [f"{run} {how}" for run, how in told["runs"].items()])
        self._note("no orphans", checks.no_orphans(found, told["cutoff"], KEPT))

    def _right(self, found: Found, readings: list[dict[str, Any]], offsets: dict[str, int]) -> list[str]:
        self.readings += len(readings)
        self.values += sum(len(values) for one in readings for values in one.get("values", {}).values())
        return checks.values_right(found, readings, self._history, self._stock, offsets)

    def _order(self, what: str, **more: Any) -> dict[str, Any]:
        self._life += 1
        return {
            "do": what, "root": str(self._root), "seed": self._seed, "base": self._base.isoformat(),
            "batch": self._batch, "life": self._life, "break": self._broken, **more,
        }  # fmt: skip

    def _hear(self, said: list[str]) -> None:
        for line in said:
            word, *rest = line.split()
            if word == "acked":
                self._acknowledge(int(rest[0]))
            elif word in ("end", "after"):
                self._seconds.setdefault(" ".join(rest[:-1]), []).append(float(rest[-1]))

    def _acknowledge(self, number: int) -> None:
        self._acknowledged.update(row["order_id"] for row in batch(self._seed, self._base, number))
        self._batch = number + 1

    def _note(self, check: str, wrong: list[str]) -> None:
        known = self.violations.setdefault(check, [])
        known += [f"kill {len(self.kills)}: {one}" for one in wrong]

    def _last_words(self) -> str:
        return self._lives.log.read_text(encoding="utf-8", errors="replace")[-2_000:]

    def close(self) -> None:
        """End the zygote, unless it was given."""
        if self._own:
            self._lives.close()


def measure(
    root: Path,
    kills: int,
    seed: int,
    *,
    redis: Any = None,
    broken: str | None = None,
    only: str | None = None,
    turns: int = 3,
    lives: Lives | None = None,
    say: Any = None,
) -> Report:
    """Kill a project's process so often, in an empty folder.

    Args:
        redis: a running server with ``url`` and ``client()``; ``None`` is the embedded store.
        broken: a defence that is switched off; then the run ends with the first violation.
        only: the operation to kill in, or ``OPERATION: PHASE``.
        turns: rounds of every operation before the first kill, which tell how long each takes.
        lives: a zygote that is there already.
    """
    began = time.monotonic()
    harness = Harness(root, seed, redis, broken, lives)
    try:
        harness.prepare(turns)
        for _ in range(kills):
            harness.kill(only)
            if say is not None:
                last = harness.kills[-1] if harness.kills else None
                wrong = sum(map(len, harness.violations.values()))
                say.write(f"\r{len(harness.kills):4}/{kills}  {wrong} violations  {last.phase if last else '':40}")
                say.flush()
            if broken is not None and any(harness.violations.values()):
                break
    finally:
        harness.close()
    if say is not None:
        say.write("\n")
    found = harness.found
    return Report(
        store="LMDB" if redis is None else "Redis",
        seed=seed,
        kills=tuple(harness.kills),
        violations=harness.violations,
        events=len(found.events) if found else 0,
        publications=len(found.publications) if found else 0,
        snapshots=len(found.manifests) if found else 0,
        files=len(found.lake) if found else 0,
        readings=harness.readings,
        values=harness.values,
        seconds=time.monotonic() - began,
    )


def table(report: Report) -> str:
    """The report for people."""
    lines = [
        f"{report.store} online, seed {report.seed}: {len(report.kills)} kills in {report.seconds:.0f} s",
        f"  {report.events} events, {report.publications} publications, {report.snapshots} snapshots, "
        f"{report.files} files; {report.values} values read in {report.readings} readings",
    ]
    lines += [f"  {number:4} in {phase}" for phase, number in Counter(one.phase for one in report.kills).most_common()]
    for check, wrong in report.violations.items():
        lines.append(f"  {'FAIL' if wrong else 'ok  '} {check}" + (f": {len(wrong)} violations" if wrong else ""))
        lines += [f"         {one}" for one in wrong[:5]]
    return "\n".join(lines)


def summary(reports: list[Report], size: str) -> dict[str, Any]:
    """The reports as one JSON line."""
    return {
        "benchmark": "feature_chaos",
        "size": size,
        "holds": all(report.holds for report in reports),
        "runs": [
            {
                **{name: value for name, value in msgspec.to_builtins(report).items() if name != "kills"},
                "kills": len(report.kills),
                "phases": dict(Counter(one.phase for one in report.kills).most_common()),
                "violations": {check: len(wrong) for check, wrong in report.violations.items()},
                "seconds": round(report.seconds, 1),
            }
            for report in reports
        ],
    }


@contextmanager
def server() -> Iterator[Any]:
    """A Redis server of its own, for as long as the block lasts."""
    from tests.servers import RedisProcess

    class Server(RedisProcess):
        def client(self) -> Any:
            import redis

            return redis.Redis(port=self.port)

    server = Server("redis-server")
    try:
        server.start()
        yield server
    finally:
        server.remove()


def run(size: str, say: Any = None) -> dict[str, Any]:
    """Both stores at a size; the JSON line."""
    embedded, far = SIZES[size]
    reports = []
    with scratch() as folder:
        reports.append(measure(Path(folder) / "embedded", embedded, SEED, say=say))
        if far:
            with server() as redis:
                reports.append(measure(Path(folder) / "redis", far, SEED + 1, redis=redis, say=say))
    if say is not None:
        for report in reports:
            say.write(table(report) + "\n")
    return summary(reports, size)


if __name__ == "__main__":
    sys.exit(command("feature_chaos", __doc__, SIZES, run))
