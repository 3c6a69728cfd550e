"""Metrics of the runs of one worker."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from antiphon.core.histograms import Histogram

SECONDS = (0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0)

Outcome = Literal["succeeded", "failed", "canceled", "given_back", "rolled_back", "lost"]
"""Of an attempt. ``given_back``: another worker, or this one later, goes on; ``lost``: another one had taken it."""


class RunMetrics:
    """Counts attempts at runs by workflow and outcome, and how long they took in wall seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        by_workflow = ("workflow",)
        self._ended = Counter("antiphon_run_attempts", "Ended attempts.", ("workflow", "outcome"), registry=registry)
        self._seconds = Histogram(
            "antiphon_run_attempt_seconds", "Begin to end.", by_workflow, registry=registry, bounds=SECONDS
        )
        self._under_way = Gauge("antiphon_runs_under_way", "In this process.", by_workflow, registry=registry)

    def began(self, workflow: str) -> None:
        self._under_way.labels(workflow).inc()

    def ended(self, workflow: str, outcome: Outcome, seconds: float) -> None:
        self._under_way.labels(workflow).dec()
        self._ended.labels(workflow, outcome).inc()
        self._seconds.observe((workflow,), seconds)
