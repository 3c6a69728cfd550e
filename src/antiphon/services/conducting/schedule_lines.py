"""Schedules as people read them: what each is due for, and what it waits for or does now."""

from __future__ import annotations

import msgspec

from antiphon.catalog.schedules import ScheduleRecord
from antiphon.core.scope import Scope
from antiphon.definitions.project import ProjectSpec
from antiphon.definitions.schedules import RefreshWork, RetrainWork, ScheduleSpec, WorkClass
from antiphon.definitions.triggers import describe
from antiphon.orchestration.conductor.decide import decide
from antiphon.orchestration.conductor.durations import RunDurations
from antiphon.orchestration.conductor.state import ScheduleOutlook
from antiphon.services.conducting.schedule_states import ScheduleStates
from antiphon.services.conducting.traffic import TrafficForecasts
from antiphon.services.project.store import Store

MOST_NAMES = 5
"""Views that a line names."""


class ScheduleLine(msgspec.Struct, frozen=True):
    """A schedule as it is declared, as it stands, and what it does next.

    Attributes:
        application: that it is of; empty for others.
        last: a sentence about its last run.
        value: what its work is worth beside other work.
        views: those that a built-in schedule refreshes, as ``view@definition_version``.
    """

    name: str
    application: str
    work: WorkClass
    declared: str
    outlook: ScheduleOutlook
    record: ScheduleRecord
    runtime: RunDurations | None
    last: str = ""
    value: float = 1.0
    views: tuple[str, ...] = ()

    @property
    def work_of(self) -> str:
        """Its class of work, and of what."""
        names = [view.partition("@")[0] for view in self.views] or [self.application]
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return f"{self.work} of {', '.join(names[:MOST_NAMES])}{more}" if names[0] else self.work


def schedule_lines(
    store: Store, scope: Scope, project: ProjectSpec, traffic: TrafficForecasts | None = None
) -> tuple[ScheduleLine, ...]:
    """The schedules of declarations, with what each will do next once they are applied; nothing is written."""
    states = ScheduleStates(store, scope, traffic).of(project)
    outlooks = decide(states, store.database.clock.now()).outlooks
    return tuple(
        ScheduleLine(
            state.spec.name,
            state.spec.application,
            state.spec.work_class,
            declared(state.spec),
            outlook,
            state.record,
            state.runtime,
            state.last,
            state.spec.value,
            state.spec.work.views if isinstance(state.spec.work, RefreshWork) else (),
        )
        for state, outlook in zip(states, outlooks, strict=True)
    )


def declared(spec: ScheduleSpec) -> str:
    """The condition of a schedule in words."""
    if spec.ready_by is not None:
        return f"ready by {spec.ready_by.line} ({spec.ready_by.zone})"
    when = "by hand" if spec.when is None else describe(spec.when)
    full_when = spec.work.full_when if isinstance(spec.work, RetrainWork) else None
    return when if full_when is None else f"{when}; in full at {describe(full_when)}"
