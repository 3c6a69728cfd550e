"""Schedules: when which work of an application, or a workflow, is done.

A schedule is declared beside its application and is no part of it, so that no release changes with one. The conductor
orders the work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from antiphon.core.clock import format_duration, from_microseconds, microseconds, parse_duration
from antiphon.definitions.application import Application
from antiphon.definitions.conditions import Condition
from antiphon.definitions.cron import CronTime
from antiphon.definitions.exports import ExportWork
from antiphon.definitions.objects import is_objects
from antiphon.definitions.place import CodeLocation, caller, declared
from antiphon.definitions.source import Source
from antiphon.definitions.triggers import Trigger
from antiphon.definitions.workflows import WorkClass as WorkClass
from antiphon.definitions.workflows import WorkflowSpec, workflow_spec

_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?:\s+(\S+))?\Z", re.ASCII)


class RetrainWork(msgspec.Struct, frozen=True, tag="retrain"):
    """A training of the application's model, as ``antiphon train`` orders it.

    Attributes:
        delta: only what is new, going on from the live version.
        full_when: the condition under which one is full all the same; it counts from the last full one.
        rollout: whether the release's rollout begins when it passes its gates.
        examples: at most so many are learned from; ``None``: as the application declares.
        rows: rows that are evaluated.
        texts: so many of them are asked for the whole output.
        probes: at most so many of each half of a safety suite; ``None``: all.
    """

    delta: bool = True
    full_when: Trigger | None = None
    rollout: bool = True
    examples: int | None = None
    rows: int = 400
    texts: int = 100
    probes: int | None = None


class PrecomputeWork(msgspec.Struct, frozen=True, tag="precompute"):
    """Answers that are stored ahead, about the entities of a table.

    Attributes:
        entities: path of the table, from the root of the machine, or ``s3://BUCKET/KEY``.
        max_failed_rows: the job fails once more rows have failed; ``None``: it comes to its end.
    """

    entities: str
    max_failed_rows: int | None = None


class EvaluateWork(msgspec.Struct, frozen=True, tag="evaluate"):
    """An evaluation of the live release.

    Attributes:
        rows: rows that are evaluated.
        texts: so many of them are asked for the whole output.
    """

    rows: int = 400
    texts: int = 100


class WorkflowWork(msgspec.Struct, frozen=True, tag="workflow"):
    """A run of a workflow of the user's own, with these arguments."""

    workflow: WorkflowSpec
    arguments: dict[str, Any] = {}


class RefreshWork(msgspec.Struct, frozen=True, tag="refresh"):
    """A refresh of the views that declare one interval: a run, and so a publication, for all of them.

    Attributes:
        interval: in microseconds; its periods are counted from 1970, so that every process has the same.
        views: ``view@definition_version`` each.
    """

    interval: int
    views: tuple[str, ...]

    @property
    def schedule(self) -> str:
        """The name of the built-in schedule that orders it: ``refresh:15m``."""
        return f"refresh:{format_duration(timedelta(microseconds=self.interval))}"

    def period(self, moment: datetime) -> tuple[datetime, datetime]:
        """Begin and end of the period that a moment lies in."""
        begin = microseconds(moment) // self.interval * self.interval
        return from_microseconds(begin), from_microseconds(min(begin + self.interval, _END))


class MonitoringWork(msgspec.Struct, frozen=True, tag="monitoring"):
    """A measurement of all that is live: reports of the ``drift`` of applications, or of the ``skew`` of views between
    batch and online."""

    of: Literal["drift", "skew"]


_END = microseconds(datetime.max.replace(tzinfo=UTC))
ScheduledWork = RetrainWork | PrecomputeWork | EvaluateWork | WorkflowWork | ExportWork | RefreshWork | MonitoringWork
_CLASSES: dict[type, WorkClass] = {
    RefreshWork: "refresh",
    MonitoringWork: "evaluation",
    RetrainWork: "training",
    PrecomputeWork: "batch",
    EvaluateWork: "evaluation",
    ExportWork: "batch",
}


class ScheduleSpec(msgspec.Struct, frozen=True):
    """A schedule, declared or built in, as a value. Durations are in seconds.

    Attributes:
        application: what it is of; empty for a workflow of no application, and for an export of a view.
        when: the condition under which the work is due; ``None`` where ``ready_by`` is given, or it is begun by hand.
        ready_by: deadlines, by which the work has been done; it begins so long before that it will be.
        lead: how long before a deadline it begins while its duration is not known from earlier runs.
        within: how long it may wait for a quiet time once it is due.
        settle: it is not ordered sooner than this after the last one ended.
        catch_up: a time that was missed for longer is not made up for.
        value: what its work is worth beside other background work.
        debounce: what arrives counts as one once nothing new came for so long.
    """

    name: str
    application: str
    work: ScheduledWork
    when: Trigger | None = None
    ready_by: CronTime | None = None
    lead: float = 0.0
    within: float = 0.0
    settle: float = 0.0
    catch_up: float = 0.0
    value: float = 1.0
    debounce: float = 0.0

    @property
    def work_class(self) -> WorkClass:
        """The class of its work, by which windows hold it."""
        return self.work.workflow.work if isinstance(self.work, WorkflowWork) else _CLASSES[type(self.work)]


