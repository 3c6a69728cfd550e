"""Writes receipts through a group commit, again and again in processes that are killed at any moment.

``python -m tests.chaos.ledger_child FOLDER KILLS``: forks a writer so many times and sends each SIGKILL after some
milliseconds, once it has committed something.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

from tests.unit.catalog.examples import DEV, open_database, receipt

from antiphon.catalog.database import Database
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.serving.receipt import UsageReceipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.errors import ConflictError
from antiphon.core.ids import new_id
from antiphon.durable.claims import ServedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.runs import Runs
from antiphon.learning.retraining.training_meters import TrainingMeters
from antiphon.services.cost.metered_receipts import MeteredReceipts
from antiphon.training.processes import TrainingUsage

SHORT = timedelta(seconds=1)


def write(folder: Path, told: int) -> None:
    """Write until killed: answers, each tried twice, and runs of a second's lease."""
    database = open_database(folder)
    receipts, commit = MeteredReceipts(Receipts(database), database), GroupCommit(database)
    seed = random.Random(os.getpid())

    def answers() -> None:
        while True:
            usage = UsageReceipt(seed.randrange(900), 0, seed.randrange(90), 0, seed.random(), 1)
            made = receipt(new_id("pred"), usage=usage, principal=seed.choice(["ann", "ben"]))
            for _ in range(2):
                try:
                    commit.enqueue(lambda connection, made=made: receipts.add(made, within=connection)).result()
                except ConflictError:
                    continue

    for _ in range(3):
        threading.Thread(target=answers, daemon=True).start()
    runs = Runs(database)
    while True:
        runs.submit(DEV, "train", {"application": "desk"}, max_attempts=1_000)
        held = runs.claim("w", ServedRuns("dev"), SHORT)
        if held is not None:
            train(database, RunContext(held, runs, database.clock, {}))
            runs.end(held, {})
        os.write(told, b".")


def train(database: Database, run: RunContext) -> None:
    """Enter readings of two processes of a run, some of them twice."""
    meters, seconds = TrainingMeters(database), {new_id("training"): 0.0 for _ in range(2)}
    for _ in range(3):
        seconds = {process: used + random.random() for process, used in seconds.items()}
        readings = [TrainingUsage(process, used, 3e8 * used) for process, used in seconds.items()]
        for _ in range(2):
            asyncio.run(run.fenced(lambda within, readings=readings: meters.enter(run, readings, within)))


def main(folder: Path, kills: int) -> None:
    seed = random.Random(4)
    open_database(folder).close()
    for _ in range(kills):
        reading, told = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            try:
                write(folder, told)
            finally:
                os._exit(3)
        os.close(told)
        os.read(reading, 1)
        time.sleep(seed.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(reading)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"a writer ended by itself: {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
