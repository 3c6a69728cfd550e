"""Intervals of means of few values, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from antiphon.catalog.learning.evaluations import IntervalEstimate


def mean_of_few(values: Sequence[float], span: float) -> IntervalEstimate:
    """The mean of a few values that lie within a span, with its 95 % interval by Student's t.

    It is never narrower than if one of them were off by the whole span: values that happen to be alike are no proof
    that all are.
    """
    found, count = np.asarray(values, np.float64), len(values)
    value = float(found.mean())
    if count < 2:
        return IntervalEstimate(value, value - span, value + span)
    spread = max(float(found.std(ddof=1)), span / math.sqrt(count))
    half = student(0.95, count - 1) * spread / math.sqrt(count)
    return IntervalEstimate(value, value - half, value + half)


def student(level: float, freedom: int) -> float:
    """The half width of Student's interval in standard errors, from the normal one (Abramowitz & Stegun, 26.7.5): to
    two digits of 3 degrees of freedom, to three of 20."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
