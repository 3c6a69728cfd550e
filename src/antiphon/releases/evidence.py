"""Evidence of a rollout's exposures: counts, e-values, and checks that they can be trusted.

Invariants:
- A user counts once per rollout, with its first exposure, however often it comes and however many steps it sees.
- Each metric's harm process is valid by the clock it advances on; which metrics share a clock is in ``CLOCKS``, and
  each signal has one of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from antiphon.catalog.releases.rollouts import Exposure, JudgedMetric, RolloutRecord
from antiphon.core.clock import parse_duration
from antiphon.definitions.application import SLO
from antiphon.definitions.learning import Rollout
from antiphon.definitions.signals import Signal
from antiphon.releases import eprocess

WEIGHTS = {"error": 0.25, "invalid": 0.25, "latency": 0.1, "first_byte": 0.1, "cost": 0.1, "quality": 0.3}
"""Shares of α. Fixed before any evidence; those of what a plan does not ask for go to the others."""

SIGNALS_WEIGHT = 0.3
"""The share of all signals together."""

CLOCKS = (("error", "invalid"), ("latency", "first_byte", "cost"), ("quality",))
"""Metrics that advance together: with each user, with each couple of generated answers, with each user of the shadow. A
signal advances with each of its own values that users send."""

COST_MARGIN = 0.25
"""Share of the service level in tokens by which an answer may cost more, where a plan says nothing else."""

IMBALANCE_BOUND = 1_000.0
"""E-value at which the arms' sizes contradict the assignment (a false alarm in one rollout of a thousand)."""


class SignalEvidence(msgspec.Struct, frozen=True):
    """A signal with the values that users sent, by prediction."""

    signal: Signal
    values: Mapping[str, str]


def weights(plan: Rollout, slo: SLO | None = None) -> dict[str, float]:
    """The weights of the metrics that a plan asks for, cost only with a service level in tokens; they sum to 1."""
    declared = {"quality": compares_quality(plan), "cost": bool(plan.canary and slo is not None and slo.tokens)}
    requests = {name: weight for name, weight in WEIGHTS.items() if declared.get(name, bool(plan.canary))}
    named = plan.signals or () if plan.canary else ()
    requests |= {name: SIGNALS_WEIGHT / len(named) for name in named}
    return {name: weight / sum(requests.values()) for name, weight in requests.items()}


def compares_quality(plan: Rollout) -> bool:
    """``True`` when a plan mirrors requests to compare the answers' quality."""
    return plan.shadow > 0 and plan.shadow_pairs > 0


class ArmExposures(msgspec.Struct, frozen=True):
    """Exposures of the arms.

    Attributes:
        metrics: of users' first exposures, and of the first generated answer of each.
        step_units: canary users seen in the present step.
        doubts: why the evidence cannot promote, whatever its figures; empty when it can be believed.
        comparable: whether there is anybody in both arms.
    """

    metrics: tuple[JudgedMetric, ...]
    step_units: int
    doubts: tuple[str, ...]
    comparable: bool


def exposed(
    rollout: RolloutRecord,
    exposures: Sequence[Exposure],
    slo: SLO,
    shares: dict[str, float],
    signals: Sequence[SignalEvidence],
    now: datetime,
) -> ArmExposures:
    """Count users by arm, and test each metric against harm and for safety."""
    ordered = sorted(exposures, key=lambda exposure: (exposure.created_at, exposure.id))
    ours = [exposure for exposure in ordered if exposure.rollout == rollout.id]
    first: dict[str, Exposure] = {}
    generated: dict[str, Exposure] = {}
    for exposure in ours:
        first.setdefault(exposure.unit, exposure)
        if exposure.generated and exposure.error is None:
            generated.setdefault(exposure.unit, exposure)
    latency, first_byte = (parse_duration(text).total_seconds() for text in (slo.latency_p99, slo.ttft_p99))
    users, answers = list(first.values()), list(generated.values())
    # What is not a number is slow: a comparison that fails must not make an answer look fast.
    slow, late = (
        [not one.seconds <= latency for one in answers],
        [not one.first_byte <= first_byte for one in answers],
    )
    metrics = (
        _by_user(rollout.plan, "error", users, [one.error is not None for one in users], shares["error"]),
        _by_user(rollout.plan, "invalid", users, [one.invalid for one in users], shares["invalid"]),
        _by_couple(rollout.plan, "latency", answers, slow, shares["latency"]),
        _by_couple(rollout.plan, "first_byte", answers, late, shares["first_byte"]),
        *([_cost(rollout.plan, answers, slo.tokens or 1, shares["cost"])] if "cost" in shares else ()),
        *(_by_signal(rollout.plan, users, one, shares[one.signal.name], now) for one in signals),
    )
    step_units = len({one.unit for one in ours if one.arm == "canary" and one.step == rollout.step})
    comparable = len({one.arm for one in users}) == 2
    return ArmExposures(metrics, step_units, tuple(_doubts(ordered, ours, users)), comparable)