class DeclaredSchedule:
    """A declared schedule: :class:`Retrain`, :class:`Precompute`, :class:`Evaluate`, ``Export``, or
    :class:`Schedule` of a workflow."""

    def __init__(
        self,
        place: CodeLocation,
        verb: str,
        application: Application | str,
        work: ScheduledWork,
        *,
        name: str | None,
        when: Condition | None,
        settle: str,
        catch_up: str,
        ready_by: str | CronTime | None = None,
        lead: str | None = None,
        within: str | None = None,
        value: float = 1.0,
        debounce: str | None = None,
    ) -> None:
        self.place = place
        self.application: Any = application
        self.application_name = application if isinstance(application, str) else str(getattr(application, "name", ""))
        self.name = f"{verb}-{self.application_name}" if name is None else name
        self.work = work
        self.when = when
        self.ready_by = ready_by
        self.deadline = time_of_day(ready_by) if isinstance(ready_by, str) else ready_by
        self.lead = lead
        self.within = within
        self.settle = settle
        self.catch_up = catch_up
        self.value = value
        self.debounce = debounce
        declared(self)

    def spec(self, root: Path | None = None) -> ScheduleSpec:
        """The frozen value; ``root`` is where a relative path starts. A project checks it before
        (``schedules_check``); raises ``InvalidInputError`` when a duration is none."""
        return ScheduleSpec(
            name=self.name,
            application=self.application_name,
            work=self._rooted(root),
            when=cast(Trigger | None, self.when),
            ready_by=self.deadline,
            lead=0.0 if self.lead is None else parse_duration(self.lead).total_seconds(),
            within=0.0 if self.within is None else parse_duration(self.within).total_seconds(),
            settle=parse_duration(self.settle).total_seconds(),
            catch_up=parse_duration(self.catch_up).total_seconds(),
            value=float(self.value),
            debounce=0.0 if self.debounce is None else parse_duration(self.debounce).total_seconds(),
        )

    def _rooted(self, root: Path | None) -> ScheduledWork:
        work = self.work
        if root is None:
            return work
        if isinstance(work, ExportWork):
            return work.rooted(root)
        if not isinstance(work, PrecomputeWork) or is_objects(work.entities):
            return work
        return msgspec.structs.replace(work, entities=str(root / work.entities))


class Retrain(DeclaredSchedule):
    """A schedule of trainings: the application's model learns when a condition holds.

    Each is a run of its own as ``antiphon train`` orders it, with an evaluation and gates, and makes nothing live that
    does not pass.

    Args:
        application: one with a :class:`FineTune` and an :class:`Outcome`, or its name.
        when: the condition under which a training is due, such as ``outcomes(500) | every("7d")``.
        name: of the schedule; ``retrain-APPLICATION`` by default.
        delta: only what is new is learned, going on from the live version.
        full_when: a condition under which everything is learned anew all the same, such as ``every("30d")``.
        rollout: the release's rollout begins when it passes its gates.
        examples: at most so many are learned from; by default as the application declares.
        rows, texts: of the evaluation: rows, and how many of them are asked for the whole output.
        probes: at most so many probes of each half of a safety suite; all by default.
        within: how long it may wait, once it is due, for a time at which few requests are expected; not at all by
            default.
        settle: none is ordered sooner than this after the last one ended.
        catch_up: a time that was missed for longer, while nothing ran, is not made up for.
        value: what its work is worth beside other background work, whose value is 1 unless it says otherwise: its share
            of the machine's idle time, and of the wait for a slot that it counts for, are so many times as large.
        debounce: what arrives in a burst counts as one: what is due by it is ordered once nothing new came for so
            long, or ten times so long after it was due. Times are not waited after.

    Example::

        Retrain(triage, when=outcomes(500) | drift(), full_when=every("30d"))
    """

    def __init__(
        self,
        application: Application | str,
        *,
        when: Condition,
        name: str | None = None,
        delta: bool = True,
        full_when: Condition | None = None,
        rollout: bool = True,
        examples: int | None = None,
        rows: int = 400,
        texts: int = 100,
        probes: int | None = None,
        within: str | None = None,
        settle: str = "10m",
        catch_up: str = "7d",
        value: float = 1.0,
        debounce: str | None = None,
    ) -> None:
        work = RetrainWork(delta, cast(Trigger | None, full_when), rollout, examples, rows, texts, probes)
        super().__init__(
            caller(), "retrain", application, work,
            name=name, when=when, within=within, settle=settle, catch_up=catch_up, value=value,
            debounce=debounce,
        )  # fmt: skip


