"""Reads meters at an interval: how long engines were up and worked, what memory they had, and how much is stored.

Counts of an engine are of its process since it began, so that a reading that is missed is made up for by the next one;
only what a process did after its last reading before it ended is not measured. The meter of an engine is named
after its process by a hash, which does not say whose it is: readings outlive the tenants whose engines they are of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

from sqlalchemy.engine import Connection

from antiphon.catalog.database import Database
from antiphon.catalog.ledger import Ledger, MeteredUsage
from antiphon.catalog.meters import MeterReadings, MeterState, nameless
from antiphon.core.errors import AntiphonError
from antiphon.core.pauses import wait
from antiphon.core.scope import ANY, Scope
from antiphon.engine.api.messages import EngineDescription, EngineLoad
from antiphon.engine.api.port import Engine
from antiphon.operations.cost.metering import MICROSECONDS, EngineCounts, engine_usages, memory_usages

_log = logging.getLogger("antiphon.worker")

ENGINE_SECONDS = 60.0
"""Interval of reading engines."""

FORGOTTEN_AFTER = timedelta(days=365)
"""Age of a reading from which its process counts as over for good."""

_ENGINE, _MEMORY = "engine/", "memory/engine/"
"""Beginnings of the names of meters."""

STORAGE_SECONDS = 3_600.0
"""Interval of measuring what is stored: a bucket is listed for it."""


class CostMeters:
    """A duty of the worker: enters what engines and storage used.

    Args:
        engines: by the name that receipts call them. stored: parts of storage to what measures their bytes.
    """

    def __init__(
        self,
        database: Database,
        scope: Scope,
        engines: Mapping[str, Engine],
        stored: Mapping[str, Callable[[], int]],
    ) -> None:
        self._database = database
        self._scope = scope
        self._engines = engines
        self._stored = stored
        self._ledger, self._readings = Ledger(database), MeterReadings(database)
        self._measured_at = float("-inf")

    async def run_until(self, stop: asyncio.Event) -> None:
        """Read until ``stop``. What cannot be read now is read later."""
        while not stop.is_set():
            for name, engine in self._engines.items():
                try:
                    description = await engine.describe()
                    for counts in engine_counts(name, description):
                        await asyncio.to_thread(self.read_engine, counts)
                except AntiphonError as error:
                    _log.debug("The time of the engine %s is read later: %s", name, error)
            if self._database.clock.monotonic() - self._measured_at >= STORAGE_SECONDS:
                self._measured_at = self._database.clock.monotonic()
                try:
                    await asyncio.to_thread(self._forget)
                except AntiphonError as error:
                    _log.warning("Meters of engines that are over are removed later: %s", error)
                for part, measure in self._stored.items():
                    try:
                        await asyncio.to_thread(self.read_storage, part, measure)
                    except AntiphonError as error:
                        _log.warning("What %s stores is measured later: %s", part, error)
            await wait(stop, ENGINE_SECONDS)

    def read_engine(self, counts: EngineCounts) -> None:
        """Enter the time of an engine since it was read last."""
        total, busy = (round(seconds * MICROSECONDS) for seconds in (counts.up_seconds, counts.busy_seconds))
        now, process = self._database.clock.now(), nameless(counts.process)
        reading = MeterState(f"{_ENGINE}{process}", process, total, busy, now)
        environment = self._scope.environment
        with self._database.transaction() as connection:
            last = self._readings.find(ANY, environment, reading.meter, within=connection)
            if last is not None and last.process == reading.process and last.total > reading.total:
                return  # Another process read it meanwhile.
            if self._readings.move(ANY, environment, last, reading, within=connection):
                usages = engine_usages(last, reading, counts.engine, counts.gpus)
                usages += self._read_memory(counts, total, connection)
                self._ledger.add_shared_with_commit(environment, usages)

    def _read_memory(self, counts: EngineCounts, up: int, within: Connection) -> list[MeteredUsage]:
        """Move the reading of its memory with that of its time: the byte-seconds since the one before."""
        if not counts.resident_bytes:
            return []
        environment, now, process = self._scope.environment, self._database.clock.now(), nameless(counts.process)
        reading = MeterState(f"{_MEMORY}{process}", process, counts.resident_bytes, up, now)
        last = self._readings.find(ANY, environment, reading.meter, within=within)
        moved = self._readings.move(ANY, environment, last, reading, within=within)
        return memory_usages(last, reading, counts.engine) if moved else []

    def _forget(self) -> None:
        before = self._database.clock.now() - FORGOTTEN_AFTER
        for kind in (_ENGINE, _MEMORY):
            self._readings.forget(ANY, self._scope.environment, kind, before)

    def read_storage(self, part: str, measure: Callable[[], int]) -> None:
        """Enter what a part stores now for the time since it was measured last."""
        size, now, scope = measure(), self._database.clock.now(), self._scope
        reading = MeterState(f"storage/{part}", "", size, 0, now)
        with self._database.transaction() as connection:
            last = self._readings.find(scope.tenant, scope.environment, reading.meter, within=connection)
            if self._readings.move(scope.tenant, scope.environment, last, reading, within=connection) and last:
                seconds = max(0, (now - last.read_at) // timedelta(seconds=1))
                usage = MeteredUsage("storage", size * seconds, work=part)
                self._ledger.add_with_commit(scope, [usage])


def engine_counts(name: str, description: EngineDescription) -> Iterator[EngineCounts]:
    """Counts of the processes behind an engine; those of servers elsewhere measure no time of their own."""
    if description.instances:
        for one in description.instances:
            if one.load.up_seconds > 0:
                yield _counts(name, one.process, one.load)
    elif description.process:
        yield _counts(name, description.process, description.load)


def _counts(engine: str, process: str, load: EngineLoad) -> EngineCounts:
    return EngineCounts(engine, process, load.up_seconds, load.busy_seconds, load.resident_bytes, load.gpus)
