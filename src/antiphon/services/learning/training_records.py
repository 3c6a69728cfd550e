"""Process records of trainings, beside those of the processes that the supervisor starts."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from antiphon.core.clock import Clock
from antiphon.operations.processes import ProcessRecord, boot, started_ticks, statuses, write_record
from antiphon.orchestration.worker import wait
from antiphon.training.processes import TrainingProcesses

_LOOK_SECONDS = 1.0
_PREFIX = "training"


class TrainingRecords:
    """Keeps ``run/training-NAME.pid`` for each training process of this worker, so that it is shown, and ended when the
    worker could not."""

    def __init__(self, training: TrainingProcesses, run: Path, clock: Clock) -> None:
        self._training = training
        self._run = run
        self._clock = clock
        self._known: dict[str, ProcessRecord] = {}

    async def run_until(self, stop: asyncio.Event) -> None:
        """Write and remove records until ``stop``."""
        # Of an earlier worker, with which its trainings ended; those of another worker that runs are its own.
        for one in statuses(self._run):
            if one.name.startswith(f"{_PREFIX}-") and not one.alive:
                (self._run / f"{one.name}.pid").unlink(missing_ok=True)
        while not stop.is_set():
            self.look()
            await wait(stop, _LOOK_SECONDS)
        self._forget({})

    def look(self) -> None:
        """Bring the records up to date with what runs."""
        running = {_name(one.name): one.pid for one in self._training.running}
        self._forget(running)
        for name, pid in running.items():
            known = self._known.get(name)
            if known is not None and known.pid == pid:
                continue
            restarts = 0 if known is None else known.restarts + 1
            ticks, folder = started_ticks(pid) or 0, str(self._run.resolve())
            record = ProcessRecord(name, pid, ticks, self._clock.now(), restarts, boot(), folder)
            write_record(self._run, record)
            self._known[name] = record

    def _forget(self, running: dict[str, int]) -> None:
        for name in [name for name in self._known if name not in running]:
            del self._known[name]
            (self._run / f"{name}.pid").unlink(missing_ok=True)


def _name(training: str) -> str:
    return f"{_PREFIX}-{re.sub(r'[^a-zA-Z0-9_.-]', '-', training)}"
