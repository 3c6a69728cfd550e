"""Meters of trainings: what their processes used is in the ledger, charged to the run.

Invariant: a reading of a process is entered in the transaction that moves its meter and makes sure of the run's
holder, so that each process counts once, whichever worker goes on with the run and whatever is killed.

Entering is a service to the training, which never fails by it. What a process used after its last entered reading is
not charged: of :data:`EVERY_SECONDS` at most where its worker is killed, and all that is read after the run was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from sqlalchemy.engine import Connection

from antiphon.catalog.database import Database
from antiphon.catalog.ledger import Ledger, MeteredUsage, Resource
from antiphon.catalog.meters import MeterReadings, MeterState
from antiphon.core.errors import AntiphonError
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.durable.run import LeaseLostError
from antiphon.training.processes import TrainingUsage

T = TypeVar("T")

EVERY_SECONDS = 10.0
"""Interval of entering readings."""

_RESOURCES: tuple[Resource, Resource] = ("training_processor", "memory")
_KIND = "training"
_MICROSECONDS = 1_000_000

_log = logging.getLogger("antiphon.worker")


class TrainingMeters:
    """Meters of the trainings of all runs, one for each process."""

    def __init__(self, database: Database) -> None:
        self._clock = database.clock
        self._ledger, self.readings = Ledger(database), MeterReadings(database)

    def enter(self, run: RunContext, readings: Iterable[TrainingUsage], within: Connection) -> None:
        """Enter what processes of a run used since they were read last; a reading that is behind the last one, or was
        entered before, adds nothing."""
        tenant, environment = run.scope.tenant, run.scope.environment
        for reading in readings:
            counts = round(reading.processor_seconds * _MICROSECONDS), round(reading.byte_seconds)
            now = MeterState(f"{_KIND}/{run.id}/{reading.process}", reading.process, *counts, self._clock.now())
            last = self.readings.find(tenant, environment, now.meter, within=within)
            before = (0, 0) if last is None else (last.total, last.part)
            used = [count - counted for count, counted in zip(counts, before, strict=True)]
            if min(used) >= 0 and any(used) and self.readings.move(tenant, environment, last, now, within=within):
                of_run = partial(MeteredUsage, application=run.application, role=run.workflow, work=run.id)
                self._ledger.add_with_commit(run.scope, map(of_run, _RESOURCES, used))


def sweep_meters(readings: MeterReadings, scope: Scope, ended: Callable[[Scope, str], bool]) -> None:
    """Remove the meters of trainings whose run has ended: nobody moves them any more."""
    for meter in readings.names(scope.tenant, scope.environment, f"{_KIND}/"):
        if ended(scope, meter.split("/")[1]):
            readings.remove(scope.tenant, scope.environment, meter)


class TrainingMeter:
    """The meters of one run's training on this worker: read while it lasts, and entered now and then."""

    def __init__(self, meters: TrainingMeters, run: RunContext) -> None:
        self._meters = meters
        self._run = run
        self._latest: dict[str, TrainingUsage] = {}
        self._entered: dict[str, TrainingUsage] = {}
        self._ended = asyncio.Event()

    def read(self, reading: TrainingUsage) -> None:
        """Take a reading of a process."""
        self._latest[reading.process] = reading

    async def enter_while(self, training: Awaitable[T]) -> T:
        """Await a training, and enter its readings meanwhile and at its end, also where it is stopped or fails."""
        entering = asyncio.create_task(self._enter_some())
        try:
            return await training
        finally:
            self._ended.set()
            await entering

    async def _enter_some(self) -> None:
        ending = asyncio.ensure_future(self._ended.wait())
        while not ending.done():
            await asyncio.wait({ending}, timeout=EVERY_SECONDS)
            await self._enter()

    async def _enter(self) -> None:
        latest = dict(self._latest)
        if latest == self._entered:
            return
        try:
            await self._run.fenced(partial(self._meters.enter, self._run, latest.values()))
            self._entered = latest
        except LeaseLostError:
            _log.warning("What the training of run %s uses is not entered: another worker has it.", self._run.id)
        except AntiphonError as error:
            _log.warning("What the training of run %s uses is entered later: %s", self._run.id, error)