def _by_user(plan: Rollout, name: str, users: Sequence[Exposure], bad: Sequence[bool], weight: float) -> JudgedMetric:
    """Conditional on assignment: both arms take the same share, so a bad event of two equal arms is a fair coin's.

    That is stratified by publication as it is: within each, the unknown base rate cancels.
    """
    seen, failed = _counted(users, bad)
    harm = eprocess.harm_ratio(failed["canary"], failed["control"])
    safe = eprocess.safe_both(failed["canary"], failed["control"], seen["canary"], ratio=plan.harm, floor=plan.floor)
    return _metric(name, seen, failed, float(harm), float(safe), weight)


def _by_signal(
    plan: Rollout, users: Sequence[Exposure], sent: SignalEvidence, weight: float, now: datetime
) -> JudgedMetric:
    """Compares what users of the arms sent of their first answer."""
    signal, window = sent.signal, parse_duration(sent.signal.window)
    answers = [(one, one.prediction) for one in users if one.prediction]
    rated = [(one, sent.values[name]) for one, name in answers if name in sent.values]
    seen = Counter[str](one.arm for one, _ in rated)
    bad, good = (Counter[str](one.arm for one, value in rated if value in side) for side in (signal.bad, signal.good))
    unsent = (one for one, name in answers if name not in sent.values)
    silent = Counter[str](one.arm for one in unsent if one.created_at + window < now)
    harm, safe = signal_values(
        plan,
        signal,
        bad=(bad["canary"], bad["control"]),
        good=(good["canary"], good["control"]),
        waited=(seen["canary"] + silent["canary"], seen["control"] + silent["control"]),
    )
    found = _metric(signal.name, seen, bad, float(harm), float(safe), weight)
    # That nobody of an arm sent a value says something: a candidate without any complaint is the best there is.
    return msgspec.structs.replace(found, note="", canary_good=good["canary"], control_good=good["control"])


def signal_values(
    plan: Rollout,
    signal: Signal,
    *,
    bad: tuple[ArrayLike, ArrayLike],
    good: tuple[ArrayLike, ArrayLike],
    waited: tuple[ArrayLike, ArrayLike],
) -> tuple[eprocess.Floats, eprocess.Floats]:
    """Logarithms of the e-values for harm and for safety: of bad values there may not be more than the control's, of
    good ones not fewer.

    The tests of ratios take the values alone, so that who sends none counts in both arms alike: of two equal arms each
    value is a fair coin's. Two sides that are both watched halve the stake of each: the average of two e-values is one,
    and what promotes has passed both. Where half of all answers are liked already a release cannot get many times the
    dislikes, but its likes can become a fraction, which is what the second side is for.

    Args:
        bad, good: values of the canary and of the control; arrays are broadcast.
        waited: users of the canary and of the control who sent a value, or have had their time to: of so many bad ones
            of the canary, and good ones of the control, may be too rare to matter. A value that has not come yet helps
            no candidate.
    """
    harm, safe = [], []
    if signal.bad:
        harm.append(eprocess.harm_ratio(*bad))
        safe.append(eprocess.safe_both(*bad, waited[0], ratio=plan.harm, floor=plan.floor))
    if signal.good:
        harm.append(eprocess.harm_ratio(*good[::-1]))
        safe.append(eprocess.safe_both(*good[::-1], waited[1], ratio=plan.harm, floor=plan.floor))
    return np.logaddexp.reduce(harm, axis=0) - math.log(len(harm)), np.minimum.reduce(safe)


def _cost(plan: Rollout, answers: Sequence[Exposure], level: int, weight: float) -> JudgedMetric:
    """The tokens of the k-th generated answer of one arm beside those of the k-th of the other, as shares of twice the
    service level: an answer beyond that counts as that."""
    arms: dict[str, list[float]] = {"canary": [], "control": []}
    for answer in answers:
        arms[answer.arm].append(min(answer.tokens / (2 * level), 1.0))
    couples = min(len(arms["canary"]), len(arms["control"]))
    apart = np.array(arms["canary"][:couples]) - np.array(arms["control"][:couples])
    margin = (plan.cost_margin or COST_MARGIN) / 2
    harm = eprocess.harm_mean(apart)[-1] if couples else 0.0
    safe = eprocess.safe_mean(apart, margin=margin)[-1] if couples else 0.0
    found = _metric("cost", Counter(one.arm for one in answers), Counter(), float(harm), float(safe), weight)
    spent = {arm: float(sum(one.tokens for one in answers if one.arm == arm)) for arm in arms}
    return msgspec.structs.replace(found, canary_bad=spent["canary"], control_bad=spent["control"])


