"""How the run of a batch job ends: as its job did, and never as plain ``succeeded`` when rows of it failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antiphon.batch.ports import Run
from antiphon.catalog.jobs import BatchJob
from antiphon.durable.run import RunResult


def run_result(run: Run, job: BatchJob, error: str | None, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a job's run; how many rows failed becomes the run's note.

    Args:
        error: why the job ended, of one that failed.
    """
    if job.rows_failed:
        run.progress(job.rows_done, job.total, f"{job.rows_failed} of {job.rows_done} rows failed")
    match job.status:
        case "failed":
            return RunResult(result, "failed", error)
        case "cancelled":
            return RunResult(result, "cancelled")
        case _:
            return RunResult(result, "succeeded_with_failures") if job.rows_failed else dict(result)
