"""Gates: a snapshot that looks wrong is not published, and the one before stays current.

A pure function of the manifest, which holds what was found in the rows while they were at hand, and of the manifests of
earlier snapshots. Invariants: every finding names the rule, the column or feature, and the figure it rests on; a rule
that could not be checked does not hold.
"""

from __future__ import annotations

import statistics as averages
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from antiphon.catalog.features.snapshot_facts import RuleCheck, Statistics
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.catalog.features.verdicts import GateFinding
from antiphon.core.clock import microseconds
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.quality import (
    AllowedValuesRule,
    ColumnTypesRule,
    NoFutureRule,
    NotNullRule,
    QualitySpec,
    RangeRule,
    RecencyRule,
    ReferenceRule,
    Rule,
    StabilityRule,
    UniquenessRule,
    VolumeRule,
)
from antiphon.features.monitoring.quality.distances import Distance, discoveries, distance, pooled
from antiphon.features.monitoring.quality.inspection import typed_reasons
from antiphon.features.monitoring.quality.statistics import named_alike

MINIMUM_ENTITIES = 1
REJECTED_SHARE = 0.05
"""Greatest share of source rows that may be unusable or quarantined."""
NULL_SHARE_RISE = 0.5
"""Allowed rise of a feature's share of missing values over the snapshot before."""
ENTITIES_KEPT = 0.5
"""Least share of the snapshot before's number of entities."""
EARLIER = 20
"""So many earlier snapshots are what a new one is compared with."""
_FEWEST_RATES = 3
_FEWEST_NEW = 20

Outcome = Literal["passed", "warned", "blocked"]