def _by_couple(
    plan: Rollout, name: str, answers: Sequence[Exposure], bad: Sequence[bool], weight: float
) -> JudgedMetric:
    """The k-th generated answer of one arm beside the k-th of the other; only couples that differ say something.

    The arms do not generate equally often (a new release finds no stored answers), so that the assignment does not
    tell how many to expect. Of a couple that differs, the canary's is the bad one with odds
    p_c (1 − p_0) / (p_0 (1 − p_c)): at most 1 where p_c ≤ p_0, at least h where p_c ≥ h p_0 (McNemar, Psychometrika
    12, 1947).
    """
    seen, failed = _counted(answers, bad)
    arms: dict[str, list[bool]] = {"canary": [], "control": []}
    for answer, over in zip(answers, bad, strict=True):
        arms[answer.arm].append(over)
    couples = Counter(zip(arms["canary"], arms["control"], strict=False))
    worse, better = couples[True, False], couples[False, True]
    harm = eprocess.harm_ratio(worse, better)
    relative = eprocess.safe_ratio(worse, better, ratio=plan.harm)
    safe = relative
    if plan.floor > 0:
        absolute = eprocess.safe_rate(failed["canary"], seen["canary"], rate=plan.floor)
        safe = np.logaddexp(relative, absolute) - math.log(2.0)
    return _metric(name, seen, failed, float(harm), float(safe), weight)


def _counted(exposures: Sequence[Exposure], bad: Sequence[bool]) -> tuple[Counter[str], Counter[str]]:
    seen = Counter[str](one.arm for one in exposures)
    return seen, Counter[str](one.arm for one, failed in zip(exposures, bad, strict=True) if failed)


def _metric(
    name: str, seen: Counter[str], failed: Counter[str], harm: float, safe: float, weight: float
) -> JudgedMetric:
    without = [arm for arm in ("canary", "control") if not seen[arm]]
    kind = "generated answers" if name in CLOCKS[1] else "users" if name in WEIGHTS else f"values of {name}"
    return JudgedMetric(
        name=name,
        canary_units=seen["canary"],
        canary_bad=failed["canary"],
        control_units=seen["control"],
        control_bad=failed["control"],
        harm=eprocess.e_value(harm),
        safe=eprocess.e_value(safe),
        weight=weight,
        note=f"no {kind} in the {' and the '.join(without)}" if without else "",
    )


def _doubts(everything: Sequence[Exposure], ours: Sequence[Exposure], users: Sequence[Exposure]) -> list[str]:
    doubts = []
    if len(ours) != len(everything):
        doubts.append(f"{len(everything) - len(ours)} exposures are of another rollout")
    by_arm: dict[str, set[str]] = {"canary": set(), "control": set()}
    recorded: dict[int, set[float]] = {}
    for one in ours:
        by_arm[one.arm].add(one.unit)
        recorded.setdefault(one.step, set()).add(one.probability)
    if both := len(by_arm["canary"] & by_arm["control"]):
        doubts.append(f"{both} user{'s' if both > 1 else ''} came into both arms")
    if any(len(found) > 1 or not all(0 < one <= 0.5 for one in found) for found in recorded.values()):
        doubts.append("the recorded chances of coming into the arms contradict each other")
    if any(not (_is_duration(one.seconds) and _is_duration(one.first_byte)) for one in ours):
        doubts.append("some recorded times are no times")
    seen = Counter(one.arm for one in users)
    canary, control = seen["canary"], seen["control"]
    if not canary or not control:
        doubts.append(
            "no user was seen in the " + " or the ".join(arm for arm in ("canary", "control") if not seen[arm])
        )
    if eprocess.e_value(float(eprocess.mismatch(canary, control))) >= IMBALANCE_BOUND:
        doubts.append(f"the arms should be equally large but have {canary} and {control} users")
    elif (publication := _unequal_publication(users)) is not None:
        doubts.append(f"the arms read different features: {publication}")
    return doubts


def _unequal_publication(users: Sequence[Exposure]) -> str | None:
    """The publication that speaks most for a difference between the arms, once all together speak enough.

    Within a publication the arms are as large as one another. The strata are mixed with weights 1/(j (j + 1)) in
    order of appearance, which are fixed although nobody knows how many there will be.
    """
    strata = Counter((one.publication, one.arm) for one in users)
    values: dict[int | None, float] = {}
    for number, publication in enumerate(dict.fromkeys(one.publication for one in users), start=1):
        value = eprocess.mismatch(strata[publication, "canary"], strata[publication, "control"])
        values[publication] = eprocess.e_value(float(value)) / (number * (number + 1))
    if sum(values.values()) < IMBALANCE_BOUND:
        return None
    worst = max(values, key=lambda publication: values[publication])
    named = "no publication" if worst is None else f"publication {worst}"
    return f"{named} was seen by {strata[worst, 'canary']} canary and {strata[worst, 'control']} control users"


def _is_duration(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds >= 0
