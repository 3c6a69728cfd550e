"""Tests of whether two samples, known by their histograms, are of one distribution; population stability index.

Approximation: a Kolmogorov-Smirnov distance over bins is the greatest difference of the cumulative shares *at edges*,
so it is at most the distance of the samples themselves, and short of it by no more than the largest share of a bin; its
p-value errs to the side of no finding. Snapshots share events and entities, so p-values are a scale and not a
probability; therefore a difference must also be large (an effect) to be reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from antiphon.catalog.features.snapshot_facts import Statistics

LEAST = 100
"""With fewer values on either side there is no result."""

NORMAL_99 = 2.3263478740408408
NORMAL_9999 = 3.719016485455709
"""The 99 % and the 99.99 % quantile of the standard normal distribution."""

_CELLS = 20
"""PSI is taken over at most so many merged bins, each with at least a 20th of the reference."""


class Distance(NamedTuple):
    """Distance of a variable's distribution from the earlier one.

    ``psi`` the population stability index and ``noise`` what it stays below in 9,999 of 10,000 comparisons of a
    distribution with itself; ``effect`` the KS distance of numbers, Cramér's V of categories; ``p_value``
    of the test that ``test`` names.
    """

    name: str
    test: str
    psi: float
    noise: float
    effect: float
    p_value: float


def distance(name: str, before: Statistics, now: Statistics, most: int | None = None) -> Distance | None:
    """Compare two histograms; ``None`` when they are too small or of different kinds or edges.

    ``most``: so many values of ``before`` at most are independent of each other. Several snapshots of the same entities
    pooled say no more about chance than one of them.
    """
    if before.counts and now.counts and before.edges == now.edges:
        n, m = min(sum(before.counts), most or sum(before.counts)), sum(now.counts)
        if min(n, m) < LEAST:
            return None
        effect, bins = ks_distance(before.counts, now.counts), merged(before.counts, now.counts)
        noise = psi_noise(n, m, len(bins[0]))
        return Distance(name, "Kolmogorov-Smirnov", psi(*bins), noise, effect, ks_p_value(effect, n, m))
    if (before.top or before.other) and (now.top or now.other) and not before.counts and not now.counts:
        # Ordered by what was frequent before; what neither names stands in "other".
        names = list(dict.fromkeys([*before.top, *now.top]))
        then = [before.top.get(value, 0) for value in names] + [before.other]
        new = [now.top.get(value, 0) for value in names] + [now.other]
        n, m = min(sum(then), most or sum(then)), sum(new)
        if min(n, m) < LEAST:
            return None
        statistic, degrees, effect = chi_squared([count * n / sum(then) for count in then], new)
        cells = _frequent(then, new)
        noise = psi_noise(n, m, len(cells[0]))
        return Distance(name, "χ²", psi(*cells), noise, effect, chi_squared_p_value(statistic, degrees))
    return None


def pooled(earlier: Iterable[Statistics]) -> Statistics | None:
    """Several histograms of the same edges as one; the first decides on the edges."""
    found: Statistics | None = None
    for one in earlier:
        if found is None:
            found = one
            continue
        if one.edges != found.edges:
            continue
        top = {name: found.top.get(name, 0) + one.top.get(name, 0) for name in dict.fromkeys([*found.top, *one.top])}
        counts = found.counts or one.counts
        if found.counts and one.counts:
            counts = tuple(a + b for a, b in zip(found.counts, one.counts, strict=True))
        rows = found.rows + one.rows
        nulls = (found.null_share * found.rows + one.null_share * one.rows) / rows if rows else 1.0
        found = Statistics(
            rows=rows, null_share=nulls, edges=found.edges, counts=counts, top=top, other=found.other + one.other
        )
    return found


def merged(before: Sequence[int], now: Sequence[int]) -> tuple[list[int], list[int]]:
    """Neighboring bins put together until each holds a 20th of the reference."""
    least = sum(before) / _CELLS
    then, new, held, held_new = [], [], 0, 0
    for a, b in zip(before, now, strict=True):
        held, held_new = held + a, held_new + b
        if held >= least:
            then.append(held)
            new.append(held_new)
            held = held_new = 0
    if held or held_new:
        if then:
            then[-1] += held
            new[-1] += held_new
        else:
            then.append(held)
            new.append(held_new)
    return then, new


def _frequent(before: Sequence[int], now: Sequence[int]) -> tuple[list[int], list[int]]:
    """Categories with at least a hundredth of either side; the others together."""
    n, m = sum(before), sum(now)
    kept = [(a, b) for a, b in zip(before, now, strict=True) if a >= n / 100 or b >= m / 100]
    rest_before, rest_now = n - sum(a for a, _ in kept), m - sum(b for _, b in kept)
    return [a for a, _ in kept] + [rest_before], [b for _, b in kept] + [rest_now]


def psi(before: Sequence[int], now: Sequence[int]) -> float:
    """Population stability index of two samples counted in the same bins: ``Σ (q − p) · ln(q / p)`` of the shares p
    before and q now. Half a row is added to every bin, so that an empty one does not make the index infinite."""
    n, m, cells = sum(before), sum(now), len(before)
    total = 0.0
    for a, b in zip(before, now, strict=True):
        p, q = (a + 0.5) / (n + 0.5 * cells), (b + 0.5) / (m + 0.5 * cells)
        total += (q - p) * math.log(q / p)
    return total


def psi_noise(n: int, m: int, cells: int, normal: float = NORMAL_9999) -> float:
    """Quantile of the index between two samples of one distribution, of n and m rows in so many bins.

    The index is about ``(1/n + 1/m) · χ²`` with one degree of freedom less than there are bins (Yurdakul and Naranjo,
    "Statistical properties of the population stability index", 2020); the quantile of χ² is Wilson and Hilferty's cube
    (1931), within 2 % from one degree on.

    Args:
        normal: the same quantile of the standard normal distribution.
    """
    if cells < 2:
        return 0.0
    part = 2 / (9 * (cells - 1))
    return float((1 / n + 1 / m) * (cells - 1) * (1 - part + normal * math.sqrt(part)) ** 3)


def ks_distance(before: Sequence[int], now: Sequence[int]) -> float:
    """The greatest difference of cumulative shares at the edges."""
    n, m = sum(before), sum(now)
    greatest = below_before = below_now = 0.0
    for a, b in zip(before, now, strict=True):
        below_before, below_now = below_before + a / n, below_now + b / m
        greatest = max(greatest, abs(below_before - below_now))
    return greatest


def ks_p_value(statistic: float, n: int, m: int) -> float:
    """The asymptotic two-sample p-value, with Stephens' correction (1970)."""
    size = math.sqrt(n * m / (n + m))
    scaled = (size + 0.12 + 0.11 / size) * statistic
    if scaled < 0.2:
        return 1.0
    total: float = sum((-1.0) ** (k - 1) * math.exp(-2.0 * k * k * scaled * scaled) for k in range(1, 101))
    return min(max(2.0 * total, 0.0), 1.0)


