"""E-values of a period against a signal's usual values, and the e-detector that adds them up: pure.

An e-value has an expectation of at most one while nothing has changed, so its running product may be looked at after
every period. The detector is an e-CUSUM: log M = max(0, log M) + log e. It raises a false alarm in the mean after no
fewer periods than its threshold (Shin, Ramdas, Rinaldo: *E-detectors: a nonparametric framework for sequential change
detection*, New England Journal of Statistics in Data Science 2, 2024, theorem 2.4). An average of e-detectors is one,
so of K signals each has the threshold times K, and the bound holds for all of them together, however they depend on
each other.

The bound holds as far as the usual values are right. They are estimates, so each is taken at its upper confidence
bound, with a floor below which nothing is worth an incident; and one period counts for at most
:data:`MOST_OF_A_PERIOD`, because requests of one period are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

FALSE_ALARM_PERIODS = 100 * 8_640.0
"""Periods in which all signals together raise one false alarm at most, in the mean: a hundred days of ten seconds."""

AFTER_A_CHANGE = 30
"""Periods for which a change of people is watched more closely: five minutes."""

FALSE_ALARMS_OF_A_CHANGE = 0.01
"""Probability at most of a false alarm of all signals together in that time."""

MOST_OF_A_PERIOD = 10.0
"""In nats. Less than any threshold: one bad period alone is no change."""

_HIGHEST = 12.0
"""Of a detector above its threshold, in nats: it comes down again within a few usual periods."""


def threshold(signals: int, *, changed: bool = False) -> float:
    """The height at which one of so many signals has changed, in nats.

    Args:
        changed: people have changed something within the last :data:`AFTER_A_CHANGE` periods. The detector's sum over
            starts has an expectation of at most one for each period, so by Markov's inequality it reaches so many
            times the number of these periods with the probability of a false alarm that is allowed.
    """
    if changed:
        return max(math.log(AFTER_A_CHANGE * max(1, signals) / FALSE_ALARMS_OF_A_CHANGE), 1.1 * MOST_OF_A_PERIOD)
    return math.log(FALSE_ALARM_PERIODS * max(1, signals))


def advance(level: float, evidence: float, limit: float) -> float:
    """The detector's next height, in nats."""
    return min(max(0.0, level) + evidence, limit + _HIGHEST)


def of_share(bad: float, total: float, usual: float) -> float:
    """Evidence in nats that a share is above ``usual``: a mixture of likelihood ratios of binomial counts.

    Each ratio is monotone in ``bad``, so its expectation is at most one for every share up to ``usual``.
    """
    if total <= 0:
        return 0.0
    bad = min(bad, total)
    alternatives = [min(0.98, usual * factor) for factor in (2.0, 4.0)] + [min(0.98, usual + 0.4), 0.98]
    gains = [
        bad * math.log(share / usual) + (total - bad) * math.log((1 - share) / (1 - usual))
        for share in alternatives
        if share > usual
    ]
    return _bounded(_mixture(gains))


def of_count(count: float, usual: float) -> float:
    """Evidence in nats that a count is above ``usual``: a mixture of likelihood ratios of Poisson counts."""
    gains = [count * math.log(factor) - usual * (factor - 1) for factor in (2.0, 4.0, 16.0)]
    return _bounded(_mixture(gains))


def of_height(value: float, usual: float, spread: float) -> float:
    """Evidence in nats that a positive value is above ``usual``, whose logarithm scatters by ``spread``.

    Normal errors are assumed: a mixture of likelihood ratios of means that are two and four spreads higher.
    """
    if value <= 0 or usual <= 0:
        return 0.0
    off = min(8.0, math.log(value / usual) / spread)
    return _bounded(_mixture([step * off - step * step / 2 for step in (2.0, 4.0)]))


def upper_share(bad: float, total: float, floor: float) -> float:
    """The upper confidence bound of a share of which so many were seen; at least ``floor``."""
    if total <= 0:
        return floor
    seen = (bad + 0.5) / (total + 1)
    return min(0.9, max(floor, seen + 3 * math.sqrt(seen * (1 - seen) / (total + 1))))


def upper_count(counts: Sequence[float], floor: float) -> float:
    """A high count of a period as periods before had it, and half as much again; at least ``floor``."""
    if not counts:
        return floor
    ordered = sorted(counts)
    return max(floor, 1.5 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))])


def spread_of(values: Sequence[float], least: float) -> tuple[float, float]:
    """The median of positive values, and the spread of their logarithms by the median deviation; at least ``least``."""
    logs = sorted(math.log(value) for value in values if value > 0)
    if not logs:
        return 0.0, least
    middle = logs[len(logs) // 2]
    deviations = sorted(abs(value - middle) for value in logs)
    return math.exp(middle), max(least, 1.4826 * deviations[len(deviations) // 2])


def _mixture(gains: Sequence[float]) -> float:
    if not gains:
        return 0.0
    top = max(gains)
    return top + math.log(sum(math.exp(gain - top) for gain in gains) / len(gains))


def _bounded(gain: float) -> float:
    return max(-MOST_OF_A_PERIOD, min(MOST_OF_A_PERIOD, gain))
