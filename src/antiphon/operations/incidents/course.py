"""The course of incidents: opened, updated, mitigated, resolved and reopened by what is diagnosed, and moved by
people. Pure: an incident in, an incident out.

An incident is mitigated once none of its symptoms lasts, and resolved when that was so for :data:`NORMAL_FOR`. What
begins again within :data:`REOPENED_WITHIN` at the same root is the same incident. While nothing but the alert of an
error budget lasts it is mitigated, and not resolved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from antiphon.catalog.incidents import (
    NO_CAUSE,
    Incident,
    IncidentEvidence,
    IncidentState,
    IncidentSymptom,
    RootCause,
    TimelineEntry,
)
from antiphon.core.errors import ConflictError
from antiphon.core.ids import new_id
from antiphon.core.settings_notifications import Severity
from antiphon.operations.incidents.causes import FACTS
from antiphon.operations.incidents.detection import Symptom
from antiphon.operations.incidents.explanation import Diagnosis
from antiphon.operations.incidents.signals import SIGNALS

NORMAL_FOR = timedelta(minutes=3)
REOPENED_WITHIN = timedelta(minutes=30)

CRITICAL_SHARE, WARNING_SHARE = 0.2, 0.01
"""Shares of users' requests hit, from which an incident is critical or a warning."""

_SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
_MOST_SYMPTOMS = 100


class PeriodImpact(msgspec.Struct, frozen=True):
    """Requests of users in the last period by application, and how many of them a symptom hit."""

    requests: Mapping[str, float]
    hit: Mapping[str, float]


NOTHING = PeriodImpact({}, {})


def advance(
    recorded: Sequence[Incident], diagnoses: Iterable[Diagnosis], impact: PeriodImpact, now: datetime
) -> tuple[Incident, ...]:
    """The incidents that are new or other than they were.

    Args:
        recorded: those that are not resolved, and those that were resolved of late.
    """
    known = {one.id: one for one in recorded}
    current: dict[str, Incident] = dict(known)
    diagnosed: dict[str, list[Symptom]] = {}
    for diagnosis in diagnoses:
        same = _same(diagnosis, list(current.values()), now)
        if (
            same is not None
            and not same.active
            and (_is_just_resolved(same, now) or not _begins_again(same, diagnosis))
        ):
            continue
        if same is None:
            if not any(one.lasting for one in diagnosis.symptoms):
                continue
            same = _opened(diagnosis, now)
        diagnosed.setdefault(same.id, []).extend(diagnosis.symptoms)
        current[same.id] = _updated(same, diagnosis, impact, now)
        for other in [one for one in current.values() if one.active and one.id != same.id and one.id not in diagnosed]:
            keys = {(one.signal, one.component) for one in other.lasting}
            if keys and keys <= {one.key for one in diagnosis.symptoms}:
                entry = TimelineEntry(now, "merged", f"It is a part of {same.id}.")
                current[other.id] = msgspec.structs.replace(
                    other, state="resolved", resolved_at=now, updated_at=now, timeline=(*other.timeline, entry)
                )
    for id, incident in list(current.items()):
        if incident.active:
            current[id] = _course(_ended(incident, diagnosed.get(id, ()), now), now)
    return tuple(one for id, one in sorted(current.items()) if one != known.get(id))


def impact_of(symptoms: Iterable[Symptom], traffic: Mapping[str, float]) -> PeriodImpact:
    """The impact of a period on users.

    Args:
        traffic: requests by application.
    """
    hit: dict[str, float] = {}
    for one in symptoms:
        signal = SIGNALS.get(one.signal)
        if signal is not None and signal.user and one.lasting:
            name = one.component.partition("/")[2]
            # Requests that fail are not slow as well, but an answer may be slow and a stand-in.
            hit[name] = min(traffic.get(name, 0.0), max(hit.get(name, 0.0), one.affected))
    return PeriodImpact(traffic, hit)


