"""Evaluations of releases: what the served artefact did on a dataset, and the gates' verdict."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from antiphon.core.scope import Scope


class Measure(msgspec.Struct, frozen=True):
    """A figure with its 95 % bootstrap interval (paired by row where two things are compared)."""

    value: float
    low: float
    high: float


class Bin(msgspec.Struct, frozen=True):
    """One bin of a reliability diagram: mean forecast, share of positives, rows."""

    forecast: float
    observed: float
    rows: int


class Slice(msgspec.Struct, frozen=True):
    """The same measures on the rows of one value of one key."""

    key: str
    value: str
    rows: int
    positives: int
    auc: float | None
    brier: float


class Gate(msgspec.Struct, frozen=True):
    """One gate: ``passed`` is ``None`` when it is switched off. ``reason`` is a sentence with both figures."""

    name: str
    passed: bool | None
    measured: float | None
    bound: float | None
    reason: str


class Evaluation(msgspec.Struct, frozen=True):
    """What one release did on one dataset, through the function that serves.

    Attributes:
        mode: ``classes`` asked only for the outcome's property, ``whole`` for the whole output.
        failed: rows that got no answer, by error code.
        base_rate_brier: of always saying the dataset's share of positives.
        valid_share, false_share, guard_share: of ``whole_rows`` whole outputs: those that meet the schema before a
            guard acted, those whose served text states a figure that is not the request's, those a guard changed.
        injected_share, leaked_share: of the attack sets; ``None`` when they were not run.
        against: the release it is compared with on identical rows; ``difference`` measure to (this − that).
        rows_blob: per-row results, for paired comparison later.
    """

    id: str
    scope: Scope
    application: str
    release: str
    model: str
    dataset: str
    mode: Literal["classes", "whole"]
    rows: int
    positives: int
    failed: dict[str, int]
    auc: Measure | None
    brier: Measure
    log_loss: Measure
    base_rate_brier: float
    reliability: tuple[Bin, ...]
    slices: tuple[Slice, ...]
    whole_rows: int
    valid_share: float | None
    false_share: float | None
    guard_share: float | None
    injected_share: float | None
    leaked_share: float | None
    seconds_p50: float
    seconds_p99: float
    tokens: float
    engine_seconds: float
    against: str | None
    difference: dict[str, Measure]
    gates: tuple[Gate, ...]
    rows_blob: str
    created_at: datetime

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(gate.passed is not False for gate in self.gates)
