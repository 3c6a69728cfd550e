"""What a year of history takes, how soon any span of it is read, and what recording costs.

Processes of a platform (two gateways, a worker, an engine; four applications with both paths) count a load that follows
the hours of a day, seeded; the product's own recorders and repository keep it on a clock that is moved by hand. The
bytes of a row of each period, times the rows of it that a year keeps, are what a year takes; SQLite's own overhead is
measured on the file. Then every period is filled to what a year keeps, and the columns of the overview are read.

    python -m benchmarks.operations.history [--size ci|demo|full] [--keep]

A table, then one JSON line, kept in ``benchmarks/results/history.jsonl``; exit code 1 when a year takes more than 200
MB, or a span is read in more than 300 ms (p95).
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.durability.kill_harness_command import finish
from prometheus_client import CollectorRegistry
from tests.harness import fakes

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.measurements import FINEST, KEPT, PLATFORM, MeasurementRows, Measurements, begin_of
from antiphon.catalog.serving.receipt import Receipt, Timing
from antiphon.core.clock import ManualClock, SystemClock
from antiphon.core.process_metrics import describe_process
from antiphon.core.scope import Scope
from antiphon.durable.run_metrics import RunMetrics
from antiphon.engine.api.engine_metrics import EngineMetrics
from antiphon.engine.api.messages import EngineLoad
from antiphon.gateway.dashboard.pages import _SHOWN, SPANS
from antiphon.gateway.measurements import AnswerMeasurement, GatewayMetrics
from antiphon.governance.identity.principal import Principal
from antiphon.operations.history.recorder import MetricDifferences
from antiphon.operations.history.window import HistoryWindow, period_of
from antiphon.serving.answer_metrics import AnswerMetrics
from antiphon.serving.request import AnswerRequest

SIZES: dict[str, dict[str, Any]] = {
    "ci": {"hours": 2, "reads": 5},
    "demo": {"hours": 30, "reads": 40},
    "full": {"hours": 24 * 14, "reads": 100},
}
APPLICATIONS = ("desk", "triage", "assistant", "extraction")
WORKFLOWS = ("features/refresh", "learning/retrain", "batch/table", "learning/drift", "webhooks/deliver")
VIEWS = 8
BEGIN = datetime(2026, 3, 2, tzinfo=UTC)
GOAL_MEGABYTES, GOAL_SECONDS = 200.0, 0.3
TENANT = "default"


class Processes:
    """Registries of a platform's processes, and a load on them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.gateways = [GatewayMetrics() for _ in range(2)]
        self.worker = AnswerMetrics()
        self.runs = RunMetrics(self.worker.registry)
        for registry in (*(one.registry for one in self.gateways), self.worker.registry):
            describe_process(registry)
        self.load = EngineLoad()
        self._receipts = {
            (application, path): _receipt(application, path)
            for application in APPLICATIONS
            for path in ("online", "batch")
        }

    def work(self, at: datetime) -> None:
        """Ten seconds of work at this time of day."""
        busy = 0.55 + 0.45 * math.sin((at.hour + at.minute / 60 - 9) / 24 * 2 * math.pi)
        chance = self._random
        for _ in range(_poisson(chance, 6 * busy)):
            application, gateway = chance.choice(APPLICATIONS), chance.choice(self.gateways)
            first = chance.lognormvariate(-1.6, 0.6)
            status = 200 if chance.random() > 0.004 else chance.choice((429, 502))
            origin = "generated" if chance.random() > 0.3 else "stored"
            gateway.record(
                AnswerMeasurement(TENANT, application, origin, status, first, first + chance.lognormvariate(-0.7, 0.7))
            )
            gateway._answers.answered(self._receipts[application, "online"])
        for _ in range(_poisson(chance, 8 * (1.1 - busy))):
            made = self._receipts[chance.choice(APPLICATIONS), "batch"]
            self.worker.answered(msgspec.structs.replace(made, timing=Timing(total=chance.lognormvariate(0.3, 0.6))))
        for workflow in WORKFLOWS:
            if chance.random() < 0.02:
                self.runs.began(workflow)
                self.runs.ended(workflow, "succeeded", chance.lognormvariate(1.0, 1.0))

    def families(self, source: str) -> Any:
        """The families of one source."""
        first, second = (one.registry for one in self.gateways)
        registry: CollectorRegistry = {"gateway-1": first, "gateway-2": second, "worker": self.worker.registry}[source]
        return [({"process": source}, family) for family in registry.collect()]

    def engine(self) -> Any:
        """The families of the engine."""
        return [({"engine": "engine"}, family) for family in EngineMetrics(lambda: self.load).collect()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        line = asyncio.run(measure(Path(folder), **SIZES[options.size]))
    line = {"benchmark": "history", "size": options.size, "cores": os.cpu_count(), **line}
    print_table(line)
    return finish("history", line, keep=options.keep)


async def measure(folder: Path, hours: int, reads: int) -> dict[str, Any]:
    """All figures."""
    clock = ManualClock(BEGIN)
    database = Database.open(f"sqlite:///{folder}/catalog.db", clock=clock)
    database.migrate()
    rows = MeasurementRows(database, "dev")
    looks, writes, rolls = record_hours(Processes(seed=20), rows, clock, hours)
    sizes = _sizes(database)
    rows_of_a_year = {
        period: min(timedelta(days=365), kept) / period * (4 if period == FINEST else 1)
        for period, kept in KEPT.items()
    }
    year = sum(sizes[period] * number for period, number in rows_of_a_year.items())
    fill_year(database, rows, clock)
    held = folder / "catalog.db"
    database.compact()
    spans = {name: _reading(rows, clock, span, reads) for name, span in SPANS.items()}
    line = {
        "hours": hours,
        "row_bytes": {str(int(period.total_seconds())): round(size) for period, size in sizes.items()},
        "year_megabytes": round(year / 1e6, 1),
        "year_file_megabytes": round(held.stat().st_size / 1e6, 1),
        "look_ms": _ms(looks),
        "append_ms": _ms(writes),
        "roll_up_ms": _ms(rolls),
        "read_ms": {name: _ms(seconds) for name, seconds in spans.items()},
    }
    line["holds"] = line["year_file_megabytes"] <= GOAL_MEGABYTES and all(
        found["p95"] <= GOAL_SECONDS * 1_000 for found in line["read_ms"].values()
    )
    database.close()
    return line


def record_hours(
    processes: Processes, rows: MeasurementRows, clock: ManualClock, hours: int
) -> tuple[list[float], list[float], list[float]]:
    """Hours of ten seconds each, kept as the platform keeps them; seconds of each look, write and rolling up."""
    sources = {name: MetricDifferences(TENANT, from_start=True) for name in ("gateway-1", "gateway-2", "worker")}
    engine = MetricDifferences(TENANT, from_start=False)
    looks: list[float] = []
    writes: list[float] = []
    rolls: list[float] = []
    for number in range(hours * 360):
        processes.work(clock.now())
        for name, differences in sources.items():
            measured = _timed(
                looks, lambda differences=differences, name=name: differences.read(processes.families(name), 10)
            )
            _timed(writes, lambda name=name, measured=measured: rows.append(name, clock.now(), measured))
        rows.append("engines", clock.now(), engine.read(processes.engine(), 10))
        clock.advance(FINEST)
        if number % 6 == 5:
            _timed(rolls, rows.roll_up)
    return looks, writes, rolls


def _sizes(database: Database) -> dict[timedelta, float]:
    """Mean bytes of a period's rows of both tenants; periods that are not over are left out where there are others."""
    found: dict[timedelta, float] = {}
    for period in KEPT:
        rows = database.rows(
            schema.measurements.select().where(schema.measurements.c.period == int(period.total_seconds()))
        )
        by_tenant: dict[str, list[int]] = {}
        for row in rows:
            by_tenant.setdefault(row.tenant, []).append(len(row.payload) + 60)
        found[period] = sum(statistics.fmean(sizes) for sizes in by_tenant.values())
    return found


def fill_year(database: Database, rows: MeasurementRows, clock: ManualClock) -> None:
    """Put copies of the periods that were kept, with other totals, wherever a year has one and this run had none."""
    table, now, chance = schema.measurements, clock.now(), random.Random(21)
    for period, kept in KEPT.items():
        seconds = int(period.total_seconds())
        for tenant in (TENANT, PLATFORM):
            of = (table.c.tenant == tenant) & (table.c.period == seconds)
            there = database.rows(table.select().where(of).order_by(table.c.at))
            have = {(row.at, row.process) for row in there}
            start, number = begin_of(now - min(kept, timedelta(days=365)), period), 0
            copies: list[dict[str, Any]] = []
            sources = [Measurements.unpacked(row.payload) for row in there]
            processes = sorted({row.process for row in there})
            while start < now:
                for process in processes:
                    if (start, process) not in have:
                        source = sources[number % len(sources)]
                        # Equal rows would be one to a cache by content.
                        for amount in source.values():
                            amount.total = abs(amount.total + chance.choice((-1.0, 0.0, 1.0)))
                        copies.append(
                            {
                                "tenant": tenant, "environment": "dev", "period": seconds, "at": start,
                                "process": process, "payload": source.packed(), "rolled_up_at": now,
                            }
                        )  # fmt: skip
                        number += 1
                start += period
            with database.transaction() as connection:
                for first in range(0, len(copies), 500):
                    connection.execute(table.insert(), copies[first : first + 500])


def _reading(rows: MeasurementRows, clock: ManualClock, span: timedelta, reads: int) -> list[float]:
    """Seconds of the overview's columns over a span that ends now."""
    seconds: list[float] = []
    for _ in range(reads):
        begin = time.perf_counter()
        now = clock.now()
        period = period_of(span, span)
        since = begin_of(now - span, period)
        own, platform = (
            HistoryWindow(period, since, now, rows.read(tenant, period, since, now, _SHOWN))
            for tenant in (TENANT, PLATFORM)
        )
        for statistic in ("p50", "p99"):
            own.columns("antiphon_answer_seconds", statistic, where={"path": "online"})
        for path in ("online", "batch"):
            own.columns("antiphon_answers", "rate", where={"path": path})
        own.columns("antiphon_requests", "rate", ("status",))
        platform.columns("antiphon_engine_requests", "mean", ("state",))
        seconds.append(time.perf_counter() - begin)
    return seconds


def _receipt(application: str, path: Any) -> Receipt:
    asker = Principal(id="asker", tenant=TENANT, role="service")
    request = AnswerRequest(Scope(), asker, application, {"flight": "AA"}, path=path)
    return fakes.make_receipt(request, "Yes.", SystemClock())[0]


def _poisson(chance: random.Random, mean: float) -> int:
    count, product, least = 0, chance.random(), math.exp(-mean)
    while product > least:
        count += 1
        product *= chance.random()
    return count


def _timed(into: list[float], act: Any) -> Any:
    begin = time.perf_counter()
    found = act()
    into.append(time.perf_counter() - begin)
    return found


def _ms(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p95": 0.95}
    return {
        name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1_000, 2) for name, share in at.items()
    }


def print_table(line: dict[str, Any]) -> None:
    """Print the figures for people."""
    for row in _table(line):
        print(row)


def _table(line: dict[str, Any]) -> Iterator[str]:
    held = f"{line['year_megabytes']} MB of rows, {line['year_file_megabytes']} MB of file"
    yield f"a year of {line['hours']} h repeated: {held} (goal {GOAL_MEGABYTES:.0f})"
    for period, size in line["row_bytes"].items():
        yield f"  a row of {int(period):>6,} s   {size:>7,} bytes"
    for name in ("look_ms", "append_ms", "roll_up_ms"):
        yield f"  {name:<12} p50 {line[name]['p50']:>7} ms   p95 {line[name]['p95']:>7} ms"
    for span, found in line["read_ms"].items():
        yield f"  read {span:<7} p50 {found['p50']:>7} ms   p95 {found['p95']:>7} ms"


if __name__ == "__main__":
    sys.exit(main())
