"""Declares the decisions of a rollout that its users will suffice for, before it begins.

The figures come from a seeded simulation of the judge's own tests, so that the same plan declares the same.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from antiphon.definitions.application import SLO
from antiphon.definitions.learning import Rollout
from antiphon.definitions.outcome_shape import ANY_LABEL
from antiphon.definitions.own_metrics import ShadowMeasure
from antiphon.releases import eprocess
from antiphon.releases.evidence import compares_quality, weights
from antiphon.releases.shadow_pairs import known_by

RUNS = 300
HORIZON = 20_000
"""Canary users that are simulated at most."""

PAIRS_HORIZON = 6_000
"""Shadow pairs that are simulated at most."""

LOSS_SPREAD = 0.15
"""Standard deviation of the difference of two losses on one request, where none was measured."""


class SampleNeed(msgspec.Struct, frozen=True):
    """Number of canary users (with as many in the control) that decisions about one metric need; ``None``: over 20,000.

    Attributes:
        roll_back: users until harm at this ratio is rolled back, in half of the runs; ``roll_back_most``: in 9 of 10.
        promote: users until a candidate *as good as the control* has passed the test, in half of the runs;
            ``promote_most``: in 9 of 10.
        pairs: shadow pairs with outcomes until one as good as the live release has passed the quality test, in about
            half of the runs; ``None`` when the plan compares no quality.
    """

    roll_back: int | None
    roll_back_most: int | None
    promote: int | None
    promote_most: int | None
    pairs: int | None


def requests_needed(plan: Rollout, base_rate: float, ratio: float, slo: SLO | None = None) -> SampleNeed:
    """Returns the canary users that it takes to roll back errors at ``ratio`` times the control's rate, ``base_rate``,
    and to promote a candidate without any; raises ``ValueError`` unless the rate is in (0, 1) and the ratio
    positive."""
    if not 0 < base_rate < 1 or not ratio > 0:
        raise ValueError(f"A base rate in (0, 1) and a positive ratio are needed, not {base_rate} and {ratio}.")
    draw = np.random.default_rng(round(base_rate * 1e9))
    shape = (RUNS, _LOOKS.size)
    steps = np.diff(_LOOKS, prepend=0)
    control = draw.binomial(steps, base_rate, shape).cumsum(axis=1)
    # Drawn before what depends on the ratio: what promotion takes does not.
    alike = draw.binomial(steps, base_rate, shape).cumsum(axis=1)
    worse = draw.binomial(steps, min(1.0, base_rate * ratio), shape).cumsum(axis=1)
    weight = weights(plan, slo).get("error", 1.0)
    # The other metric on the same clock is taken to say nothing: its e-value is not below 0.
    harmed = eprocess.harm_ratio(worse, control) >= math.log(1 / (plan.alpha * weight))
    safe = eprocess.safe_both(alike, control, _LOOKS, ratio=plan.harm, floor=plan.floor) >= math.log(1 / plan.beta)
    return SampleNeed(
        roll_back=_reached(harmed, 0.5),
        roll_back_most=_reached(harmed, 0.9),
        promote=_reached(safe, 0.5),
        promote_most=_reached(safe, 0.9),
        pairs=_pairs_needed(plan) if compares_quality(plan) else None,
    )


def declaration(
    plan: Rollout,
    units_available: int,
    *,
    base_rate: float = 0.02,
    measure: ShadowMeasure = ANY_LABEL,
    slo: SLO | None = None,
) -> str:
    """Say in words what a rollout can decide with so many users in all steps of its canary, where bad events have this
    rate among the live release's users, and quality is compared by a measure."""
    if not plan.canary:
        users = "The plan has no canary: no user's errors are compared."
    else:
        ratios = (1.2, 2.0, 4.0, 10.0)
        needed = {ratio: requests_needed(plan, base_rate, ratio, slo) for ratio in ratios}
        found = [
            ratio for ratio in ratios if (most := needed[ratio].roll_back_most) is not None and most <= units_available
        ]
        missed = [ratio for ratio in ratios if ratio not in found]
        users = (
            f"With {units_available:,} canary users, and bad events for {100 * base_rate:g} % of the control's users,"
        )
        if found:
            users += (
                f" this rollout finds errors at {found[0]:g}× in 9 of 10 runs (after at most "
                f"{needed[found[0]].roll_back_most:,} canary users)"
            )
        if missed:
            users += (" and" if found else " this rollout") + f" will mostly miss {missed[-1]:g}×"
        promote = needed[4.0].promote_most
        enough = promote is not None and promote <= units_available
        users += (
            f". A candidate as good as the live release {'passes' if enough else 'will mostly not pass'}: "
            f"excluding {plan.harm:g}× above {100 * plan.floor:g} % takes "
            f"{f'{promote:,}' if promote is not None else f'more than {HORIZON:,}'} canary users in 9 of 10 runs."
        )
    if not compares_quality(plan):
        return f"{users} Quality is not compared: the plan asks for no shadow pairs."
    pairs = _pairs_needed(plan)
    return (
        f"{users} Quality is decided by at least {plan.shadow_pairs:,} paired shadow answers with {known_by(measure)}; "
        f"excluding a {measure.deciding_title} worse by {plan.quality_margin * measure.span:g} takes about "
        f"{f'{pairs:,}' if pairs is not None else f'more than {PAIRS_HORIZON:,}'} where the two are equally good."
    )


_LOOKS: NDArray[np.int64] = np.unique(
    np.concatenate((np.arange(10, 2_000, 10), np.geomspace(2_000, HORIZON, 40).astype(int)))
)


def _reached(crossed: NDArray[np.bool_], share: float, looks: NDArray[np.int64] = _LOOKS) -> int | None:
    """The first look by which ``share`` of the runs has crossed its bound at some look."""
    ever = np.logical_or.accumulate(crossed, axis=1).mean(axis=0) >= share
    return int(looks[ever.argmax()]) if ever.any() else None


def _pairs_needed(plan: Rollout) -> int | None:
    """Pairs after which the median run of the paired test passes, for differences of mean 0 and two likely values."""
    draw = np.random.default_rng(7)
    differences = draw.choice([-LOSS_SPREAD, LOSS_SPREAD], (60, PAIRS_HORIZON))
    passed = eprocess.safe_mean(differences, margin=plan.quality_margin) >= math.log(1 / plan.beta)
    return _reached(passed, 0.5, np.arange(1, PAIRS_HORIZON + 1))
