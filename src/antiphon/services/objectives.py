"""Objectives of a tenant: assessed once a minute by the worker, and read by commands, HTTP and pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from antiphon.definitions.objectives import JUDGED, ObjectiveKind, ObjectiveSpec, usual_objectives
from antiphon.definitions.project import ProjectSpec
from antiphon.operations.objectives.burn import BudgetState, CountHistory, assess
from antiphon.operations.objectives.cost import AnswerCosts
from antiphon.operations.objectives.counts import ObjectiveCounts
from antiphon.operations.objectives.outcomes import AnswerOutcomes
from antiphon.services.cost.prices import ProjectPrices
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
        target, attained: shares; ``None`` of cost, whose bound is ``most``.
        measured: of a mean, what it is.
        budget_left: share of the error budget; negative when it is overdrawn.
        burn_hour: the burn rate of the last hour.
        counted: requests, answers, answers with an outcome, or seconds.
        known_until: of quality and calibration, the moment of the newest answer whose outcome counts.
        reasons: a sentence for each alert.
        note: why nothing is measured.
    """

    name: str
    application: str
    kind: ObjectiveKind
    sentence: str
    target: float | None
    window: str
    within: str | None
    most: float | None
    status: Literal["unmeasured", "met", "missed", "burning"]
    severity: str | None = None
    attained: float | None = None
    measured: str | None = None
    budget_left: float | None = None
    burn_hour: float | None = None
    counted: float = 0.0
    at: datetime | None = None
    known_until: datetime | None = None
    reasons: tuple[str, ...] = ()
    note: str | None = None


class ProjectObjectives:
    """The objectives of one tenant."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope
        self._states = ObjectiveStates(store.database)
        self._counts = ObjectiveCounts(store.measurements, scope.tenant)
        self._outcomes = AnswerOutcomes(store.database, scope)
        self._costs = AnswerCosts(store.database, scope)

    def list(self) -> tuple[ObjectiveLine, ...]:
        """Every objective of what is applied, by name, as it was assessed last."""
        states = self._states.list(self._scope)
        objectives = all_objectives(self._store.applied.project(self._scope))
        priced = any(one.kind == "cost" for one in objectives.values())
        currency = ProjectPrices(self._store).currency if priced else ""
        return tuple(
            _line(spec, _read(states[name]) if name in states else None, currency)
            for name, spec in sorted(objectives.items())
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
        found = {
            name: assess(history, spec.budget, parse_duration(spec.window), now)
            for name, spec, history in self._histories(objectives, now)
        }
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

    def _histories(
        self, objectives: Mapping[str, ObjectiveSpec], now: datetime
    ) -> Iterator[tuple[str, ObjectiveSpec, CountHistory]]:
        """The counts of each objective up to a moment."""
        of_reader: dict[ObjectiveCounts | AnswerOutcomes | AnswerCosts, dict[str, ObjectiveSpec]] = {
            self._counts: {}, self._outcomes: {}, self._costs: {},
        }  # fmt: skip
        for name, spec in objectives.items():
            reader = self._outcomes if spec.kind in JUDGED else self._costs if spec.kind == "cost" else self._counts
            of_reader[reader][name] = spec
        for reader, listed in of_reader.items():
            reader.read(listed.values(), now)
            yield from ((name, spec, reader.of(spec)) for name, spec in listed.items())


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


def _line(spec: ObjectiveSpec, state: BudgetState | None, currency: str) -> ObjectiveLine:
    line = ObjectiveLine(
        spec.name, spec.application, spec.kind, spec.sentence, spec.target, spec.window, spec.within, spec.most,
        "unmeasured",
    )  # fmt: skip
    if state is None:
        return line
    if not state.total and not state.alerts:
        return msgspec.structs.replace(
            line, at=state.at, known_until=state.known_until, note=_UNMEASURED.get(spec.kind)
        )
    status: Literal["met", "missed", "burning"] = (
        "burning" if state.alerts else "missed" if state.budget_left < 0 else "met"
    )
    return msgspec.structs.replace(
        line,
        status=status,
        severity=state.severity,
        attained=state.attained,
        measured=None if state.mean is None else spec.measured(state.mean, currency),
        budget_left=state.budget_left,
        burn_hour=state.burn_hour,
        counted=state.total,
        at=state.at,
        known_until=state.known_until,
        reasons=tuple(alert.sentence for alert in state.alerts),
    )


_UNMEASURED: Mapping[str, str] = {
    "quality": "No outcome of an answer in its window is known so far.",
    "calibration": "No outcome of an answer with probabilities in its window is known so far.",
    "cost": "There was no answer, or nothing that it used has a price: [prices] in antiphon.toml declares them.",
}
