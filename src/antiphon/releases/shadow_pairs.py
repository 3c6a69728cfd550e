"""Evidence of a shadow: the losses of the live release and the candidate on the same requests, compared by pairs.

Invariants:
- A user counts once, with its first pair.
- What is missing never helps the candidate towards promotion, nor does it push it towards rolling back: an outcome that
  is still waited for counts, in each test, as the one of the two that speaks least for that test's conclusion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import msgspec
import numpy as np

from antiphon.catalog.releases.rollouts import JudgedMetric, RolloutRecord
from antiphon.definitions.outcome_shape import ANY_LABEL, OutcomeShape
from antiphon.definitions.own_metrics import ShadowMeasure
from antiphon.releases import eprocess

LEAST_SPREAD = 5
"""Outcomes other than the most frequent one without which pairs decide nothing: releases that always say that look
alike."""


class PairedOutcome(msgspec.Struct, frozen=True):
    """Losses of the live release and its shadow on one request, from 0 to 1, in the metric that decides.

    Attributes:
        live, shadow: losses; ``None`` while no outcome has joined, which may be for ever, or where neither answered.
        least, most: what the shadow's loss may be above the live one's, whatever comes true.
        truth: that came true, or the name of a metric that needs none; ``None`` while no outcome has joined, or where
            the metric has no value of an answer.
        unscored: why the metric has no value.
        unit: the user who asked; where it is not known any more, the pair is of one by itself.
    """

    rollout: str
    prediction: str
    live: float | None
    shadow: float | None
    least: float
    most: float
    truth: str | None
    created_at: datetime
    unit: str = ""
    unscored: str = ""


class QualityEvidence(msgspec.Struct, frozen=True):
    """The paired comparison.

    Attributes:
        metric: in users' mean losses.
        pairs, scored: users' first ones, and those of them that can be scored; of ``mirrored`` in all.
        known_by: what a pair is scored by, in words.
        unscored: how many pairs a metric has no value of, and why; empty where it has one of all.
    """

    metric: JudgedMetric
    pairs: int
    scored: int
    mirrored: int
    known_by: str = "an outcome"
    unscored: str = ""


def known_by(measure: ShadowMeasure) -> str:
    """The thing that pairs are scored by, in words."""
    return "an outcome" if isinstance(measure, OutcomeShape) else f"a value of {measure.name}"


def quality(
    rollout: RolloutRecord, pairs: Sequence[PairedOutcome], weight: float, measure: ShadowMeasure = ANY_LABEL
) -> QualityEvidence:
    """Compare the losses of shadow and live on the same requests.

    A user counts once, with its first pair: what one user asks is alike, and whether somebody asks again may follow
    from what was answered, so that a mean over as many pairs as there are is not what the releases differ by.

    An answer that says nothing has the worst loss, 1. Of every beginning of the sequence that reaches at least to the
    first missing outcome, the most telling one counts: by Ville's inequality all of them together are wrong with the
    same small probability, so that one outcome which never comes cannot hide the others. An answer that a metric has no
    value of is such a missing one.
    """
    first: dict[str, PairedOutcome] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.created_at, pair.prediction)):
        first.setdefault(pair.unit or pair.prediction, pair)
    ordered = list(first.values())
    least, most = (np.array([getattr(pair, name) for pair in ordered], np.float64) for name in ("least", "most"))
    scores = [(pair.shadow, pair.live) for pair in ordered if pair.shadow is not None and pair.live is not None]
    came_true = Counter(pair.truth for pair in ordered if pair.truth is not None and pair.live is not None)
    first_missing = next((number for number, pair in enumerate(ordered) if pair.truth is None), len(ordered))
    harm = _latest_peak(eprocess.harm_mean(least), first_missing)
    safe = _latest_peak(eprocess.safe_mean(most, margin=rollout.plan.quality_margin), first_missing)
    others = came_true.total() - max(came_true.values(), default=0)
    note = ""
    if not scores:
        note = f"no pair with {known_by(measure)}"
    # A metric of the answers alone needs no spread: it is seen on each whether they are alike.
    elif isinstance(measure, OutcomeShape) and others < LEAST_SPREAD:
        # Left out whatever they say, so that neither test is wrong more often.
        harm, safe = min(harm, 0.0), min(safe, 0.0)
        note = f"{others} outcomes other than the most frequent one, of {LEAST_SPREAD}"
    return QualityEvidence(
        JudgedMetric(
            name="quality",
            canary_units=len(scores),
            canary_bad=sum(shadow for shadow, _ in scores),
            control_units=len(scores),
            control_bad=sum(live for _, live in scores),
            harm=eprocess.e_value(harm),
            safe=eprocess.e_value(safe),
            weight=weight,
            note=note,
        ),
        pairs=len(ordered),
        scored=len(scores),
        mirrored=len(pairs),
        known_by=known_by(measure),
        unscored=_unscored([pair.unscored for pair in ordered if pair.unscored]),
    )


def _unscored(reasons: Sequence[str]) -> str:
    """The number of pairs without a value, with the most frequent reason."""
    if not reasons:
        return ""
    return f"has no value of {len(reasons)} pairs: {Counter(reasons).most_common(1)[0][0]}"


def _latest_peak(path: eprocess.Floats, from_number: int) -> float:
    """The highest log e-value of the beginnings with at least ``from_number`` differences; the empty one has 0."""
    whole = np.concatenate(([0.0], path))
    return float(whole[from_number:].max())
