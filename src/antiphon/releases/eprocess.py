"""E-processes: evidence against a null hypothesis that may be looked at after every event.

Invariant: under its null, each function's value has expectation at most 1 at every stopping time, so that
P(it ever reaches 1/α) ≤ α (Ville's inequality; Ramdas, Grünwald, Vovk & Shafer, "Game-theoretic statistics and safe
anytime-valid inference", Statistical Science 38, 2023, sections 2 and 3). Optional stopping holds because each value
is a mixture, with weights fixed here, of products whose next factor is non-negative and has conditional expectation at
most 1 under every member of the null, whatever came before. Nobody needs to say in advance how often they look.

All values are natural logarithms. Those of counts depend on counts alone: a new event costs O(1), and the order in
which events are recorded does not matter. Counts may be arrays, which are broadcast.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

_WORSE = np.array([1.5, 2.5, 4.0, 8.0, 30.0])
"""Ratios of canary to control, over the tolerated one, that the harm test bets on."""

_BETTER = np.array([0.6, 0.35, 0.2, 0.08, 1e-9])
"""Ratios, as shares of the excluded one, that the safe tests bet on; the last is "none at all"."""

_HARM_STAKES = np.array([0.03, 0.08, 0.2, 0.45, 0.9])
"""Shares of the capital that the test for harm of a mean stakes; below 1, so that no difference ruins it."""

_SAFE_STAKES = np.array([0.2, 0.5, 0.95])
"""The same for the safe test: where there is no harm each difference gains about the margin, so that small stakes would
only be waited for (docs/lab-notes.md has what they cost)."""


def harm_ratio(
    canary_bad: ArrayLike, control_bad: ArrayLike, *, canary_share: float = 0.5, tolerance: float = 1.0
) -> Floats:
    """Against "the canary's rate of bad events is at most ``tolerance`` times the control's", p_c ≤ tolerance · p_0.

    Units come into the canary with a known probability w_c and into the control with w_0, whatever happens to them.
    So a bad event is the canary's with probability θ = w_c p_c / (w_c p_c + w_0 p_0), where the unknown rates enter
    only through their ratio; they may drift and differ between strata (hours, publications) as long as both arms of a
    stratum are in it together. Given what came before, θ ≤ θ0 under the null, and the likelihood ratio of θ1 > θ0
    has expectation θ θ1/θ0 + (1 − θ)(1 − θ1)/(1 − θ0), which grows in θ and is 1 at θ0. Conditioning on the events as
    in Fisher's test of two Poisson rates (Przyborowski & Wilenski, Biometrika 31, 1940).

    Args:
        canary_bad, control_bad: bad events so far.
        canary_share: w_c / (w_c + w_0).
    """
    null = _share(tolerance, canary_share)
    bets = _share(tolerance * _WORSE, canary_share)
    return _ratio(canary_bad, control_bad, null, bets)


def safe_ratio(canary_bad: ArrayLike, control_bad: ArrayLike, *, ratio: float, canary_share: float = 0.5) -> Floats:
    """Against "the canary's rate is at least ``ratio`` times the control's": :func:`harm_ratio` the other way round.

    Under this null θ ≥ θ0, the bets are on θ1 < θ0, and the expectation above falls in θ.
    """
    return _ratio(canary_bad, control_bad, _share(ratio, canary_share), _share(ratio * _BETTER, canary_share))


def safe_rate(bad: ArrayLike, units: ArrayLike, *, rate: float) -> Floats:
    """Against "the rate of bad events is at least ``rate``": Wald's likelihood ratio for a Bernoulli, mixed over bets.

    The ratio's expectation under p is p q/rate + (1 − p)(1 − q)/(1 − rate), which falls in p for a bet q < rate and is
    1 at p = rate, so that the null may be composite.
    """
    bets = rate * _BETTER
    bad_array, good_array = _counts(bad), _counts(units) - _counts(bad)
    terms = bad_array * np.log(_BETTER) + good_array * (np.log1p(-bets) - math.log1p(-rate))
    return _mixed(terms)


def safe_both(
    canary_bad: ArrayLike,
    control_bad: ArrayLike,
    canary_units: ArrayLike,
    *,
    ratio: float,
    floor: float,
    canary_share: float = 0.5,
) -> Floats:
    """Against "the canary's rate is at least ``ratio`` times the control's *and* at least ``floor``".

    In this intersection both :func:`safe_ratio` and :func:`safe_rate` are e-processes, and so is their average. A
    floor of 0 or less leaves the ratio alone.
    """
    relative = safe_ratio(canary_bad, control_bad, ratio=ratio, canary_share=canary_share)
    if floor <= 0.0:
        return relative
    absolute = safe_rate(canary_bad, canary_units, rate=floor)
    return np.asarray(np.logaddexp(relative, absolute) - math.log(2.0))


def harm_mean(differences: ArrayLike) -> Floats:
    """Against "differences in [−1, 1] have a mean of at most 0": a path, one value a difference.

    Betting (Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024,
    section 4): 1 + λ D is non-negative for 0 < λ < 1 and has expectation at most 1 where E[D | past] ≤ 0. Mixed over
    a fixed grid of λ, so that nothing is fitted to what is tested.

    Args:
        differences: the last axis is the order of the differences.
    """
    return _bet(np.asarray(differences, np.float64), _HARM_STAKES)


def safe_mean(differences: ArrayLike, *, margin: float) -> Floats:
    """Against "differences in [−1, 1] have a mean of at least ``margin``": a path; factors are 1 + λ (margin − D)."""
    return _bet(margin - np.asarray(differences, np.float64), _SAFE_STAKES)


def mismatch(canary_units: ArrayLike, control_units: ArrayLike, *, canary_share: float = 0.5) -> Floats:
    """Against "units come into the arms with the shares they were assigned", a sample ratio mismatch.

    The likelihood ratio of a uniformly distributed share (the Beta-binomial) over ``canary_share``: the sequential
    test of Lindon & Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022), for two arms.
    """
    canary, control = _counts(canary_units)[..., 0], _counts(control_units)[..., 0]
    beta = _log_gamma(canary + 1) + _log_gamma(control + 1) - _log_gamma(canary + control + 2)
    return beta - canary * math.log(canary_share) - control * math.log1p(-canary_share)


def _share(ratio: Any, canary_share: float) -> Any:
    weighed = canary_share * ratio
    return weighed / (weighed + 1.0 - canary_share)


def _ratio(canary_bad: ArrayLike, control_bad: ArrayLike, null: float, bets: Floats) -> Floats:
    canary = _counts(canary_bad) * (np.log(bets) - math.log(null))
    control = _counts(control_bad) * (np.log1p(-bets) - math.log1p(-null))
    return _mixed(canary + control)


def _bet(gains: Floats, stakes: Floats) -> Floats:
    if gains.shape[-1] == 0:
        return gains
    return _mixed(np.cumsum(np.log1p(gains[..., None] * stakes), axis=-2))


def _counts(counts: ArrayLike) -> Floats:
    return np.asarray(counts, np.float64)[..., None]


def _mixed(terms: Floats) -> Floats:
    highest = terms.max(axis=-1, keepdims=True)
    return np.asarray(highest[..., 0] + np.log(np.exp(terms - highest).mean(axis=-1)))


def _log_gamma(values: Floats) -> Floats:
    return np.asarray(np.vectorize(math.lgamma, otypes=[np.float64])(values), np.float64)


def e_value(log_value: float) -> float:
    """The e-value, within what a float holds."""
    return math.exp(min(log_value, 700.0))
