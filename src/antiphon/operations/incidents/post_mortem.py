"""A post-mortem drafted from the record of an incident, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from antiphon.catalog.incidents import Incident, IncidentEvidence
from antiphon.operations.incidents.course import impact_sentence


def post_mortem(incident: Incident) -> str:
    """The draft; what only people know is left open."""
    return "\n".join(_lines(incident)) + "\n"


def _lines(incident: Incident) -> Iterator[str]:
    yield f"# {_text(incident.title)}"
    yield ""
    end = "it lasts" if incident.resolved_at is None else f"resolved {incident.resolved_at:%Y-%m-%d %H:%M:%S}Z"
    yield f"`{incident.id}`, {incident.severity}, {incident.class_}. "
    yield f"Opened {incident.opened_at:%Y-%m-%d %H:%M:%S}Z, {end}. Owner: {_text(incident.owner) or 'nobody'}."
    yield ""
    yield "## Impact"
    yield ""
    yield impact_sentence(incident)
    if incident.applications:
        yield f"Applications: {', '.join(map(_text, incident.applications))}."
    yield ""
    yield "## Cause"
    yield ""
    for root in incident.roots:
        yield f"- **{root.component}** ({root.class_})"
        for evidence in root.evidence:
            yield f"  - {_evidence(evidence)}"
        for path in root.paths:
            yield f"  - path: {' → '.join(path)}"
    if not incident.roots:
        yield "No cause was found by the platform."
        for one in incident.considered:
            yield f"- considered: {_text(one)}"
    yield ""
    yield "## Symptoms"
    yield ""
    for symptom in incident.symptoms:
        until = "lasts" if symptom.until is None else f"until {symptom.until:%H:%M:%S}Z"
        yield f"- {symptom.since:%H:%M:%S}Z, {until}: {_evidence(symptom.evidence)}"
    yield ""
    yield "## Timeline"
    yield ""
    for entry in incident.timeline:
        who = f" ({_text(entry.principal)})" if entry.principal else ""
        yield f"- {entry.at:%Y-%m-%d %H:%M:%S}Z **{entry.kind}**{who} {_text(entry.text)}".rstrip()
    yield ""
    yield from ("## What went well", "", "…", "", "## What to change", "", "…")


def _evidence(evidence: IncidentEvidence) -> str:
    opened = evidence.record or " ".join(part for part in (evidence.measure, evidence.where) if part)
    return f"{_text(evidence.sentence)}" + (f" (`{opened}`)" if opened else "")


def _text(text: str) -> str:
    """Without what Markdown or HTML would read as markup, in one line."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    for mark in "*_[]`#|":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped
