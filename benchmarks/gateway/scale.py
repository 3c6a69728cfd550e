"""Requests a second of two gateways on one catalog, as a ratio to one, on SQLite and on PostgreSQL; goal 1.7.

    python -m benchmarks.gateway.scale [--size ci|demo|full] [--share 0.15] [--keep]

Two gateways, two load generators and an engine need more cores than two, so each gateway is held to a share of one
core (``benchmarks/cpu_groups.py``) in every slice, alone or beside the other; load generators, the simulated engine and
PostgreSQL have the rest of the machine. What limits a gateway is told: the share of periods in which it was held.
Slices of one and of both take turns, and a round gives one ratio. Both catalogs flush each commit to disk, and an
answer counts once its receipt is committed, so a request here is a durable answer.

A table, then one JSON line, kept in ``benchmarks/results/scale.jsonl`` with ``--keep``; exit code 1 when the goal is
missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cpu_groups import CpuGroup, available, cpu_groups
from benchmarks.gateway import contenders
from benchmarks.gateway.contenders import Contender, Cores
from benchmarks.gateway.figures import cpu_seconds, paired_ratio
from benchmarks.gateway.load import Load, Loader
from tests.harness.ports import free_port
from tests.servers import PostgresProcess

from antiphon.services.engines import commands

GOAL = 1.7
GATEWAYS = 2
CONNECTIONS = 32
TOKENS = 16
SIZES = {"ci": (4, 1.5), "demo": (10, 2.0), "full": (24, 3.0)}
"""Rounds, and seconds of a slice."""
PASSWORD = "BENCH_CATALOG_PASSWORD"
RESULTS = Path(__file__).parents[1] / "results" / "scale.jsonl"


class Pair:
    """Two gateways in their groups, each with a load generator of its own."""

    def __init__(self, gateways: list[Contender], groups: list[CpuGroup], loaders: list[Loader]) -> None:
        self._gateways, self._groups, self._loaders = gateways, groups, loaders
        self.held: list[float] = []
        self.milliseconds: list[float] = []

    def rate(self, chosen: list[int], seconds: float) -> float:
        """Requests a second that these gateways answer together.

        Raises:
            RuntimeError: a request was refused.
        """
        before = [(self._groups[one].periods(), cpu_seconds(self._gateways[one].pid)) for one in chosen]
        with ThreadPoolExecutor(len(chosen)) as threads:
            sent = list(threads.map(lambda one: self._send(one, seconds), chosen))
        for one, (periods, spent), answered in zip(chosen, before, sent, strict=True):
            ran, held = (now - then for now, then in zip(self._groups[one].periods(), periods, strict=True))
            self.held.append(held / max(1, ran))
            self.milliseconds.append(1e3 * (cpu_seconds(self._gateways[one].pid) - spent) / max(1, answered[0]))
        return sum(answers / took for answers, took in sent)

    def _send(self, one: int, seconds: float) -> tuple[int, float]:
        found = self._loaders[one].send(Load((self._gateways[one].target,), CONNECTIONS, seconds, tokens=TOKENS))
        if found.refused:
            raise RuntimeError(f"A request was refused: {found.example}")
        return len(found.answers[0]), found.seconds


@contextmanager
def gateways(folder: Path, share: float, catalog: str) -> Iterator[Pair]:
    """Two gateways of one project on a catalog, before one engine."""
    engine = f'kind = "simulated"\nmodels = ["{contenders.MODEL}"]\nslots = 64\ncontext = 1024'
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(contenders.project(folder, engine, catalog)))
        groups = stack.enter_context(cpu_groups(GATEWAYS, share))
        stack.enter_context(contenders.running(commands.command(store), store.paths.logs / "engine.log"))
        free = Cores(None, None)
        both = [
            stack.enter_context(
                contenders.gateway(store, f"gateway {one}", free, port=free_port(), under=group.command)
            )
            for one, group in enumerate(groups)
        ]
        loaders = [
            stack.enter_context(Loader((), contenders.environment(), folder / f"found-{one}.json"))
            for one in range(GATEWAYS)
        ]
        yield Pair(both, groups, loaders)


@contextmanager
def catalogs() -> Iterator[dict[str, str]]:
    """The sections of settings of each catalog, by its name."""
    server = PostgresProcess(durable=True)
    try:
        server.start()
        os.environ[PASSWORD] = server.password
        yield {"sqlite": "", "postgresql": f'\n[catalog]\nurl = "{server.url}"\npassword_variable = "{PASSWORD}"\n'}
    finally:
        server.remove()


def measure(folder: Path, share: float, catalog: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Every figure on one catalog."""
    one: list[float] = []
    both: list[float] = []
    with gateways(folder, share, catalog) as pair:
        pair.rate([0, 1], seconds)
        pair.held.clear()
        pair.milliseconds.clear()
        for number in range(rounds):
            slices = (("one", [number // 2 % 2]), ("both", [0, 1]))
            for name, chosen in slices if number % 2 else reversed(slices):
                (one if name == "one" else both).append(pair.rate(chosen, seconds))
    return {
        "one": round(statistics.median(one), 1),
        "both": round(statistics.median(both), 1),
        "times": paired_ratio(both, one),
        "least_and_most": [round(extreme(b / o for b, o in zip(both, one, strict=True)), 3) for extreme in (min, max)],
        "held_share_of_periods": round(statistics.median(pair.held), 3),
        "gateway_cpu_ms": round(statistics.median(pair.milliseconds), 3),
    }


def main() -> int:
    """Measure, print, keep; returns 1 when the goal is missed, 2 when it cannot be measured here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--share", type=float, default=0.15, help="of a core, for each gateway")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if not available():
        print("It cannot be measured here: it needs root and the cpu controller of cgroup v1.", file=sys.stderr)
        return 2
    rounds, seconds = SIZES[options.size]
    found: dict[str, Any] = {}
    with catalogs() as sections, tempfile.TemporaryDirectory(prefix="bench-scale-", dir="/var/tmp") as folder:
        for kind, section in sections.items():
            found[kind] = measure(Path(folder) / kind, options.share, section, rounds, seconds)
    print(f"{'':12}{'one, req/s':>12}{'both, req/s':>12}{'times':>8}{'90 %':>18}{'held':>8}{'CPU ms':>8}")
    for kind, of in found.items():
        times, low, high = of["times"]
        print(
            f"{kind:12}{of['one']:>12.0f}{of['both']:>12.0f}{times:>8.2f}{f'{low:.2f} to {high:.2f}':>18}"
            f"{of['held_share_of_periods']:>8.0%}{of['gateway_cpu_ms']:>8.2f}"
        )
    summary = {
        "benchmark": "scale",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": options.size,
        "share_of_a_core": options.share,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "catalogs": found,
        "met": all(of["times"][0] >= GOAL for of in found.values()),
    }
    line = json.dumps(summary)
    if options.keep:
        with RESULTS.open("a") as kept:
            kept.write(line + "\n")
    print(line)
    return 0 if summary["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
