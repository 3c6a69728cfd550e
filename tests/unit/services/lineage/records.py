"""Runs and their steps, written by hand as workflows record them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from antiphon.core.scope import Scope
from antiphon.durable.run import Run, RunStatus, StepRecord

SCOPE = Scope("shop", "dev")
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def a_run(
    workflow: str,
    arguments: dict[str, Any],
    result: dict[str, Any] | None = None,
    status: RunStatus = "succeeded",
    error: str | None = None,
) -> Run:
    """A run of a workflow, a minute long where it has ended."""
    ended = None if status in ("queued", "running") else NOON + timedelta(minutes=1)
    return Run(
        "run_01", SCOPE, workflow, None, arguments, status, 1, 1, 3, None, None, NOON, False, 0, None, "", result,
        error, None, NOON, NOON, ended,
    )  # fmt: skip


def steps(results: dict[str, Any]) -> list[StepRecord]:
    """Completed steps by their names."""
    return [StepRecord(name, 0, 1, result, NOON, NOON) for name, result in results.items()]