def _same(diagnosis: Diagnosis, incidents: Sequence[Incident], now: datetime) -> Incident | None:
    """The incident that a diagnosis is about: active with one of its symptoms or roots, or resolved of late at the same
    root."""
    keys = {one.key for one in diagnosis.symptoms}
    roots = {root.component for root in diagnosis.roots}
    best: tuple[tuple[bool, int, int, datetime], Incident] | None = None
    for one in incidents:
        shared = len(keys & {(symptom.signal, symptom.component) for symptom in one.symptoms})
        same_roots = len(roots & {root.component for root in one.roots})
        if not one.active:
            recent = one.resolved_at is not None and now - one.resolved_at <= REOPENED_WITHIN
            alike = (same_roots > 0 or shared > 0) if roots or one.roots else shared > 0
            if not (recent and alike and any(symptom.lasting for symptom in diagnosis.symptoms)):
                continue
        elif not shared and not same_roots:
            continue
        rank = (one.active, same_roots, shared, one.opened_at)
        if best is None or rank > best[0]:
            best = rank, one
    return None if best is None else best[1]


def _begins_again(incident: Incident, diagnosis: Diagnosis) -> bool:
    """True where something lasts that is no alert left over from what this incident burnt of a budget."""
    others = [one.until for one in incident.symptoms if one.signal != "burning"]
    ended = incident.resolved_at or max((until for until in others if until is not None), default=None)
    return any(
        one.lasting and (one.signal != "burning" or not others or (ended is not None and one.since > ended))
        for one in diagnosis.symptoms
    )


def _is_just_resolved(incident: Incident, now: datetime) -> bool:
    """True for a while after a person has resolved it: what they did takes effect."""
    return incident.resolved_at is not None and now - incident.resolved_at < NORMAL_FOR


def _opened(diagnosis: Diagnosis, now: datetime) -> Incident:
    began = min(one.since for one in diagnosis.symptoms)
    entry = TimelineEntry(now, "opened", f"Symptoms: {len(diagnosis.symptoms)}, since {began:%H:%M:%S}Z.")
    return Incident(new_id("inc"), "open", "info", NO_CAUSE, "", now, now, timeline=(entry,))


def _updated(incident: Incident, diagnosis: Diagnosis, impact: PeriodImpact, now: datetime) -> Incident:
    entries: list[TimelineEntry] = []
    state, reopened = incident.state, incident.reopened
    if state in ("resolved", "mitigated") and _begins_again(incident, diagnosis):
        reopened += not incident.active
        state = "open"
        entries.append(TimelineEntry(now, "reopened", "It began again."))
    symptoms = {(one.signal, one.component): one for one in incident.symptoms}
    for one in diagnosis.symptoms:
        known = symptoms.get(one.key)
        ended = None if known is None else known.until or incident.resolved_at
        if known is None or (one.lasting and ended is not None and (known.until is not None or one.since > ended)):
            if len(symptoms) >= _MOST_SYMPTOMS:
                continue
            symptoms[one.key] = IncidentSymptom(
                one.signal, one.component, one.since, evidence_of(one), None if one.lasting else now
            )
            entries.append(TimelineEntry(max(one.since, incident.opened_at) if known else one.since, "symptom",
                                         one.sentence))  # fmt: skip
    roots = tuple(
        RootCause(root.component, root.class_, tuple(map(evidence_of, root.evidence)), root.paths)
        for root in diagnosis.roots
    )
    # A root that was found stays: its evidence may be gone before its effects are.
    kept = tuple(one for one in incident.roots if one.component not in {root.component for root in roots})
    outdated = {one.component for one in kept if _is_symptom_now(one, diagnosis)}
    roots = tuple(sorted((*roots, *(one for one in kept if one.component not in outdated)), key=lambda r: r.component))
    if not roots and incident.roots:
        roots = incident.roots
    class_ = diagnosis.class_ if diagnosis.roots else (roots[0].class_ if roots else NO_CAUSE)
    if [one.component for one in roots] != [one.component for one in incident.roots]:
        entries += [
            TimelineEntry(now, "cause", f"{root.component} ({root.class_}): {root.evidence[0].sentence}",
                          component=root.component, class_=root.class_)
            for root in roots
            if root.component not in {one.component for one in incident.roots}
        ]  # fmt: skip
    names = sorted({name for key in symptoms if (name := _application(key[1]))})
    requests = incident.requests + sum(impact.requests.get(name, 0.0) for name in names)
    hit = incident.hit + sum(impact.hit.get(name, 0.0) for name in names)
    changed = msgspec.structs.replace(
        incident, state=state, reopened=reopened, resolved_at=None if state != "resolved" else incident.resolved_at,
        class_=class_, roots=roots, symptoms=tuple(sorted(symptoms.values(), key=lambda one: (one.since, one.signal))),
        considered=() if roots else diagnosis.considered, applications=tuple(names), requests=requests, hit=hit,
        title=_title(roots, diagnosis),
    )  # fmt: skip
    severity = max(changed.severity, _severity(changed, impact, names), key=_SEVERITIES.index)
    if severity != incident.severity and incident.title:
        entries.append(TimelineEntry(now, "severity", f"{severity}: {impact_sentence(changed)}"))
    # A symptom may be known later than it began.
    timeline = tuple(sorted((*incident.timeline, *entries), key=lambda one: one.at))
    if (changed.roots, changed.symptoms, changed.state, severity, changed.hit) == (
        incident.roots, incident.symptoms, incident.state, incident.severity, incident.hit
    ):  # fmt: skip
        return incident
    return msgspec.structs.replace(changed, severity=severity, timeline=timeline, updated_at=now)


