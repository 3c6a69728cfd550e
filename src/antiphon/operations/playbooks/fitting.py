"""Fits playbooks to an incident: its class, the kinds of its causes and the evidence at them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import msgspec

from antiphon.catalog.incidents import Incident, IncidentEvidence
from antiphon.catalog.playbooks import PlannedStep
from antiphon.core.settings_notifications import Severity
from antiphon.definitions.playbooks import TARGETED, PlaybookSpec, PlaybookStep

_SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_RUN = "run/"


class PlaybookFit(msgspec.Struct, frozen=True):
    """A playbook that fits an incident.

    Attributes:
        components: the causes that it is about; without causes the symptoms.
        plan: its steps with their targets.
        cause: the sentence that says why it fits.
    """

    components: tuple[str, ...]
    plan: tuple[PlannedStep, ...]
    cause: str


def fit(playbook: PlaybookSpec, incident: Incident) -> PlaybookFit | None:
    """The steps of a playbook for an incident; ``None`` where it is not for it, or a step would have no target."""
    if _SEVERITIES.index(incident.severity) < _SEVERITIES.index(playbook.severity):
        return None
    if playbook.classes and incident.class_ not in playbook.classes:
        return None
    chosen = [
        (component, evidence)
        for component, evidence in _evidence(incident)
        if (not playbook.roots or _kind(component) in playbook.roots)
        and (not playbook.signals or any(one.signal in playbook.signals for one in evidence))
    ]
    if not chosen:
        return None
    plan: list[PlannedStep] = []
    for number, step in enumerate(playbook.steps, 1):
        targets = _targets(step, chosen)
        if not targets:
            return None
        plan += [PlannedStep(number, step, target) for target in targets]
    said = next((one.sentence for _, evidence in chosen for one in evidence if one.sentence), incident.title)
    return PlaybookFit(tuple(component for component, _ in chosen), tuple(plan), said)


def _evidence(incident: Incident) -> Iterator[tuple[str, tuple[IncidentEvidence, ...]]]:
    """The causes with what is known of each; the symptoms where no cause was found."""
    if incident.roots:
        for root in incident.roots:
            own = tuple(one.evidence for one in incident.symptoms if one.component == root.component)
            yield root.component, tuple(dict.fromkeys((*root.evidence, *own)))
        return
    for symptom in incident.symptoms:
        yield symptom.component, (symptom.evidence,)


def _targets(step: PlaybookStep, chosen: list[tuple[str, tuple[IncidentEvidence, ...]]]) -> list[str]:
    if step.action in ("freeze", "limit-batch", "page", "rotate-key"):
        return [step.key]
    found: list[str] = []
    for component, evidence in chosen:
        if step.action == "rerun-refresh":
            found += [one.record.removeprefix(_RUN) for one in evidence if one.record.startswith(_RUN)]
        elif _kind(component) in TARGETED[step.action]:
            process = next((one.record for one in evidence if one.record.startswith("process/")), component)
            of_process = step.action in ("restart-engine", "drain-engine")
            found.append((process if of_process else component).partition("/")[2])
    return list(dict.fromkeys(found))


def _kind(component: str) -> str:
    return component.partition("/")[0]
