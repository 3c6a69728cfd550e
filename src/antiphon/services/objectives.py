"""Objectives of a tenant: assessed once a minute by the worker, and read by commands, HTTP and pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from antiphon.catalog.notifications import Notification
from antiphon.catalog.objective_states import ObjectiveAlert, ObjectiveStates
from antiphon.core.clock import parse_duration
from antiphon.core.errors import NotFoundError
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.definitions.objectives import ObjectiveKind, ObjectiveSpec, usual_objectives
from antiphon.definitions.project import ProjectSpec
from antiphon.operations.objectives.burn import BudgetState, assess
from antiphon.operations.objectives.counts import ObjectiveCounts
from antiphon.services.project.store import Store

ASSESS_SECONDS = 60.0
OBJECTIVE = "objective"
"""Kind of the notifications of its alerts."""

_read = msgspec.json.Decoder(BudgetState).decode


class ObjectiveLine(msgspec.Struct, frozen=True):
    """An objective and how it stands.

    Attributes:
        status: ``unmeasured`` before it is assessed first or while nothing is counted, ``met``, ``missed`` with its
            budget used up, ``burning`` while an alert fires.
        budget_left: share of the error budget; negative when it is overdrawn.
        burn_hour: the burn rate of the last hour.
        reasons: a sentence for each alert.
    """

    name: str
    application: str
    kind: ObjectiveKind
    sentence: str
    target: float
    window: str
    within: str | None
    status: Literal["unmeasured", "met", "missed", "burning"]
    severity: str | None = None
    attained: float | None = None
    budget_left: float | None = None
    burn_hour: float | None = None
    counted: float = 0.0
    at: datetime | None = None
    reasons: tuple[str, ...] = ()


class ProjectObjectives:
    """The objectives of one tenant."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope
        self._states = ObjectiveStates(store.database)
        self._counts = ObjectiveCounts(store.measurements, scope.tenant)

    def list(self) -> tuple[ObjectiveLine, ...]:
        """Every objective of what is applied, by name, as it was assessed last."""
        states = self._states.list(self._scope)
        objectives = all_objectives(self._store.applied.project(self._scope))
        return tuple(
            _line(spec, _read(states[name]) if name in states else None) for name, spec in sorted(objectives.items())
        )

    def get(self, name: str) -> ObjectiveLine:
        """One objective.

        Raises:
            NotFoundError: none of this name.
        """
        lines = {line.name: line for line in self.list()}
        if name not in lines:
            raise NotFoundError(
                f"There is no objective {name!r}.",
                where=str(self._scope),
                next_step=nearest(name, lines, "`antiphon objectives list` shows them."),
            )
        return lines[name]

    def alerts(self, limit: int = 50) -> tuple[ObjectiveAlert, ...]:
        """Alerts, the latest first."""
        return self._states.alerts(self._scope, limit)

    def assess(self) -> int:
        """Assess every objective, and begin and end alerts; how many began or ended."""
        now = self._store.database.clock.now()
        objectives = all_objectives(self._store.applied.project(self._scope))
        self._counts.read(objectives.values(), now)
        found: dict[str, BudgetState] = {}
        for name, spec in objectives.items():
            fine, coarse = self._counts.of(spec)
            found[name] = assess(fine, coarse, spec.target, parse_duration(spec.window), now)
        with self._store.database.transaction() as connection:
            states = {name: msgspec.json.encode(state) for name, state in found.items()}
            self._states.put(self._scope, states, now, within=connection)
            opened = {
                (one.objective, one.severity): one for one in self._states.open_alerts(self._scope, within=connection)
            }
            # The worst one alone: a warning beside a critical alert would tell of the same cause again.
            firing = {
                (name, state.alerts[0].severity): state.alerts[0] for name, state in found.items() if state.alerts
            }
            covered = self._store.incidents.applications(self._scope, within=connection)
            for (name, severity), alert in firing.items():
                if (name, severity) not in opened:
                    spec = objectives[name]
                    begun = ObjectiveAlert(new_id("alert"), name, spec.application, severity, alert.sentence, now, None)
                    self._states.begin(self._scope, begun, within=connection)
                    if spec.application not in covered:  # The alert is a symptom of the incident, which was said.
                        self._store.notifications.append(self._scope, _said(spec, begun), within=connection)
            over = [one for key, one in opened.items() if key not in firing]
            for one in over:
                self._states.resolve(self._scope, one.id, now, within=connection)
                self._store.notifications.resolve(self._scope, _notification_id(one), now, within=connection)
        return len(firing.keys() - opened.keys()) + len(over)


def all_objectives(project: ProjectSpec) -> Mapping[str, ObjectiveSpec]:
    """The declared objectives of a project, and the usual ones of applications that declare none, by name."""
    declared = {one.application for one in project.objectives.values()}
    usual = (
        objective
        for name, application in project.applications.items()
        if name not in declared
        for objective in usual_objectives(application)
    )
    return {**project.objectives, **{one.name: one for one in usual}}


def _said(spec: ObjectiveSpec, alert: ObjectiveAlert) -> Notification:
    return Notification(
        _notification_id(alert),
        OBJECTIVE,
        alert.severity,
        "firing",
        f"{spec.application} burns the error budget of {spec.name}",
        alert.began_at,
        f"{spec.sentence}. {alert.reason}",
        spec.application,
        labels={"objective": spec.name, "application": spec.application},
    )


def _notification_id(alert: ObjectiveAlert) -> str:
    return f"{OBJECTIVE}:{alert.id}"


def _line(spec: ObjectiveSpec, state: BudgetState | None) -> ObjectiveLine:
    line = ObjectiveLine(
        spec.name, spec.application, spec.kind, spec.sentence, spec.target, spec.window, spec.within, "unmeasured"
    )
    if state is None:
        return line
    status: Literal["unmeasured", "met", "missed", "burning"] = (
        "burning"
        if state.alerts
        else "unmeasured"
        if state.attained is None
        else "missed"
        if state.budget_left < 0
        else "met"
    )
    return msgspec.structs.replace(
        line,
        status=status,
        severity=state.severity,
        attained=state.attained,
        budget_left=None if state.attained is None else state.budget_left,
        burn_hour=None if state.attained is None else state.burn_hour,
        counted=state.total,
        at=state.at,
        reasons=tuple(alert.sentence for alert in state.alerts),
    )