def _is_symptom_now(root: RootCause, diagnosis: Diagnosis) -> bool:
    """True for a root whose evidence another root explains by now."""
    if not diagnosis.roots:
        return False
    explained = {path[-1] for one in diagnosis.roots for path in one.paths}
    return root.component in explained or all(
        any((one.signal, one.component) == (found.signal, found.component) for one in diagnosis.symptoms)
        for found in root.evidence
    )


def _severity(incident: Incident, impact: PeriodImpact, names: Collection[str]) -> Severity:
    """By what users felt: the share of an application's requests hit, and budgets that burn."""
    share = max(
        (impact.hit.get(name, 0.0) / impact.requests[name] for name in names if impact.requests.get(name)), default=0.0
    )
    burning = any(one.signal == "burning" and one.until is None for one in incident.symptoms)
    if share >= CRITICAL_SHARE:
        return "critical"
    if share >= WARNING_SHARE or burning or incident.class_ in ("security", "data quality", "model drift"):
        return "warning"
    return "info"


def _ended(incident: Incident, diagnosed: Sequence[Symptom], now: datetime) -> Incident:
    """With the symptoms over that are no longer diagnosed."""
    lasting = {one.key for one in diagnosed if one.lasting}
    over = [one for one in incident.lasting if (one.signal, one.component) not in lasting]
    if not over:
        return incident
    symptoms = tuple(msgspec.structs.replace(one, until=now) if one in over else one for one in incident.symptoms)
    entries = tuple(TimelineEntry(now, "normal", f"{one.signal} of {one.component} is normal again.") for one in over)
    return msgspec.structs.replace(incident, symptoms=symptoms, timeline=(*incident.timeline, *entries), updated_at=now)


def _course(incident: Incident, now: datetime) -> Incident:
    """The state that follows from the symptoms and from the time."""
    timeline, state, since = incident.timeline, incident.state, incident.normal_since
    if state == "silenced" and incident.silenced_until is not None and now >= incident.silenced_until:
        state, timeline = "open", (*timeline, TimelineEntry(now, "silence over", "It is said again."))
    if incident.present:
        since = None
        if state == "mitigated":
            state = "open"
    elif state in ("open", "acknowledged"):
        state = "mitigated"
        but = "; an error budget still burns" if incident.lasting else ""
        timeline = (*timeline, TimelineEntry(now, "mitigated", f"All signals are normal{but}."))
    since = None if incident.lasting else since or now
    resolved_at = incident.resolved_at
    if since is not None and now - since >= NORMAL_FOR:
        state, resolved_at = "resolved", now
        minutes = NORMAL_FOR // timedelta(minutes=1)
        timeline = (*timeline, TimelineEntry(now, "resolved", f"All signals were normal for {minutes} minutes."))
    changed = msgspec.structs.replace(
        incident, state=state, normal_since=since, resolved_at=resolved_at, timeline=timeline
    )
    return changed if changed == incident else msgspec.structs.replace(changed, updated_at=now)