def chi_squared(before: Sequence[float], now: Sequence[float]) -> tuple[float, int, float]:
    """Pearson's statistic of the two rows, its degrees of freedom, and Cramér's V."""
    n, m = sum(before), sum(now)
    statistic, cells = 0.0, 0
    for a, b in zip(before, now, strict=True):
        if a + b == 0:
            continue
        cells += 1
        for found, size in ((a, n), (b, m)):
            expected = size * (a + b) / (n + m)
            statistic += (found - expected) ** 2 / expected
    return statistic, max(cells - 1, 0), math.sqrt(statistic / (n + m))


def chi_squared_p_value(statistic: float, degrees: int) -> float:
    """The upper tail: the regularised incomplete gamma function Q(k/2, x/2), as in Numerical Recipes, 6.2."""
    if degrees < 1 or statistic <= 0:
        return 1.0
    a, x = degrees / 2.0, statistic / 2.0
    scale = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1.0:
        term = total = 1.0 / a
        k = a
        for _ in range(10_000):
            k += 1.0
            term *= x / k
            total += term
            if term < total * 1e-15:
                break
        return max(0.0, 1.0 - total * scale)
    tiny = 1e-300
    b = x + 1.0 - a
    c, d = 1.0 / tiny, 1.0 / b
    h = d
    for k in range(1, 10_000):
        term = -k * (k - a)
        b += 2.0
        d = 1.0 / (term * d + b or tiny)
        c = b + term / c or tiny
        h *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return float(scale * h)


def discoveries(p_values: Mapping[str, float], alpha: float) -> frozenset[str]:
    """Names whose null hypothesis falls at a false discovery rate of ``alpha`` (Benjamini and Hochberg, 1995)."""
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    last = 0
    for rank, (_, p) in enumerate(ordered, start=1):
        if p <= alpha * rank / len(ordered):
            last = rank
    return frozenset(name for name, _ in ordered[:last])
