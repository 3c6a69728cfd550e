"""Do the gates hold? Each of 22 faults is injected into the newest day of a healthy source, and the view is refreshed.

Run ``python -m benchmarks.features.faults [--healthy N]``. For each fault the table says what the gates did and why,
whether the reason names the fault, whether the version before was served as before, and what happened with the gates
switched off: the same fault, the same project, ``Quality(standard=False)``. Then N healthy days are refreshed, each a
new draw, and every alarm is a false one. Prints one JSON line at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from benchmarks.features.fault_injectors import FAULTS, FIRST, Fault, healthy_day, shops

from antiphon import Entity, Source, col, count, feature_view, last, mean
from antiphon.catalog.database import Database
from antiphon.catalog.features.definitions import DefinitionVersions
from antiphon.catalog.features.events import EventLog
from antiphon.catalog.features.publications import Publications
from antiphon.catalog.features.snapshots import Snapshots
from antiphon.catalog.features.verdicts import Verdicts
from antiphon.core.clock import ManualClock
from antiphon.core.scope import Scope
from antiphon.definitions import expect
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.quality import Quality
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.durable.runs import Runs
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.refresh import WORKFLOW, Refresher
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.publication.publish import Publisher

SCOPE = Scope()
HISTORY = 9
"""Days that the source has when the project begins: longer than any window, so that nothing grows but with the shop."""
DAYS = 13
"""Days before a fault: each after the history was refreshed and published by itself."""
SHOP = {"shop": "shop-001"}


def view(folder: Path, gated: bool = True) -> FeatureViewSpec:
    """What a careful team would declare about payments."""
    payments = Source.table(
        "payments", path=str(folder / "payments" / "*.parquet"), event_time="paid_at", available_at="known_at",
        sensitivity="public",
    )  # fmt: skip
    known = Source.table("shops", path=str(folder / "shops.csv"), event_time="since")
    kept_out = expect.exists_in("shop", known, action="quarantine")
    quality = Quality(
        expect.typed(
            payment_id="text", shop="text", paid_at="time", known_at="time", amount="number", fee="number",
            currency="text", method="text", city="text", items="number", closed=True,
        ),
        expect.not_null(col.payment_id, col.amount),
        expect.between("amount", 0, 1e6),
        expect.unique("payment_id"),
        kept_out,
        expect.one_of("currency", ["EUR", "CHF", "NOK"]),
        expect.volume(1.0, 3.0, of="rows"),
        expect.volume(0.5, 2.0, of="new_rows"),
        expect.recent("12h"),
        expect.not_future(),
        expect.steady("amount", "fee", "method", "city", "currency", "items", over="source"),
        expect.steady(),
    )  # fmt: skip
    if not gated:
        quality = Quality(standard=False)

    @feature_view(entity=Entity("shop", ["shop"]), source=payments, quality=quality)
    class Takings:
        payments_7d = count(window="7d")
        amount_7d = mean(col.amount, window="7d", scale="0.01")
        fee_1d = mean(col.fee, window="1d", scale="0.01")
        method = last(col.method)
        amount = last(col.amount)

    return Takings.spec()


class Project:
    """A catalog, a lake and an online store in a folder, with the payments of some days."""

    def __init__(self, folder: Path, day: int) -> None:
        self.folder, self.day = folder, day
        (folder / "payments").mkdir(parents=True, exist_ok=True)
        shops(folder)
        self.clock = ManualClock(FIRST + timedelta(days=day))
        self.database = Database.open(f"sqlite:///{folder}/catalog.db", clock=self.clock)
        self.database.migrate()
        self.snapshots, self.publications = Snapshots(self.database), Publications(self.database)
        self.verdicts, definitions = Verdicts(self.database), DefinitionVersions(self.database)
        self.lake, self.online = LocalLake(folder / "lake"), LmdbStore(folder / "online", b"k" * 32)
        catalog = FeatureCatalog(self.database, SCOPE, self.lake, notice=0)
        publisher = Publisher(catalog, online=self.online)
        self.refresher = Refresher(
            catalog,
            publisher=publisher,
            log=EventLog(self.database),
            keyed_hash=self.online.entity_hash,
        )
        self.definitions = definitions
        self.declare(True)

    def declare(self, gated: bool) -> None:
        """Apply the view; without its gates it keeps its definition version, so that it replaces what is served."""
        gated_spec = view(self.folder)
        off = msgspec.structs.replace(view(self.folder, False), definition_version=gated_spec.definition_version)
        self.spec = gated_spec if gated else off
        self.definitions.put(SCOPE, self.spec)

    def at_midnight(self, day: int) -> None:
        """The clock stands at the end of a day."""
        self.clock.advance(FIRST + timedelta(days=day + 1, minutes=1) - self.clock.now())
        self.day = day

    async def refresh(self) -> Run:
        """Run the durable workflow to its end."""
        self.clock.advance(timedelta(seconds=1))
        registry = WorkflowRegistry()
        registry.add(WORKFLOW, self.refresher.refresh)
        runs, stop = Runs(self.database), asyncio.Event()
        wanted = {"views": [self.spec.key], "as_of": self.clock.now().isoformat(), "reason": "nightly"}
        identity = runs.submit(SCOPE, WORKFLOW, wanted, max_attempts=1)
        working = asyncio.create_task(Executor(self.database, registry, "faults", SCOPE, poll=0.005).run_until(stop))
        async with asyncio.timeout(120):
            while runs.get(SCOPE, identity).status not in ENDED:
                await asyncio.sleep(0.005)
        stop.set()
        await working
        return runs.get(SCOPE, identity)

    def served(self) -> tuple[int, dict[str, Any]]:
        """What a gateway started now reads: the publication and a shop's values with the snapshot of each."""
        reader = FeatureReader(SCOPE, publications=self.publications, online=self.online, clock=self.clock, lease=0.0)
        moment = FIRST + timedelta(days=DAYS, minutes=30)
        vector = reader.read({self.spec.name: self.spec.definition_version}, SHOP, moment)
        return vector.publication, {name: (found.value, found.snapshot) for name, found in vector.values.items()}

    def close(self) -> None:
        self.online.close()
        self.database.close()


