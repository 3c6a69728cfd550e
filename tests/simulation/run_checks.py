"""Invariants of durable runs, held against the rows themselves after every commit."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from tests.simulation.process import Process, Violation
from tests.simulation.world import World

from antiphon.core.clock import microseconds

_COLUMNS = "id, status, epoch, attempts, max_attempts, worker, lease_until, not_before, cancel_requested"
_ENDED = ("succeeded", "succeeded_with_failures", "failed", "cancelled")


class RunRow(msgspec.Struct, frozen=True):
    """A row of the table ``runs``."""

    id: str
    status: str
    epoch: int
    attempts: int
    max_attempts: int
    worker: str | None
    lease_until: int | None
    not_before: int
    cancel_requested: int


class RunObserver:
    """Checks every change of a run: who made it, and whether it might."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._database = world.connection()
        self._runs: dict[str, RunRow] = {}
        self._owners: dict[tuple[str, int], Process] = {}
        self._steps: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self._workers: dict[str, str] = {}
        """The processes that hold the names of workers."""
        world.observers.append(self)

    def __call__(self, process: Process) -> None:
        now = {row[0]: RunRow(*row) for row in self._database.execute(f"SELECT {_COLUMNS} FROM runs")}
        past, self._runs = self._runs, now
        try:
            self._check_runs(process, past, now)
        finally:
            held = "SELECT substr(name, 8), holder FROM leases WHERE name LIKE 'worker/%'"
            self._workers = dict(self._database.execute(held).fetchall())
            self._check_steps(process)

    def _check_runs(self, process: Process, past: dict[str, RunRow], now: dict[str, RunRow]) -> None:
        for name, row in now.items():
            before = past.get(name)
            if before is None:
                _require(row.status == "queued" and row.epoch == 0, f"{name} begins as {row.status}")
            elif row != before:
                self._changed(process, before, row)
            _require((row.status == "running") == (row.worker is not None), f"{name}, {row.status}, is of {row.worker}")
            _require(
                (row.worker is None) == (row.lease_until is None), f"{name} has an owner without a lease, or a lease"
            )
            _require(0 <= row.attempts <= row.max_attempts, f"{name} has {row.attempts} attempts")
        _require(past.keys() <= now.keys(), "a run is gone")

    def _changed(self, process: Process, before: RunRow, row: RunRow) -> None:
        run, clock = row.id, _micros(process)
        _require(before.status not in _ENDED, f"{run} was {before.status} and is {row.status}, epoch {row.epoch}")
        if row.epoch != before.epoch:
            _require(row.epoch == before.epoch + 1, f"{run} went from epoch {before.epoch} to {row.epoch}")
            if before.status == "running":
                lease = before.lease_until or 0
                _require(lease < clock, f"{run} was claimed {(lease - clock) / 1e6:.3f} s before its lease ended")
            else:
                _require(before.not_before <= clock, f"{run} was claimed before its time")
            if row.status == "running":
                self._owners[run, row.epoch] = process
                _require(row.attempts == before.attempts + 1, f"{run} was claimed and its attempts did not count")
                _require(_name(row.worker) == process.name, f"{run} was claimed for {row.worker} by {process.label}")
            return
        owner = self._owners.get((run, row.epoch))
        if before.status == "queued":
            _require(row.status in ("queued", "cancelled"), f"{run} became {row.status} without a claim")
        elif row.status == "running":
            if owner is not process and row.lease_until != before.lease_until:
                reclaimed = _name(row.worker) == process.name or self._died(before.worker)
                _require(
                    reclaimed and (row.lease_until or 0) < clock,
                    f"{process.label} moved the lease of {run}, which {_label(owner)} holds",
                )
            _require(row.worker == before.worker, f"{run} changed hands without a claim")
            _require(row.attempts == before.attempts, f"the attempts of {run} changed")
        else:
            _require(owner is process, f"{process.label} ended {run} as {row.status}, which {_label(owner)} holds")
            kept = before.attempts - (row.status == "queued")
            _require(kept <= row.attempts <= before.attempts, f"{run} forgot {before.attempts - row.attempts} attempts")

    def _died(self, worker: str | None) -> bool:
        """Whether a worker's name was, before this commit, held by a process that is dead."""
        holder = self._workers.get(worker or "")
        return holder is not None and not any(one.label == holder and one.alive for one in self._world.processes)

    def _check_steps(self, process: Process) -> None:
        rows = self._database.execute("SELECT run, name, occurrence, epoch, result FROM steps").fetchall()
        now = {row[:3]: row[3:] for row in rows}
        past, self._steps = self._steps, now
        for key, value in past.items():
            _require(now.get(key) == value, f"the record of step {key} changed")
        for key in sorted(now.keys() - past.keys()):
            run, epoch = self._runs[key[0]], now[key][0]
            owner = self._owners.get((run.id, run.epoch))
            _require(
                epoch == run.epoch and run.status == "running" and owner is process,
                f"{process.label} recorded step {key} in epoch {epoch}; the run is {run.status} in epoch {run.epoch}, "
                f"of {_label(owner)}",
            )

    async def work_off(
        self,
        workers: int,
        worker: Callable[[Process], Awaitable[None]],
        gateway: Callable[[Process], Awaitable[None]],
        orders: Iterable[Callable[[], Awaitable[None]]],
    ) -> None:
        """Keep workers and a gateway up while clients order, with faults, and then without until every run ended.

        Args:
            orders: a client's each.
        """
        world, random = self._world, self._world.random
        for number in range(workers):
            world.keep_up(f"worker-{number}", worker)
        world.keep_up("gateway", gateway)
        clients = [asyncio.ensure_future(order()) for order in orders]
        if random.random() < 0.3:
            clients.append(asyncio.ensure_future(world.start_twin("worker-0", worker)))
        await world.until(lambda: all(client.done() for client in clients), 40.0)
        await asyncio.sleep(random.random() * 10)
        world.heal()
        await asyncio.gather(*clients)
        await world.until(self.all_ended, 400.0)  # A run that failed often waits for five minutes.
        self.check_end()

    def all_ended(self) -> bool:
        """Whether no run waits or runs."""
        return all(run.status in _ENDED for run in self._runs.values())

    def check_end(self) -> None:
        """Every run ended."""
        for run in self._runs.values():
            _require(run.status in _ENDED, f"{run.id} is {run.status} at the end, held by {run.worker}")


def read(database: sqlite3.Connection, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    return database.execute(statement, parameters).fetchall()


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


def _micros(process: Process) -> int:
    # Of a clock that was set back since the process read it, what it may have read.
    return microseconds(process.clock.latest)


def _name(worker: str | None) -> str:
    """A worker's name without its tenant."""
    return (worker or "").rpartition("/")[2]


def _label(process: Process | None) -> str:
    return "nobody" if process is None else process.label
