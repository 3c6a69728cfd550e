"""Measures of forecasts against outcomes: exact, over scored predictions, whole, by release, by day and by slice.

Everything here is pure. A forecast is the probability that a prediction gave to the positive label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from antiphon.catalog.evaluations import Bin
from antiphon.catalog.outcomes import OutcomeRecord

LEAST_PROBABILITY = 1e-6
"""Log-loss takes no forecast as surer than this, so that one certain mistake does not make it infinite."""

BINS = 10


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


def area_under_curve(probabilities: Sequence[float], positives: Sequence[bool]) -> float | None:
    """The share of (positive, negative) pairs that are ranked rightly, ties half; ``None`` without such a pair.

    It is the Mann-Whitney statistic, in whole numbers until the last division (Hanley and McNeil 1982).
    """
    ordered = sorted(zip(probabilities, positives, strict=True), key=lambda pair: pair[0])
    twice = below = start = 0
    while start < len(ordered):
        end = start
        while end < len(ordered) and ordered[end][0] == ordered[start][0]:
            end += 1
        high = sum(positive for _, positive in ordered[start:end])
        low = end - start - high
        twice += high * (2 * below + low)
        below += low
        start = end
    pairs = below * (len(ordered) - below)
    return twice / (2 * pairs) if pairs else None


def reliability(probabilities: Sequence[float], positives: Sequence[bool], bins: int = BINS) -> tuple[Bin, ...]:
    """Mean forecast beside the share that came true, in bins of equal width; empty ones are left out."""
    held: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for probability, positive in zip(probabilities, positives, strict=True):
        held[min(bins - 1, int(probability * bins))].append((probability, positive))
    return tuple(
        Bin(math.fsum(p for p, _ in rows) / len(rows), sum(positive for _, positive in rows) / len(rows), len(rows))
        for rows in held
        if rows
    )


def score(forecasts: Sequence[ScoredForecast]) -> Scores | None:
    """Every measure; ``None`` of nothing."""
    rows = len(forecasts)
    if rows == 0:
        return None
    probabilities = [forecast.probability for forecast in forecasts]
    positives = [forecast.positive for forecast in forecasts]
    share = sum(positives) / rows
    surprises = [
        -math.log(max(LEAST_PROBABILITY, p if positive else 1 - p))
        for p, positive in zip(probabilities, positives, strict=True)
    ]
    return Scores(
        rows=rows,
        positives=sum(positives),
        auc=area_under_curve(probabilities, positives),
        brier=math.fsum((p - positive) ** 2 for p, positive in zip(probabilities, positives, strict=True)) / rows,
        base_rate_brier=share * (1 - share),
        log_loss=math.fsum(surprises) / rows,
        mean_forecast=math.fsum(probabilities) / rows,
        base_rate=share,
        reliability=reliability(probabilities, positives),
    )


def by_release(forecasts: Sequence[ScoredForecast]) -> tuple[Group, ...]:
    """One group a release."""
    return _groups(forecasts, "", lambda forecast: forecast.release)


def by_day(forecasts: Sequence[ScoredForecast]) -> tuple[Group, ...]:
    """One group a day, in order."""
    return _groups(forecasts, "", lambda forecast: forecast.day)


def by_slice(forecasts: Sequence[ScoredForecast], keys: Sequence[str], most: int = 20) -> tuple[Group, ...]:
    """For each key the groups of its ``most`` frequent values."""
    found: list[Group] = []
    for key in keys:
        with_key = [forecast for forecast in forecasts if key in forecast.entity]
        groups = _groups(with_key, key, partial(_value, key))
        found += sorted(groups, key=lambda group: (-group.scores.rows, group.value))[:most]
    return tuple(found)


def _value(key: str, forecast: ScoredForecast) -> str:
    return forecast.entity[key]


def _groups(forecasts: Sequence[ScoredForecast], key: str, named: Callable[[ScoredForecast], str]) -> tuple[Group, ...]:
    held: dict[str, list[ScoredForecast]] = {}
    for forecast in forecasts:
        held.setdefault(named(forecast), []).append(forecast)
    return tuple(Group(key, value, scores) for value in sorted(held) if (scores := score(held[value])) is not None)
