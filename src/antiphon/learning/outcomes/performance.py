"""Measures of forecasts against outcomes: over scored predictions, whole, by release, by day and by slice.

Everything here is pure. A forecast is the probability that a prediction gave to the positive label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec
import numpy as np

from antiphon.catalog.learning.evaluations import Bin
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.learning.evaluation import metrics

LEAST_PROBABILITY = 1e-6
"""Log-loss takes no forecast as surer than this, so that one certain mistake does not make it infinite."""


class ScoredForecast(msgspec.Struct, frozen=True):
    """One forecast and what came true. ``day`` is the UTC date of the question, ``YYYY-MM-DD``."""

    probability: float
    positive: bool
    release: str
    role: str
    day: str
    entity: dict[str, str]


class Scores(msgspec.Struct, frozen=True):
    """Measures of some forecasts.

    Attributes:
        auc: area under the ROC curve, ties counted half; ``None`` when only one class came true.
        brier: mean squared distance of forecast and truth; ``base_rate_brier`` that of always saying the share of
            positives (Brier, "Verification of forecasts expressed in terms of probability", 1950).
        log_loss: in nats.
        reliability: non-empty bins of equal width.
    """

    rows: int
    positives: int
    auc: float | None
    brier: float
    base_rate_brier: float
    log_loss: float
    mean_forecast: float
    base_rate: float
    reliability: tuple[Bin, ...]


class Group(msgspec.Struct, frozen=True):
    """The measures of one release, day, or value of a key; ``key`` is empty but for slices."""

    key: str
    value: str
    scores: Scores


def forecasts_of(outcomes: Iterable[OutcomeRecord]) -> tuple[list[ScoredForecast], int]:
    """Forecasts of joined labels, and how many of these had no probability (a text without classes)."""
    found: list[ScoredForecast] = []
    without = 0
    for outcome in outcomes:
        if outcome.positive is None or outcome.as_of is None:
            continue
        if outcome.probability is None:
            without += 1
            continue
        day = outcome.as_of.date().isoformat()
        found.append(
            ScoredForecast(
                outcome.probability, outcome.positive, outcome.release or "", outcome.role or "", day, outcome.entity
            )
        )
    return found, without


def score(forecasts: Sequence[ScoredForecast]) -> Scores | None:
    """Every measure; ``None`` of nothing."""
    if not forecasts:
        return None
    forecast = np.array([one.probability for one in forecasts], np.float64)
    truth = np.array([one.positive for one in forecasts], np.float64)
    area = metrics.auc(forecast, truth)
    return Scores(
        rows=len(forecasts),
        positives=int(truth.sum()),
        auc=None if math.isnan(area) else area,
        brier=metrics.brier(forecast, truth),
        base_rate_brier=metrics.base_rate_brier(truth),
        log_loss=metrics.log_loss(forecast, truth, LEAST_PROBABILITY),
        mean_forecast=float(forecast.mean()),
        base_rate=float(truth.mean()),
        reliability=metrics.reliability(forecast, truth),
    )


def by_release(forecasts: Sequence[ScoredForecast]) -> tuple[Group, ...]:
    """One group a release."""
    return _groups(forecasts, lambda forecast: forecast.release)


def by_day(forecasts: Sequence[ScoredForecast]) -> tuple[Group, ...]:
    """One group a day, in order."""
    return _groups(forecasts, lambda forecast: forecast.day)


def by_slice(forecasts: Sequence[ScoredForecast], keys: Sequence[str], most: int = 20) -> tuple[Group, ...]:
    """For each key the groups of its ``most`` frequent values."""
    found: list[Group] = []
    for key in keys:
        with_key = [forecast for forecast in forecasts if key in forecast.entity]
        groups = _groups(with_key, partial(_value, key), key)
        found += sorted(groups, key=lambda group: (-group.scores.rows, group.value))[:most]
    return tuple(found)


def _value(key: str, forecast: ScoredForecast) -> str:
    return forecast.entity[key]


def _groups(
    forecasts: Sequence[ScoredForecast], named: Callable[[ScoredForecast], str], key: str = ""
) -> tuple[Group, ...]:
    held: dict[str, list[ScoredForecast]] = {}
    for forecast in forecasts:
        held.setdefault(named(forecast), []).append(forecast)
    return tuple(Group(key, value, scores) for value in sorted(held) if (scores := score(held[value])) is not None)