def evidence_of(symptom: Symptom) -> IncidentEvidence:
    """The evidence of a symptom or fact, and where a person opens it."""
    signal, name = SIGNALS.get(symptom.signal), symptom.component.partition("/")[2]
    return IncidentEvidence(
        symptom.component,
        symptom.signal,
        symptom.sentence or FACTS.get(symptom.signal, symptom.signal).format(name=name or symptom.component),
        symptom.since,
        "" if signal is None else signal.measure,
        "" if signal is None else signal.where.format(name=name),
        symptom.record,
    )


def impact_sentence(incident: Incident) -> str:
    """The impact on users as a sentence."""
    if not incident.requests:
        return "No requests of users are known to be hit."
    share = incident.hit / incident.requests
    return f"{incident.hit:,.0f} of {incident.requests:,.0f} requests of users were hit ({share:.0%})."


def _title(roots: Sequence[RootCause], diagnosis: Diagnosis) -> str:
    hit = sorted({name for one in diagnosis.symptoms if (name := _application(one.component))})
    on = f", felt by {', '.join(hit[:3])}" + (" and others" if len(hit) > 3 else "") if hit else ""
    if not roots:
        first = diagnosis.symptoms[0]
        return f"No cause found: {evidence_of(first).sentence.rstrip('.')}"[:200]
    return f"{', '.join(root.component for root in roots)}: {roots[0].evidence[0].sentence.rstrip('.')}{on}"[:200]


def _application(component: str) -> str:
    kind, _, name = component.partition("/")
    return name if kind == "application" else ""


# --- What people do with an incident.


def acknowledge(incident: Incident, principal: str, now: datetime) -> Incident:
    """Take it: the principal becomes its owner, where it has none."""
    _require_active(incident)
    state: IncidentState = "acknowledged" if incident.state in ("open", "silenced") else incident.state
    return _act(incident, "acknowledged", "", principal, now, state=state, owner=incident.owner or principal)


def assign(incident: Incident, owner: str, principal: str, now: datetime) -> Incident:
    """Give it to an owner."""
    return _act(incident, "assigned", f"to {owner}", principal, now, owner=owner)


def note(incident: Incident, text: str, principal: str, now: datetime) -> Incident:
    """Add a note, also after its end."""
    return _act(incident, "note", text, principal, now)


def silence(incident: Incident, until: datetime, reason: str, principal: str, now: datetime) -> Incident:
    """Say nothing of it until a moment."""
    _require_active(incident)
    text = f"until {until:%Y-%m-%d %H:%M}Z: {reason}"
    return _act(incident, "silenced", text, principal, now, state="silenced", silenced_until=until)


def resolve(incident: Incident, reason: str, principal: str, now: datetime) -> Incident:
    """End it. What goes on or comes back opens it again."""
    _require_active(incident)
    return _act(incident, "resolved", reason, principal, now, state="resolved", resolved_at=now)


def _act(incident: Incident, kind: str, text: str, principal: str, now: datetime, **fields: object) -> Incident:
    entry = TimelineEntry(now, kind, text, principal)
    return msgspec.structs.replace(incident, **fields, timeline=(*incident.timeline, entry), updated_at=now)


def _require_active(incident: Incident) -> None:
    if not incident.active:
        raise ConflictError(
            f"The incident {incident.id} is resolved.",
            where=incident.id,
            next_step="It opens again by itself when its signals are no longer normal; a note can still be added.",
        )
