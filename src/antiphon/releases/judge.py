"""Decides about a rollout from everything known about it. Pure; asked again and again, and stopped whenever it decides.

Invariants, for a plan with α, β, harm and floor:
- A candidate that is no worse than the live release is ever rolled back with probability at most α, over the whole
  rollout, however often it is judged.
- A candidate whose rate of bad events is at least ``harm`` times the control's and at least ``floor``, or that is worse
  by ``quality_margin`` or more in the outcome's metric, ever passes that metric's test with probability at most β.
  Promotion needs every test, so it is no likelier for a candidate that is bad in more ways than one.
- Missing, invalid or imbalanced evidence never promotes; it holds, and says what is missing.

A user counts once in shadow, with its first pair, so that Ville's inequality holds for all looks together (ADR 0173).

Rolling back: metrics that advance on one clock (``evidence.CLOCKS``) are added, Σ w·E, which is an e-process with them.
E-values of different clocks may not be added at a time of one's choosing (Choe & Ramdas, "Combining evidence across
filtrations", 2024); each clock's sum is held against 1/α by itself. As their weights sum to 1 over all clocks, the
chances of a false alarm sum to at most α.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from antiphon.catalog.releases.rollouts import Exposure, JudgedMetric, Judgement, RolloutRecord
from antiphon.core.clock import parse_duration
from antiphon.definitions.application import SLO
from antiphon.definitions.outcome_shape import ANY_LABEL
from antiphon.definitions.own_metrics import ShadowMeasure
from antiphon.releases.evidence import (
    CLOCKS,
    COST_MARGIN,
    ArmExposures,
    SignalEvidence,
    compares_quality,
    exposed,
    weights,
)
from antiphon.releases.shadow_pairs import PairedOutcome, QualityEvidence, known_by, quality

Decision = Literal["promote", "hold", "roll_back"]

_BAD = {
    "error": "got an error",
    "invalid": "got an invalid output",
    "latency": "waited longer than the service level for a generated answer",
    "first_byte": "waited longer than the service level for the first byte of a generated answer",
}
_TITLES = {
    "error": "errors",
    "invalid": "invalid outputs",
    "latency": "latency over the service level",
    "first_byte": "first bytes over the service level",
    "quality": "quality",
    "cost": "cost",
}


def judge(
    rollout: RolloutRecord,
    exposures: Sequence[Exposure],
    pairs: Sequence[PairedOutcome],
    now: datetime,
    slo: SLO,
    measure: ShadowMeasure = ANY_LABEL,
    signals: Sequence[SignalEvidence] = (),
) -> Judgement:
    """Promote to the next state or step, hold, or roll back.

    In shadow the paired comparison decides. In the canary users' exposures do, and quality as well where the plan
    compares it: its pairs go on being collected.

    Args:
        exposures, pairs: all of the rollout, in any order.
        now: the wall time, for ``step_time``.
        slo: of the candidate; what is longer than its p99 is a bad event.
        measure: by which pairs are compared.
        signals: those that the plan asks for, with what users sent.
    """
    plan, shares = rollout.plan, weights(rollout.plan, slo)
    harm_bound, safe_bound = 1 / plan.alpha, 1 / plan.beta
    compared = quality(rollout, pairs, shares["quality"], measure) if "quality" in shares else None
    in_canary = rollout.state == "canary" and bool(plan.canary)
    seen = exposed(rollout, exposures, slo, shares, signals, now) if in_canary else None
    metrics = (() if seen is None else seen.metrics) + (() if compared is None else (compared.metric,))
    harm, worst = _harm(metrics)
    lacking = _lacking(rollout, seen, compared, metrics, pairs, now, measure)
    decision: Decision = "roll_back" if harm >= harm_bound else "hold" if lacking else "promote"
    if rollout.ended_at is not None:
        decision, lacking = "hold", ["it has ended"]
    return Judgement(
        rollout=rollout.id,
        sequence=0,
        scope=rollout.scope,
        state=rollout.state,
        step=rollout.step,
        decision=decision,
        sentence=_sentence(rollout, decision, metrics, worst, lacking, harm, measure),
        metrics=metrics,
        harm=harm,
        harm_bound=harm_bound,
        safe_bound=safe_bound,
        created_at=now,
    )


def _harm(metrics: Sequence[JudgedMetric]) -> tuple[float, JudgedMetric | None]:
    """The highest sum over the clocks, and the metric that has most of it."""
    named = {metric.name: metric for metric in metrics}
    known = {name for clock in CLOCKS for name in clock}
    clocks = (*CLOCKS, *((name,) for name in named if name not in known))
    sums = [[named[name] for name in clock if name in named] for clock in clocks]
    highest = max(sums, key=lambda clock: sum(metric.weight * metric.harm for metric in clock))
    if not highest:
        return 0.0, None
    worst = max(highest, key=lambda metric: metric.weight * metric.harm)
    return sum(metric.weight * metric.harm for metric in highest), worst


def _lacking(
    rollout: RolloutRecord,
    seen: ArmExposures | None,
    compared: QualityEvidence | None,
    metrics: Sequence[JudgedMetric],
    pairs: Sequence[PairedOutcome],
    now: datetime,
    measure: ShadowMeasure,
) -> list[str]:
    """Reasons that promotion still lacks, the most telling first; empty when there are none."""
    plan, lacking = rollout.plan, []
    if seen is None and (compared is None or rollout.state != "shadow"):
        return [f"a plan without {'pairs' if rollout.state == 'shadow' else 'canary steps'} gives no evidence here"]
    if any(pair.rollout != rollout.id for pair in pairs):
        lacking.append("some pairs are of another rollout")
    if seen is not None:
        lacking += seen.doubts
        if seen.step_units < plan.step_units:
            lacking.append(f"{seen.step_units} canary users of {plan.step_units}")
    if compared is not None and compared.scored < plan.shadow_pairs:
        notes = [f"{compared.pairs} were mirrored"] if compared.pairs > compared.scored else []
        notes += [f"of {compared.mirrored} a user's first counts"] if compared.mirrored > compared.pairs else []
        waiting = f" ({'; '.join(notes)})" if notes else ""
        lacking.append(f"{compared.scored} of {plan.shadow_pairs} pairs have {compared.known_by}{waiting}")
    if compared is not None and compared.unscored:
        lacking.append(f"{measure.deciding_title} {compared.unscored}")
    if rollout.state == "canary" and plan.step_time is not None:
        remaining = parse_duration(plan.step_time) - (now - rollout.entered_at)
        if remaining.total_seconds() > 0:
            lacking.append(f"the step lasts {remaining.total_seconds():,.0f} s more of {plan.step_time}")
    # Without users in an arm that is said once, not again for each metric.
    if seen is None or seen.comparable:
        lacking += [f"{_title(metric)}: {metric.note}" for metric in metrics if metric.note]
    safe_bound, open_questions = 1 / plan.beta, dict[str, list[str]]()
    for metric in metrics:
        if not metric.note and metric.safe < safe_bound:
            question = open_questions.setdefault(_allowed(rollout, metric, measure), [])
            question.append(_progress(metric))
    lacking += [
        f"{allowed} is not excluded yet for {', '.join(names)}, of {safe_bound:.0f} each"
        for allowed, names in open_questions.items()
    ]
    return lacking


def _progress(metric: JudgedMetric) -> str:
    """A metric with its e-value; of latency also the answers that it stands on, for stored ones say nothing of it, nor
    do two arms that are both slow."""
    said = f"{_title(metric)} ({metric.safe:.1f}"
    if metric.name not in ("latency", "first_byte"):
        return f"{said})"
    arms = ((metric.canary_bad, metric.canary_units, "canary"), (metric.control_bad, metric.control_units, "control"))
    counts = (f"{bad:,.0f} of {units:,} {arm} users whose answer was generated" for bad, units, arm in arms)
    return f"{said}: {' and '.join(counts)})"


def _allowed(rollout: RolloutRecord, metric: JudgedMetric, measure: ShadowMeasure) -> str:
    plan = rollout.plan
    if metric.name == "quality":
        return f"a {measure.deciding_title} worse by {plan.quality_margin * measure.span:g}"
    if metric.name == "cost":
        return f"a cost above the control's by {100 * (plan.cost_margin or COST_MARGIN):g} % of the service level"
    floor = f" and above {100 * plan.floor:g} %" if plan.floor > 0 else ""
    return f"a rate of {plan.harm:g} times the control's{floor}"


def _sentence(
    rollout: RolloutRecord,
    decision: Decision,
    metrics: Sequence[JudgedMetric],
    worst: JudgedMetric | None,
    lacking: Sequence[str],
    harm: float,
    measure: ShadowMeasure,
) -> str:
    harm_bound, safe_bound = 1 / rollout.plan.alpha, 1 / rollout.plan.beta
    place = f"{rollout.plan.canary[rollout.step]} %" if rollout.weight else "shadow"
    at = f"at {place}" if rollout.weight else "in shadow"
    figures = _figures(worst, measure) if worst is not None and worst.canary_units + worst.control_units else ""
    if decision == "roll_back":
        return f"Rolled back {at}: {figures}; e-value {_shown(harm)} of the {harm_bound:.0f} that roll it back."
    if decision == "hold":
        evidence = f"; {figures}; e-value {_shown(harm)} of the {harm_bound:.0f} that would roll it back"
        return f"Held {at}: {'; '.join(lacking)}{evidence if figures else ''}."
    least = min(metrics, key=lambda metric: metric.safe)
    text = "; ".join(_figures(metric, measure) for metric in metrics)
    quality_said = "" if compares_quality(rollout.plan) else " Quality was not compared: the plan asks for no pairs."
    return (
        f"Promoted from {place} to {_next(rollout)}: {text}; anything worse than allowed is excluded "
        f"(least for {_title(least)}, e-value {_shown(least.safe)} of the {safe_bound:.0f} needed).{quality_said}"
    )


def _figures(metric: JudgedMetric, measure: ShadowMeasure) -> str:
    if metric.name == "quality":
        if not metric.canary_units:
            return f"no pair has {known_by(measure)}"
        losses = metric.canary_bad / metric.canary_units, metric.control_bad / metric.control_units
        shadow, live = (measure.in_unit(loss) for loss in losses)
        return f"{measure.deciding_title} {shadow:.3f} against {live:.3f} live, by {metric.canary_units} users"
    if metric.name == "cost":
        spent = (metric.canary_bad, metric.canary_units), (metric.control_bad, metric.control_units)
        canary, control = (tokens / answers if answers else 0.0 for tokens, answers in spent)
        return f"a generated answer took {canary:,.0f} tokens in the canary and {control:,.0f} in the control"
    if metric.name not in _TITLES:
        return (
            f"of {metric.canary_units} canary users who sent {metric.name} {metric.canary_bad:.0f} sent a bad value "
            f"and {metric.canary_good} a good one, against {metric.control_bad:.0f} and {metric.control_good} of "
            f"{metric.control_units}"
        )
    return (
        f"{metric.canary_bad:.0f} of {metric.canary_units} canary users {_BAD[metric.name]} "
        f"against {metric.control_bad:.0f} of {metric.control_units}"
    )


def _title(metric: JudgedMetric) -> str:
    """A metric's title; a signal's own name."""
    return _TITLES.get(metric.name, metric.name)


def _next(rollout: RolloutRecord) -> str:
    following = rollout.step + 1 if rollout.state == "canary" else 0
    steps = rollout.plan.canary
    return f"{steps[following]} %" if following < len(steps) else "all users"


def _shown(value: float) -> str:
    return f"{value:.1f}" if value < 1_000 else f"{value:,.0f}" if value < 1e6 else "over a million"
