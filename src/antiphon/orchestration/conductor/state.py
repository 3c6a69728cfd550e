"""The state that the conductor decides on, and its decisions, as values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from antiphon.catalog.run_holds import RunHold
from antiphon.catalog.schedules import ScheduleRecord
from antiphon.definitions.schedules import ScheduleSpec
from antiphon.learning.retraining.forgetting import ForgettingMeasure
from antiphon.orchestration.conductor.assets import AssetWork, PartOrder
from antiphon.orchestration.conductor.durations import RunDurations
from antiphon.orchestration.conductor.forecast import LoadForecast
from antiphon.orchestration.conductor.placement import Span


class Observation(msgspec.Struct, frozen=True):
    """Events of an application and its views since a moment.

    Attributes:
        outcomes: those that arrived for its predictions.
        requests: of its users; ``misses``: those of them that no stored answer served.
        drifted: variables that its newest report names as drifted, where that was found since.
        published: views of which a snapshot was published, at their latest.
        asset: work on what its schedule makes, as it stands now; ``None`` where no condition asks for it.
        refreshed: when the views of a refresh were computed last, by ``view@definition_version``, as far as that was in
            the present period; one for which a run was ordered counts from then on, whatever came of it.
        load: the forecast of requests of its users; ``None`` where no condition asks for it, or there is none yet.
        forgotten: what the last training from what is new forgot, where that was measured since.
    """

    outcomes: int = 0
    drifted: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    asset: AssetWork | None = None
    requests: int = 0
    misses: int = 0
    refreshed: Mapping[str, datetime] = {}
    forgotten: ForgettingMeasure | None = None
    load: LoadForecast | None = None


class ScheduleState(msgspec.Struct, frozen=True):
    """A schedule, declared or built in, and all that decides about its next run.

    Attributes:
        open_run: the run that it ordered and that has not ended, with its status in ``open_status`` and, where that is
            known, its expected end in ``open_until``.
        last: sentence about the last run it ordered. ended_at: that run's end; served: the deadline that it had.
        observed, observed_full: since its record's ``since`` and ``full_since``.
        runtime: of its runs; ``None`` before the first one ended well.
        holds: freezes and windows of its class of work that are not over.
        preferred: spans in which its work had better run.
        forecast: of online load; ``None`` before there is one.
        problem: sentence about why its state cannot be read; nothing else of it is known then.
        calm_since: since when nothing new has come of what it observes.
    """

    spec: ScheduleSpec
    record: ScheduleRecord
    open_run: str | None = None
    open_status: str = ""
    open_until: datetime | None = None
    last: str = ""
    ended_at: datetime | None = None
    served: datetime | None = None
    observed: Observation = Observation()
    observed_full: Observation = Observation()
    runtime: RunDurations | None = None
    holds: tuple[RunHold, ...] = ()
    preferred: tuple[Span, ...] = ()
    forecast: LoadForecast | None = None
    problem: str | None = None
    calm_since: datetime | None = None


class PlannedRun(msgspec.Struct, frozen=True):
    """A run that is due now.

    Attributes:
        cause: why, a sentence.
        deadline: by when it is to have ended. ``late``: it is not expected to.
        full: a training from the base model, where the schedule's are deltas otherwise.
        order: the part of an asset that it makes; ``None`` where that is found when it is ordered.
        by_hand: a person begins it.
        views: those that a refresh computes, by ``view@definition_version``; none: all of its schedule's.
    """

    schedule: str
    cause: str
    deadline: datetime | None = None
    late: bool = False
    full: bool = False
    order: PartOrder | None = None
    by_hand: bool = False
    views: tuple[str, ...] = ()


Stage = Literal["waits", "runs", "paused", "refused", "due"]


class ScheduleOutlook(msgspec.Struct, frozen=True):
    """A schedule's next step, for people.

    Attributes:
        stage: ``waits`` for its conditions, ``runs`` (or its run waits in turn), is ``paused``, was ``refused`` or is
            ``due``.
        reason: a sentence. ``earliest``: when it can be due at the earliest, where a time is known.
        due: why it is due already, where it only waits for a quiet time.
        late: its run is not expected to end by its deadline.
    """

    schedule: str
    stage: Stage
    reason: str
    earliest: datetime | None = None
    deadline: datetime | None = None
    due: str | None = None
    late: bool = False


class ConductorDecision(msgspec.Struct, frozen=True):
    """The runs to order now, and the reasons of the schedules that order none."""

    orders: tuple[PlannedRun, ...]
    outlooks: tuple[ScheduleOutlook, ...]

    @property
    def next_look(self) -> datetime | None:
        """The earliest moment that a schedule waits for; one that orders now waits for its deadline, if it has one."""
        moments = (one.deadline if one.stage == "due" else one.earliest for one in self.outlooks)
        return min((moment for moment in moments if moment is not None), default=None)
