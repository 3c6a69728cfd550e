"""The forgetting that trainings from what is new measured, read from what their runs returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from antiphon.catalog.learning.evaluations import IntervalEstimate
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.learning.evaluation.metrics import metric_of


class ForgettingMeasure(msgspec.Struct, frozen=True):
    """The amount by which a version is worse than its parent on what that was evaluated on.

    Attributes:
        value: in the unit of the metric, with the bounds of its 95 % interval; below 0 where it is better.
        run: the training.
    """

    title: str
    value: float
    low: float
    high: float
    run: str

    def __str__(self) -> str:
        return f"{self.value:.3g} of {self.title} ({self.low:.3g} to {self.high:.3g})"


def measured_forgetting(run: str, result: Mapping[str, Any] | None, shape: OutcomeShape) -> ForgettingMeasure | None:
    """The forgetting of a training in the metric that decides of an outcome; ``None`` where it was not measured.

    Args:
        result: what the training returned (``CandidateValidation.run``).
    """
    differences = ((result or {}).get("forgetting") or {}).get("difference") or {}
    if (found := differences.get(shape.deciding)) is None:
        return None
    change = msgspec.convert(found, IntervalEstimate)
    low, value, high = change.low, change.value, change.high
    if metric_of(shape.deciding).higher:
        low, value, high = -high, -value, -low
    return ForgettingMeasure(shape.deciding_title, value, low, high, run)
