"""Invariants of batch jobs and their rows, held after every commit."""

from __future__ import annotations

from typing import Any

from tests.simulation.process import Process, Violation
from tests.simulation.world import World

_ENDED = ("completed", "failed", "cancelled", "expired")
_MOVES = {
    "queued": ("running", "cancelled", "failed"),
    "running": ("finalizing", "cancelled", "failed"),
    # A worker that died while the file was made leaves this to the next.
    "finalizing": ("running", "completed", "cancelled", "failed"),
    # Batches of OpenAI's API.
    "validating": ("in_progress", "cancelling", "failed"),
    "in_progress": ("finalizing", "cancelling", "failed"),
    "cancelling": ("cancelled", "failed"),
}
_OWNED = ("in_progress", "finalizing", "completed")


class JobObserver:
    """Checks every change of a job and every row that is written."""

    def __init__(self, world: World) -> None:
        self._database = world.connection()
        self._jobs: dict[str, tuple[str, int, int]] = {}
        self._rows: dict[tuple[str, int], tuple[Any, ...]] = {}
        self._touched: dict[str, tuple[Any, ...]] = {}
        self._settled: dict[str, tuple[Any, ...]] = {}
        self._owners: dict[tuple[str, int], Process] = {}
        world.observers.append(self)

    def __call__(self, process: Process) -> None:
        jobs = {row[0]: row[1:] for row in self._database.execute("SELECT id, status, epoch, total FROM jobs")}
        found = self._database.execute("SELECT job, line, epoch, failed, payload FROM job_rows")
        rows = {(row[0], row[1]): tuple(row[2:]) for row in found}
        past, self._jobs = self._jobs, jobs
        past_rows, self._rows = self._rows, rows
        touched = {
            row[0]: row[1:] for row in self._database.execute("SELECT id, kind, application, updated_at FROM jobs")
        }
        past_touched, self._touched = self._touched, touched
        self._check_settled()
        for job, (status, epoch, _) in jobs.items():
            if job not in past:
                continue
            before, raised = past[job][0], epoch - past[job][1]
            if raised:
                self._owners[job, epoch] = process
            if raised not in (0, 1) or (raised and before in _ENDED):
                raise Violation(f"{job} was {before} in epoch {past[job][1]} and is {status} in epoch {epoch}")
            if status != before and status not in _MOVES.get(before, ()):
                raise Violation(f"{job} went from {before} to {status}")
            if status in _OWNED and status != before and self._owners.get((job, epoch)) is not process:
                raise Violation(f"{process.label} moved {job} to {status} and does not hold it")
            asked = (past[job][0], status) in (("validating", "cancelling"), ("in_progress", "cancelling"))
            changed = touched[job][0] == "openai" and touched[job] != past_touched[job] and not asked
            if changed and self._owners.get((job, epoch)) is not process:
                raise Violation(f"{process.label} changed {job} and does not hold it")
            if status == "completed" and sum(key[0] == job for key in rows) != jobs[job][2]:
                raise Violation(f"{job} is completed without all of its {jobs[job][2]} rows")
        self._check_rows(process, past_rows)

    def _check_settled(self) -> None:
        """What was settled about a batch's end and files stays."""
        query = "SELECT id, ending, output_file, error_file FROM batches WHERE ending IS NOT NULL"
        past, self._settled = self._settled, {row[0]: row[1:] for row in self._database.execute(query)}
        for batch, settled in past.items():
            if self._settled.get(batch) != settled:
                raise Violation(f"{batch} was settled as {settled} and is {self._settled.get(batch)}")

    def _check_rows(self, process: Process, past_rows: dict[tuple[str, int], tuple[Any, ...]]) -> None:
        jobs, rows = self._jobs, self._rows
        for key, row in past_rows.items():
            if rows.get(key) != row:
                raise Violation(f"row {key} changed or is gone")
        for job, line in sorted(rows.keys() - past_rows.keys()):
            status, epoch, total = jobs[job]
            if not 0 <= line < total:
                raise Violation(f"{job} has a row {line} of {total}")
            if status in _ENDED or rows[job, line][0] != epoch or self._owners.get((job, epoch)) is not process:
                raise Violation(f"{process.label} wrote row {line} of {job}, which is {status} in epoch {epoch}")