class Result(NamedTuple):
    """What happened to one fault."""

    fault: str
    outcome: str
    reason: str
    named: bool
    kept: bool
    without: str

    @property
    def held(self) -> bool:
        """Stopped or kept aside, for the right reason, with the version before served."""
        return self.outcome in ("blocked", "quarantined", "refused") and self.named and self.kept


async def healthy_project(folder: Path, seed: int, rows: int, days: int = DAYS) -> tuple[Project, list[str]]:
    """Days that are as they ought to be, each refreshed and published; and the reasons of every alarm."""
    project = Project(folder, 0)
    alarms: list[str] = []
    for day in range(days):
        healthy_day(folder / "payments", day, seed, rows)
        if day < HISTORY - 1:
            continue
        project.at_midnight(day)
        run = await project.refresh()
        latest = project.verdicts.list(SCOPE, limit=1)[0]
        if run.status != "succeeded" or latest.outcome != "passed":
            alarms.append(f"day {day}: {run.error or '; '.join(finding.reason for finding in latest.findings)}")
    return project, alarms


async def injected(fault: Fault, baseline: Path, folder: Path, seed: int, rows: int) -> Result:
    """One fault in a copy of the healthy project."""
    shutil.copytree(baseline, folder)
    project = Project(folder, DAYS - 1)
    try:
        project.at_midnight(DAYS)
        newest = healthy_day(folder / "payments", DAYS, seed, rows)
        before = project.served()
        known = {manifest.id for manifest in project.snapshots.list(SCOPE)}
        happened = fault.inject(newest)
        run = await project.refresh()
        assert not callable(happened) or happened(), f"{fault.name} did not happen"
        outcome, reason = _outcome(project, run)
        after = project.served()
        added = {manifest.id for manifest in project.snapshots.list(SCOPE)} - known
        kept = after == before and not added
        if outcome == "quarantined":
            kept = all(snapshot in added for _, snapshot in after[1].values())
        project.declare(False)
        without = _outcome(project, await project.refresh())[0] if fault.readable else "unreadable"
        named = all(any(word in reason for word in group) for group in fault.words)
        return Result(fault.name, outcome, reason, named, kept, without)
    finally:
        project.close()
        shutil.rmtree(folder)


def _outcome(project: Project, run: Run) -> tuple[str, str]:
    latest = next((one for one in project.verdicts.list(SCOPE) if one.run == run.id), None)
    if latest is None:
        return ("refused" if run.status == "failed" else "through"), run.error or ""
    reasons = "; ".join(finding.reason for finding in latest.findings)
    if latest.outcome == "blocked":
        return "blocked", reasons
    if any(finding.action == "quarantine" for finding in latest.findings):
        return "quarantined", reasons
    return "through", reasons


async def run_faults(folder: Path, rows: int, seed: int = 1, faults: tuple[Fault, ...] = FAULTS) -> list[Result]:
    """Every fault, one after the other, each in a copy of the same healthy project."""
    project, alarms = await healthy_project(folder / "healthy", seed, rows)
    project.close()
    assert not alarms, alarms
    return [
        await injected(fault, folder / "healthy", folder / f"fault-{number}", seed, rows)
        for number, fault in enumerate(faults)
    ]


async def run_healthy(folder: Path, rows: int, refreshes: int, seed: int = 100) -> list[str]:
    """So many refreshes of days as they ought to be; every alarm."""
    alarms: list[str] = []
    done = 0
    while done < refreshes:
        days = min(12, refreshes - done)
        project, found = await healthy_project(folder / f"draw-{seed}", seed, rows, HISTORY - 1 + days)
        project.close()
        shutil.rmtree(folder / f"draw-{seed}")
        alarms += [f"draw {seed}, {alarm}" for alarm in found]
        done, seed = done + days, seed + 1
    return alarms


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000, help="payments a day")
    parser.add_argument("--healthy", type=int, default=120, help="healthy refreshes")
    parser.add_argument("--seed", type=int, default=600, help="of the first draw of healthy days")
    options = parser.parse_args(arguments)
    logging.getLogger("antiphon").setLevel(logging.CRITICAL)  # runs are meant to fail
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(run_faults(Path(folder), options.rows))
        for result in results:
            mark = "held" if result.held else "MISSED"
            print(f"{mark:6}  {result.fault:34} {result.outcome:11} without gates: {result.without:11} {result.reason}")
        alarms = asyncio.run(run_healthy(Path(folder), options.rows, options.healthy, options.seed))
    for alarm in alarms:
        print(f"false alarm: {alarm}")
    # Of n draws without an alarm the rate is below 3/n with 95 % confidence (the rule of three).
    bound = 3 / options.healthy if not alarms else None
    line = {
        "benchmark": "feature_faults",
        "faults": len(results),
        "held": sum(result.held for result in results),
        "named": sum(result.named for result in results),
        "through_without_gates": sum(result.without == "through" for result in results),
        "unreadable_without_gates": sum(result.without == "unreadable" for result in results),
        "healthy_refreshes": options.healthy,
        "false_alarms": len(alarms),
        "false_alarm_rate_95": bound,
        "rows_a_day": options.rows,
        "first_draw": options.seed,
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(line))
    return 0 if all(result.held for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
