"""Metrics of forecasts against outcomes: over scored predictions, whole, by release, by day and by slice.

Everything here is pure. A forecast is the probabilities that a prediction gave to the labels that are scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from antiphon.catalog.learning.evaluations import Bin
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.learning.evaluation import metrics
from antiphon.learning.evaluation.metrics import LabelForecasts


class ScoredForecast(msgspec.Struct, frozen=True):
    """One forecast and the label that came true. ``day`` is the UTC date of the question, ``YYYY-MM-DD``."""

    probabilities: dict[str, float]
    label: str
    release: str
    role: str
    day: str
    entity: dict[str, str]


class Scores(msgspec.Struct, frozen=True):
    """Metrics of some forecasts.

    Attributes:
        labels: label to the number of rows in which it came true.
        metrics: by name (``learning.evaluation.metrics``), without the AUC when only one label came true; ``trivial``
            those of a forecaster that knows the labels' shares alone.
        mean_forecast: label that is scored to its mean probability.
        reliability: non-empty bins of equal width.
    """

    rows: int
    labels: dict[str, int]
    metrics: dict[str, float]
    trivial: dict[str, float]
    mean_forecast: dict[str, float]
    reliability: tuple[Bin, ...]


class Group(msgspec.Struct, frozen=True):
    """The metrics of one release, day, or value of a key; ``key`` is empty but for slices."""

    key: str
    value: str
    scores: Scores


def forecasts_of(outcomes: Iterable[OutcomeRecord]) -> tuple[list[ScoredForecast], int]:
    """Forecasts of joined labels, and how many of these had no probability (a text without classes)."""
    found: list[ScoredForecast] = []
    without = 0
    for outcome in outcomes:
        if outcome.kind != "label" or outcome.as_of is None:
            continue
        if not outcome.probabilities:
            without += 1
            continue
        day = outcome.as_of.date().isoformat()
        found.append(
            ScoredForecast(
                outcome.probabilities, outcome.value, outcome.release or "", outcome.role or "", day, outcome.entity
            )
        )
    return found, without


def score(forecasts: Sequence[ScoredForecast], labels: Sequence[str], positive: str | None) -> Scores | None:
    """Every metric of a question with these labels; ``None`` of nothing."""
    if not forecasts:
        return None
    read = LabelForecasts.read([(one.probabilities, one.label) for one in forecasts], labels, positive)
    scored = labels if read.of_many else read.labels[1:]
    means = read.probabilities.mean(axis=0)[-len(scored) :]
    return Scores(
        rows=read.rows,
        labels=dict(sorted(Counter(one.label for one in forecasts).items())),
        metrics=metrics.measure(read),
        trivial=metrics.measure(read.trivial()),
        mean_forecast={label: float(mean) for label, mean in zip(scored, means, strict=True)},
        reliability=metrics.reliability(read),
    )


Score = Callable[[Sequence[ScoredForecast]], Scores | None]
""":func:`score` of one application."""


def by_release(forecasts: Sequence[ScoredForecast], score: Score) -> tuple[Group, ...]:
    """One group a release."""
    return _groups(forecasts, score, lambda forecast: forecast.release)


def by_day(forecasts: Sequence[ScoredForecast], score: Score) -> tuple[Group, ...]:
    """One group a day, in order."""
    return _groups(forecasts, score, lambda forecast: forecast.day)


def by_slice(
    forecasts: Sequence[ScoredForecast], score: Score, keys: Sequence[str], most: int = 20
) -> tuple[Group, ...]:
    """For each key the groups of its ``most`` frequent values."""
    found: list[Group] = []
    for key in keys:
        with_key = [forecast for forecast in forecasts if key in forecast.entity]
        groups = _groups(with_key, score, partial(_value, key), key)
        found += sorted(groups, key=lambda group: (-group.scores.rows, group.value))[:most]
    return tuple(found)


def _value(key: str, forecast: ScoredForecast) -> str:
    return forecast.entity[key]


def _groups(
    forecasts: Sequence[ScoredForecast], score: Score, named: Callable[[ScoredForecast], str], key: str = ""
) -> tuple[Group, ...]:
    held: dict[str, list[ScoredForecast]] = {}
    for forecast in forecasts:
        held.setdefault(named(forecast), []).append(forecast)
    return tuple(Group(key, value, scores) for value in sorted(held) if (scores := score(held[value])) is not None)
