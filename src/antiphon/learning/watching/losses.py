"""Losses of single answers by what came true, from 0 to 1, by the metric that also decides in shadow."""

from __future__ import annotations

from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.learning.evaluation.metrics import scoring_of
from antiphon.learning.evaluation.pairs import brier, loss


def loss_of(outcome: OutcomeRecord, shape: OutcomeShape) -> float | None:
    """The loss of one answer; ``None`` where the outcome is none of this shape, or the answer says nothing of it."""
    if outcome.kind != shape.form or not shape.admits(outcome.value):
        return None
    if shape.form == "label":
        forecast = _forecast(outcome)
        if not forecast:
            return None
        came_true = outcome.value if len(forecast) > 1 or outcome.value in forecast else ""
        return min(brier(forecast, came_true), 1.0)
    if shape.form == "number":
        return None if outcome.said is None else loss(outcome.said, outcome.value, shape)
    value = outcome.scores.get(scoring_of(shape).deciding)
    return None if value is None else min(max(1.0 - value, 0.0), 1.0)


def calibration_error(outcome: OutcomeRecord, shape: OutcomeShape) -> float | None:
    """1 or 0 for whether a label came true, less its probability: of the positive label, or of the likeliest one."""
    if outcome.kind != "label" or shape.form != "label" or not shape.admits(outcome.value):
        return None
    forecast = _forecast(outcome)
    if not forecast:
        return None
    label = shape.positive if shape.positive in forecast else max(forecast, key=lambda name: (forecast[name], name))
    return float(outcome.value == label) - forecast[label]


def _forecast(outcome: OutcomeRecord) -> dict[str, float]:
    # Not a number is in no interval.
    found = outcome.probabilities
    return dict(found) if all(0.0 <= value <= 1.0 for value in found.values()) else {}
