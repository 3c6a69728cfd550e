"""After 100 kills the ledger is the sum of the receipts, of ended attempts of runs, and of readings of trainings."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.catalog.examples import DEV, open_database

from antiphon.catalog import schema
from antiphon.catalog.ledger import Ledger
from antiphon.catalog.serving.receipts import Receipts
from antiphon.operations.cost.metering import usages_of

KILLS = 100


@pytest.mark.chaos
def test_the_ledger_is_the_sum_of_what_is_committed(tmp_path: Path) -> None:
    child = [sys.executable, "-m", "tests.chaos.ledger_child", str(tmp_path), str(KILLS)]
    done = subprocess.run(child, capture_output=True, text=True, timeout=240, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    database = open_database(tmp_path)
    now, day = database.clock.now(), timedelta(days=1)
    ledger: dict[tuple[str, str], int] = {}
    for one in Ledger(database).entries(DEV, now - day, now + day):
        key = (one.resource, one.principal)
        ledger[key] = ledger.get(key, 0) + one.quantity
    worked = ledger.pop(("worker", ""))
    trained = ledger.pop(("training_processor", "")), ledger.pop(("memory", ""))

    receipts = Receipts(database).list(DEV, limit=1_000_000)
    counted: dict[tuple[str, str], int] = {}
    for made in receipts:
        for usage in usages_of(made):
            if usage.quantity:
                key = (usage.resource, usage.principal)
                counted[key] = counted.get(key, 0) + usage.quantity
    assert len(receipts) > 5 * KILLS
    assert ledger == counted

    attempts = 0
    for run in database.rows(schema.runs.select()):
        if run.status == "succeeded":
            attempts += (run.updated_at - run.claimed_at) // timedelta(microseconds=1)
    for lost in database.rows(schema.run_attempts.select()):
        attempts += (lost.ended_at - lost.started_at) // timedelta(microseconds=1)
    assert worked == attempts
    readings = database.rows(schema.meter_readings.select())
    assert trained == (sum(one.total for one in readings), sum(one.part for one in readings))
    database.close()