class Precompute(DeclaredSchedule):
    """A schedule of stored answers: those about the entities of a table are made ahead, or made anew where their
    figures have changed.

    Args:
        application: the application that answers, or its name.
        entities: table of the entities, a row each, with their key columns: a path from the project's folder, or a
            :meth:`Source.table` of files, whose path is taken.
        name: of the schedule; ``precompute-APPLICATION`` by default.
        when: the condition under which the work is due; or else
        ready_by: the time of every day by which it has been done, ``"06:00 Europe/Berlin"`` (without a zone UTC), or
            other deadlines as ``cron(…)``.
        lead: how long before a deadline it begins, while its duration is not known from earlier runs.
        settle, catch_up, value, debounce: as of :class:`Retrain`.
        max_failed_rows: the job fails once more rows have failed.

    Example::

        Precompute(triage, entities="customers.csv", ready_by="06:00 Europe/Berlin")
    """

    def __init__(
        self,
        application: Application | str,
        *,
        entities: str | Source,
        name: str | None = None,
        when: Condition | None = None,
        ready_by: str | CronTime | None = None,
        lead: str = "1h",
        settle: str = "1m",
        catch_up: str = "6h",
        value: float = 1.0,
        debounce: str | None = None,
        max_failed_rows: int | None = None,
    ) -> None:
        self.entities = entities
        path: Any = entities.options.get("path") if isinstance(entities, Source) else entities
        super().__init__(
            caller(), "precompute", application, PrecomputeWork(path, max_failed_rows),
            name=name, when=when, ready_by=ready_by, lead=lead, settle=settle, catch_up=catch_up, value=value,
            debounce=debounce,
        )  # fmt: skip


def answers_key(schedule: str, application: str) -> str:
    """The key of the answers that a :class:`Precompute` stores; a name of its own is a part of it."""
    return f"answers/{application}" if schedule == f"precompute-{application}" else f"answers/{application}/{schedule}"


class Evaluate(DeclaredSchedule):
    """A schedule of evaluations: the live release is measured anew.

    Args:
        application: the application, or its name.
        when: the condition under which an evaluation is due, such as ``outcomes(1000)``.
        name: of the schedule; ``evaluate-APPLICATION`` by default.
        rows, texts, within, settle, catch_up, value, debounce: as of :class:`Retrain`.
    """

    def __init__(
        self,
        application: Application | str,
        *,
        when: Condition,
        name: str | None = None,
        rows: int = 400,
        texts: int = 100,
        within: str | None = None,
        settle: str = "10m",
        catch_up: str = "1d",
        value: float = 1.0,
        debounce: str | None = None,
    ) -> None:
        super().__init__(
            caller(), "evaluate", application, EvaluateWork(rows, texts),
            name=name, when=when, within=within, settle=settle, catch_up=catch_up, value=value,
            debounce=debounce,
        )  # fmt: skip


class Schedule(DeclaredSchedule):
    """A schedule of a workflow of the user's own: a function under :func:`workflow`.

    Args:
        function: the workflow.
        when: the condition under which it is due; without one, or ``ready_by``, it is begun by hand:
            ``antiphon schedules run NAME --reason …``.
        arguments: what the function is called with, beside its run.
        application: whose outcomes and drift a condition speaks of.
        name: of the schedule; the workflow's by default.
        ready_by, lead: as of :class:`Precompute`. within, settle, catch_up, value, debounce: as of :class:`Retrain`.

    Example::

        Schedule(nightly_report, when=cron("0 3 * * *"), arguments={"days": 7})
    """

    def __init__(
        self,
        function: Any,
        *,
        when: Condition | None = None,
        arguments: Mapping[str, Any] | None = None,
        application: Application | str = "",
        name: str | None = None,
        ready_by: str | CronTime | None = None,
        lead: str = "1h",
        within: str | None = None,
        settle: str = "1m",
        catch_up: str = "1d",
        value: float = 1.0,
        debounce: str | None = None,
    ) -> None:
        self.function = function
        found = workflow_spec(function)
        named = name or (found.name.replace("_", "-") if found is not None else "")
        work = WorkflowWork(found or WorkflowSpec("", ""), dict(arguments or {}))
        super().__init__(
            caller(), "", application, work, name=named, when=when, ready_by=ready_by, lead=lead, within=within,
            settle=settle, catch_up=catch_up, value=value,
            debounce=debounce,
        )  # fmt: skip


def time_of_day(text: str) -> CronTime | None:
    """Every day's time: ``06:00 Europe/Berlin``, without a zone UTC; ``None`` when the text is none."""
    found = _TIME_OF_DAY.match(text.strip())
    if found is None:
        return None
    hour, minute, zone = found.groups()
    return CronTime(f"{int(minute)} {int(hour)} * * *", zone or "UTC")
