"""The ledger of a whole platform whose gateway, engine and worker are killed at random moments under load.

Online questions (whole and streamed), table jobs, batches of OpenAI's API, events and refreshes run all the time, under
three budgets, at prices that do not come out even. Afterwards the ledger is held against the receipts, the attempts of
runs, the counts of engines as they were read, what is stored, ``antiphon cost show`` and ``antiphon budgets list``
(``tests/chaos/harness/ledger_checks.py``, none of the product's code), beside everything else that the kill harness
checks. ``ledger_difference`` is the number of all differences.

    python -m benchmarks.durability.ledger_kills [--size ci|demo|full] [--keep]

Kills are 3, 21 and 102. A table, then one JSON line, kept in ``benchmarks/results/ledger_kills.jsonl``; exit code 1
when something differs.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import msgspec
from benchmarks.durability import batch_kills
from benchmarks.durability.kill_harness_command import command
from tests.chaos.harness import kill_harness
from tests.chaos.harness.chaos_load import Load
from tests.chaos.harness.chaos_project import APPLICATION, ChaosProject
from tests.chaos.harness.ledger_checks import LedgerEvidence, check_ledger, make_triggers, read_ledger
from tests.chaos.harness.running import scratch

from antiphon.services.project.store import Store

SIZES = {"ci": 1, "demo": 7, "full": 34}
"""Kills of each of the three processes."""
SEED = 20130410
DIMENSIONS = ("application,path,role,principal", "resource,engine,model", "work,hour")
BATCH_REQUESTS = 20
PRICES = """
[prices]
currency = "EUR"
engine_second = 0.000037
worker_second = 0.0000113
memory_gib_hour = 0.00071
gib_month = 0.0237
prompt_token = 0.00000071
cached_prompt_token = 0.00000013

[prices.models.simulated]
completion_token = 0.0000029

[budgets]
token_seconds = 0.01
"""
BUDGETS = {"whole": ("tenant", ""), "desk": ("application", APPLICATION), "admin": ("key", "admin")}


class LedgerReport(msgspec.Struct, frozen=True):
    """The outcome of a run: that of the kill harness, and what the checks of the ledger found."""

    platform: kill_harness.Report
    violations: dict[str, list[str]]
    entries: int
    total_micros: int
    batches: int
    engine_processes: int
    lost_attempts: int

    @property
    def holds(self) -> bool:
        """Tells whether nothing was violated."""
        return self.platform.holds and not any(self.violations.values())


async def run(root: Path, *, kills: int, seed: int = SEED, say: TextIO | None = None) -> LedgerReport:
    """Run in an empty folder, with so many kills of each process; raises as ``kill_harness.run``."""
    began, orders = time.time(), 0

    async def order(load: Load) -> None:
        nonlocal orders
        project = _project(root)
        client = batch_kills.Client(project.url, project.key, batch_kills.Report())
        chance = random.Random(seed)
        try:
            await _budgets(client)
            while not load.stopped:
                batch = await client.order(batch_kills.requests(chance, BATCH_REQUESTS))
                orders += 1
                while (await client.batch(batch))["status"] not in ("completed", "failed", "expired", "cancelled"):
                    await asyncio.sleep(0.2)
        finally:
            await client.close()

    report = await kill_harness.run(
        root, kills=kills, seed=seed, engine="simulated", say=say, settings=PRICES, prepare=_prepare, beside=order
    )
    ended = time.time()
    found = LedgerEvidence(
        **read_ledger(root / ".antiphon" / "catalog.db", ended),
        totals={names: _told(root, names) for names in DIMENSIONS},
        budgets=tuple(_command(root, "budgets", "list")),
        wall_micros=round((ended - began) * 1e6),
    )
    return LedgerReport(
        platform=report,
        violations=check_ledger(found),
        entries=len(found.entries),
        total_micros=found.totals[DIMENSIONS[0]][1],
        batches=orders,
        engine_processes=len({one["process"] for one in found.readings if one["process"]}),
        lost_attempts=sum(one["lost"] for one in found.attempts),
    )


def _prepare(project: ChaosProject) -> None:
    Store.open(project.root).close()  # The catalog is made before anything is noted in it.
    make_triggers(project.directory / "catalog.db")


def _project(root: Path) -> ChaosProject:
    port = next(line for line in (root / "antiphon.toml").read_text().splitlines() if line.startswith("port"))
    return ChaosProject(root, int(port.rpartition("=")[2]), "simulated")


async def _budgets(client: batch_kills.Client) -> None:
    for name, (kind, subject) in BUDGETS.items():
        terms = {"kind": kind, "subject": subject, "limit": "1000", "reason": "kills"}
        await client.send("POST", f"/admin/budgets/{name}", json=terms)


def _told(root: Path, names: str) -> tuple[int, int]:
    by = [part for name in names.split(",") for part in ("--by", name)]
    found = _command(root, "cost", "show", *by)
    return sum(line["micros"] for line in found["lines"]), found["total"]["micros"]


def _command(root: Path, *arguments: str) -> Any:
    asked = [sys.executable, "-m", "antiphon.cli.main", *arguments, "--project", str(root), "--json"]
    return json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)


def table(report: LedgerReport) -> str:
    """The report for people."""
    lines = [
        kill_harness.table(report.platform),
        f"  ledger: {report.entries} rows, {report.total_micros} micro-units, {report.batches} batches, "
        f"{report.engine_processes} engine processes read, {report.lost_attempts} attempts lost",
    ]
    for name, wrong in report.violations.items():
        lines.append(f"  {'ok  ' if not wrong else 'FAIL'} {name}" + (f": {len(wrong)}" if wrong else ""))
        lines += [f"         {one}" for one in wrong[:5]]
    return "\n".join(lines)


def summary(report: LedgerReport, size: str) -> dict[str, Any]:
    """The report as one JSON line."""
    platform = kill_harness.summary(report.platform)
    counts = ("acknowledged", "unanswered", "refused", "receipts", "events", "publications", "jobs", "job_rows")
    return {
        "benchmark": "ledger_kills", "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": size,
        "seed": report.platform.seed, "holds": report.holds, "kills": len(report.platform.kills),
        "ledger_difference": sum(map(len, report.violations.values())),
        **{name: platform[name] for name in counts}, "batches": report.batches, "entries": report.entries,
        "total_micros": report.total_micros, "engine_processes": report.engine_processes,
        "lost_attempts": report.lost_attempts, "seconds": round(report.platform.seconds, 1),
        "violations": {name: len(wrong) for name, wrong in (report.violations | report.platform.violations).items()},
    }  # fmt: skip


def _measured(size: str, say: TextIO) -> dict[str, Any]:
    with scratch() as folder:
        report = asyncio.run(run(Path(folder) / "project", kills=SIZES[size], say=say))
    say.write(table(report) + "\n")
    return summary(report, size)


def main(arguments: list[str] | None = None) -> int:
    return command("ledger_kills", __doc__, SIZES, _measured, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
