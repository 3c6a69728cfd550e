"""Metrics of forecasts with their intervals: pure functions of forecasts in [0, 1] and truths.

Every array is one value a row, in the same order. Intervals are percentile bootstrap intervals (Efron and
Tibshirani, *An Introduction to the Bootstrap*, 1993, section 13.3): rows are drawn again with replacement by a seeded
generator, so the same input gives the same interval. Two releases are compared on the same drawn rows (paired): what
makes a row hard is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from antiphon.catalog.learning.evaluations import Bin, IntervalEstimate
from antiphon.core.errors import InvalidInputError

Floats = NDArray[np.float64]
Metric = Callable[[Floats, Floats], float]

RESAMPLES = 2_000
"""Draws of a bootstrap: the 2.5th percentile is then the 50th smallest, known to a few per cent of its own distance."""
CLIP = 1e-15
"""Bound on a forecast's certainty in the log-loss, so that no single row is infinite."""
SEED = 20_130_401


def auc(forecast: Floats, truth: Floats) -> float:
    """Area under the ROC curve: the chance that a positive row has the higher forecast, ties counting half.

    By ranks (Hanley and McNeil, Radiology 143, 1982; Mann-Whitney U with mid-ranks). ``nan`` for a single class.
    """
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(forecast, return_inverse=True, return_counts=True)
    highest = np.cumsum(counts)
    middle = highest - (counts - 1) / 2.0
    ranks = middle[inverse]
    return float((ranks[truth > 0.5].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def brier(forecast: Floats, truth: Floats) -> float:
    """Mean squared distance of the forecast from what happened (Brier, Monthly Weather Review 78, 1950)."""
    return float(np.mean((forecast - truth) ** 2))


def log_loss(forecast: Floats, truth: Floats, clip: float = CLIP) -> float:
    """Mean negative log-likelihood in nats, forecasts clipped to ``clip`` from 0 and 1."""
    clipped = np.clip(forecast, clip, 1 - clip)
    return float(-np.mean(truth * np.log(clipped) + (1 - truth) * np.log1p(-clipped)))


def base_rate_brier(truth: Floats) -> float:
    """Brier score of always saying the share of positives: ``p (1 − p)``."""
    share = float(np.mean(truth))
    return share * (1 - share)


def reliability(forecast: Floats, truth: Floats, bins: int = 10) -> tuple[Bin, ...]:
    """Rows by equally wide bins of the forecast, empty ones left out; a forecast of 1 is in the last one."""
    place = np.minimum((forecast * bins).astype(int), bins - 1)
    return tuple(
        Bin(float(forecast[place == one].mean()), float(truth[place == one].mean()), int((place == one).sum()))
        for one in range(bins)
        if (place == one).any()
    )


def interval(
    metric: Metric,
    forecast: Sequence[float] | Floats,
    truth: Sequence[float] | Floats,
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> IntervalEstimate:
    """A metric with its 95 % interval; raises as :func:`columns`."""
    forecasts, truths = columns(forecast, truth)
    return _bootstrap(lambda rows: metric(forecasts[rows], truths[rows]), len(truths), seed, resamples)


def difference(
    metric: Metric,
    forecast: Sequence[float] | Floats,
    other: Sequence[float] | Floats,
    truth: Sequence[float] | Floats,
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> IntervalEstimate:
    """``metric(forecast) − metric(other)`` on identical rows, with the 95 % interval of the paired bootstrap; raises as
    :func:`columns`."""
    forecasts, truths = columns(forecast, truth)
    others, _ = columns(other, truth)
    return _bootstrap(
        lambda rows: metric(forecasts[rows], truths[rows]) - metric(others[rows], truths[rows]),
        len(truths),
        seed,
        resamples,
    )


def columns(forecast: Sequence[float] | Floats, truth: Sequence[float] | Floats) -> tuple[Floats, Floats]:
    """Both as arrays of one length; raises ``InvalidInputError`` when they are empty or of different lengths, a
    forecast is no number in [0, 1], or a truth is neither 0 nor 1."""
    forecasts = np.asarray(forecast, dtype=np.float64)
    truths = np.asarray(truth, dtype=np.float64)
    if len(forecasts) == 0 or len(forecasts) != len(truths):
        raise InvalidInputError(
            f"{len(forecasts)} forecasts cannot be scored against {len(truths)} truths.", where="rows"
        )
    if not np.all((forecasts >= 0) & (forecasts <= 1)):
        raise InvalidInputError("A forecast is a probability from 0 to 1.", where="rows")
    if not np.all((truths == 0) | (truths == 1)):
        raise InvalidInputError("A truth is 0 or 1.", where="rows")
    return forecasts, truths


def _bootstrap(statistic: Callable[[Any], float], rows: int, seed: int, resamples: int) -> IntervalEstimate:
    """A function of chosen rows, of all of them and with its interval over rows that are drawn again."""
    generator = np.random.default_rng(seed)
    value = statistic(slice(None))
    drawn = [statistic(generator.integers(0, rows, rows)) for _ in range(resamples)]
    # A draw without one of the classes has no area under the curve; it says nothing, so it is left out.
    known = [one for one in drawn if not np.isnan(one)]
    low, high = np.percentile(known, [2.5, 97.5]) if known else (value, value)
    return IntervalEstimate(value, float(low), float(high))


def wilson(successes: int, trials: int, z: float = 1.959964) -> IntervalEstimate | None:
    """A share with Wilson's score interval (E. B. Wilson, JASA 22, 1927), 95 % by default; ``None`` without trials."""
    if trials == 0:
        return None
    share, extra = successes / trials, z * z / trials
    center = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * (share * (1 - share) / trials + extra / (4 * trials)) ** 0.5
    return IntervalEstimate(share, max(center - half, 0.0), min(center + half, 1.0))