class GateResult(msgspec.Struct, frozen=True):
    """Verdict on a snapshot, with every finding."""

    view: str
    snapshot: str
    findings: tuple[GateFinding, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """Consequence for the snapshot."""
        actions = {finding.action for finding in self.findings}
        return "blocked" if "block" in actions else "warned" if actions else "passed"

    @property
    def passed(self) -> bool:
        """True when the snapshot may be published."""
        return self.outcome != "blocked"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons of the blocking findings."""
        return tuple(finding.reason for finding in self.findings if finding.action == "block")


def gate(
    spec: FeatureViewSpec,
    manifest: SnapshotManifest,
    previous: SnapshotManifest | None = None,
    earlier: Sequence[SnapshotManifest] = (),
) -> GateResult:
    """Judge a snapshot by its manifest, the ``previous`` one, which it would replace, and ``earlier`` ones of the same
    definition version, latest first."""
    quality = spec.quality or QualitySpec()
    before = [one for one in (earlier or ((previous,) if previous is not None else ())) if one.id != manifest.id]
    findings = [GateFinding("standard", "block", reason) for reason in _standard(spec, manifest, previous, quality)]
    checks = {check.rule: check for check in manifest.checks}
    for rule in quality.rules:
        findings += _judge(rule, manifest, checks.get(rule.name), previous, before[:EARLIER])
    return GateResult(spec.name, manifest.id, tuple(findings))


def _standard(
    spec: FeatureViewSpec, manifest: SnapshotManifest, previous: SnapshotManifest | None, quality: QualitySpec
) -> Iterator[str]:
    """Defects that block every snapshot, and those that ``standard`` adds."""
    if manifest.definition_version != spec.definition_version:
        yield (
            f"The snapshot of {spec.name!r} was made by definition version {manifest.definition_version}, "
            f"not {spec.definition_version}."
        )
    missing = sorted(spec.features.keys() ^ manifest.statistics.keys())
    if missing:
        yield f"The features of {spec.name!r} differ from the definition's: {', '.join(missing)}."
    if not quality.standard:
        return
    if manifest.rows_out < MINIMUM_ENTITIES:
        yield f"The view {spec.name!r} has {manifest.rows_out} entities; at least {MINIMUM_ENTITIES} are needed."
    if manifest.rows_in and manifest.rows_rejected / manifest.rows_in > REJECTED_SHARE:
        share = manifest.rows_rejected / manifest.rows_in
        why = ", ".join(f"{reason} {rows}" for reason, rows in manifest.rejections.items())
        yield (
            f"{share:.1%} of {manifest.rows_in} source rows were rejected"
            f"{f' ({why})' if why else ''}; at most {REJECTED_SHARE:.1%} may."
        )
    if previous is not None and manifest.rows_out < previous.rows_out * ENTITIES_KEPT:
        yield f"The view {spec.name!r} has {manifest.rows_out} entities, the snapshot before had {previous.rows_out}."
    for feature, found in manifest.statistics.items():
        before = previous.statistics.get(feature) if previous is not None else None
        if before is not None and found.null_share - before.null_share > NULL_SHARE_RISE:
            yield f"{feature}: {found.null_share:.1%} of its values are missing, {before.null_share:.1%} before."


def _judge(
    rule: Rule,
    manifest: SnapshotManifest,
    check: RuleCheck | None,
    previous: SnapshotManifest | None,
    earlier: Sequence[SnapshotManifest],
) -> Iterator[GateFinding]:
    match rule:
        case ColumnTypesRule():
            kinds = manifest.source_quality.kinds if manifest.source_quality is not None else {}
            reasons = typed_reasons(rule, kinds)
        case VolumeRule():
            reasons = _volume(rule, manifest, previous, earlier)
        case RecencyRule():
            reasons = _recent(rule, manifest)
        case StabilityRule():
            reasons = _steady(rule, manifest, earlier)
        case _:
            yield from _of_rows(rule, manifest, check)
            return
    for reason in reasons:
        yield GateFinding(rule.name, rule.action, reason)


def _of_rows(rule: Rule, manifest: SnapshotManifest, check: RuleCheck | None) -> Iterator[GateFinding]:
    """Judge by what was found in the rows. A quarantining rule that could not be applied blocks."""
    if check is None or check.error is not None:
        why = "the rule was not checked." if check is None else check.error
        yield GateFinding(rule.name, "warn" if rule.action == "warn" else "block", f"{rule.name}: {why}")
        return
    for reason in check.reasons:
        yield GateFinding(rule.name, rule.action, f"{rule.name}: {reason}")
    said = f"{_words(rule)}; {check.seen}" if check.seen else _words(rule)
    share = check.offenders / check.of if check.of else 0.0
    if rule.action == "quarantine":
        kept = manifest.quarantined.reasons.get(rule.name, 0) if manifest.quarantined is not None else 0
        if kept:
            yield GateFinding(rule.name, "quarantine", f"{kept} of {check.of} rows are kept aside: {said}.")
    elif share > getattr(rule, "at_most", 0.0):
        yield GateFinding(rule.name, rule.action, f"{check.offenders} of {check.of} rows: {said}.")


def _words(rule: Rule) -> str:
    match rule:
        case NotNullRule(of=columns):
            return f"{' or '.join(columns)} has no value"
        case RangeRule(of=column, low=low, high=high):
            return f"{column} is not from {low:g} to {high:g}"
        case AllowedValuesRule(of=column):
            return f"{column} is none of the known values"
        case UniquenessRule(of=columns):
            return f"{', '.join(columns)} is the same as in another row"
        case ReferenceRule(of=columns, reference=reference, columns=there):
            return f"{', '.join(columns)} is not in {reference.name}.{', '.join(there)}"
        case NoFutureRule():
            return "the row claims to be known in the future"
    return rule.name


def _volume(
    rule: VolumeRule, manifest: SnapshotManifest, previous: SnapshotManifest | None, earlier: Sequence[SnapshotManifest]
) -> Iterator[str]:
    """Rows and entities against the snapshot before; the rate of new rows against the median of earlier ones."""
    if rule.of == "new_rows":
        yield from _rate(rule, manifest, earlier)
        return
    if previous is None or previous.id == manifest.id:
        return
    now, then = (
        one.rows_out if rule.of == "entities" else one.source_quality.rows if one.source_quality is not None else None
        for one in (manifest, previous)
    )
    if now is None or not then:
        return
    if not rule.least <= now / then <= rule.most:
        few = "only " if now < then else ""
        yield (
            f"The view {manifest.view!r} has {few}{now} {rule.of}, {now / then:.3g} times the {then} before; "
            f"{rule.least:g} to {rule.most:g} times are expected."
        )


def _rate(rule: VolumeRule, manifest: SnapshotManifest, earlier: Sequence[SnapshotManifest]) -> Iterator[str]:
    rates = [rate for one in earlier if (rate := _per_hour(one)) is not None]
    now = _per_hour(manifest)
    if now is None or len(rates) < _FEWEST_RATES or manifest.source_quality is None:
        return
    usual = averages.median(rates)
    span = (manifest.source_quality.new_span_seconds or 0.0) / 3_600
    if usual * span < _FEWEST_NEW and now * span < _FEWEST_NEW:
        return  # a handful more or less says nothing
    if not rule.least * usual <= now <= rule.most * usual:
        few = "Only " if now < usual else ""
        yield (
            f"{few}{manifest.source_quality.new_rows} rows are new, {now:.3g} an hour; the median of earlier snapshots "
            f"is {usual:.3g}, and {rule.least:g} to {rule.most:g} times are expected."
        )


def _per_hour(manifest: SnapshotManifest) -> float | None:
    quality = manifest.source_quality
    if quality is None or not quality.new_span_seconds:
        return None
    return quality.new_rows / (quality.new_span_seconds / 3_600)


def _recent(rule: RecencyRule, manifest: SnapshotManifest) -> Iterator[str]:
    latest = manifest.source_quality.latest_event_time if manifest.source_quality is not None else None
    if latest is None:
        yield "The source has no event."
        return
    age = microseconds(manifest.as_of) - latest
    if age > rule.max_age:
        yield f"The latest event is {_hours(age)} old; at most {_hours(rule.max_age)} is allowed."


def _hours(duration: int) -> str:
    minutes = duration / 60e6
    return f"{minutes:.3g} min" if minutes < 120 else f"{minutes / 60:.3g} h"


def _steady(rule: StabilityRule, manifest: SnapshotManifest, earlier: Sequence[SnapshotManifest]) -> Iterator[str]:
    of: Callable[[SnapshotManifest], dict[str, Statistics]] = (
        (lambda one: one.statistics)
        if rule.over == "features"
        else (lambda one: one.source_quality.columns if one.source_quality is not None else {})
    )
    now, before_all = of(manifest), [of(one) for one in earlier]
    references: dict[str, Statistics] = {}
    distances: dict[str, Distance] = {}
    for name in now if not rule.of else (name for name in rule.of if name in now):
        known = [
            found
            for one in before_all
            if (found := one.get(name)) is not None and found.rows and named_alike(found, now[name])
        ]
        reference = pooled(known)
        if reference is not None:
            references[name] = reference
            # New rows are other rows every time; the entities behind features are the same ones.
            independent = max(found.present for found in known) if rule.over == "features" else None
            if (gap := distance(name, reference, now[name], independent)) is not None:
                distances[name] = gap
    significant = discoveries({name: one.p_value for name, one in distances.items()}, rule.alpha)
    for name, before in references.items():
        shift = distances.get(name)
        if shift is not None and (
            shift.psi > max(rule.psi, shift.noise) or (name in significant and shift.effect >= rule.effect)
        ):
            means = [
                found.mean for one in before_all if (found := one.get(name)) is not None and found.mean is not None
            ]
            yield (
                f"{name}: its distribution shifted ({shift.test} {shift.effect:.2f}, PSI {shift.psi:.2f})"
                f"{_how(before, now[name], means)}."
            )
        elif abs(now[name].null_share - before.null_share) > max(rule.effect, 0.05) and now[name].rows >= _FEWEST_NEW:
            yield (
                f"{name}: {now[name].null_share:.1%} of its values are missing, {before.null_share:.1%} in earlier "
                "snapshots."
            )


def _how(before: Statistics, now: Statistics, means: Sequence[float]) -> str:
    """The shift in words: categories that came and went, or the mean beside earlier ones."""
    if now.top or before.top:
        parts = []
        for word, there, elsewhere in (("new", now, before), ("gone", before, now)):
            enough = 0.01 * max(there.present, 1)
            only = [value for value, rows in there.top.items() if value not in elsewhere.top and rows >= enough]
            parts += [f"{word}: {_listed(only)}"] if only else []
        return f"; {', '.join(parts)}" if parts else ""
    if not means or now.mean is None:
        return ""
    usual = averages.median(means)
    factor = f", {now.mean / usual:.3g} times" if usual and abs(now.mean / usual) > 1.5 else ""
    return f"; mean {now.mean:.4g}, {usual:.4g} before{factor}"


def _listed(values: Sequence[Any]) -> str:
    shown = [repr(str(value)[:40]) for value in values[:4]]
    return ", ".join(shown) + (f" and {len(values) - 4} more" if len(values) > 4 else "")
