"""Checks of declared schedules and windows, made without running anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import Application
from antiphon.definitions.cron import CronTime
from antiphon.definitions.export_schedules import Export
from antiphon.definitions.exports import ExportWork, export_mistakes
from antiphon.definitions.feature import duration_mistakes
from antiphon.definitions.learning import Gates, needed_rows
from antiphon.definitions.objects import is_objects
from antiphon.definitions.outcome_shape import shape_of
from antiphon.definitions.schedules import (
    DeclaredSchedule,
    EvaluateWork,
    Precompute,
    PrecomputeWork,
    RetrainWork,
    Schedule,
    WorkClass,
    WorkflowWork,
)
from antiphon.definitions.source import Source
from antiphon.definitions.triggers import (
    ForgettingLimit,
    NewDrift,
    NewOutcomes,
    NewRequests,
    describe,
    is_timed,
    needs,
    simple_triggers,
    trigger_mistakes,
)
from antiphon.definitions.windows import Window, WindowKind, WindowSpec
from antiphon.definitions.workflows import workflow_mistakes

_FROM = datetime(2026, 1, 1, tzinfo=UTC)
"""Calendars are tried from here on, whatever the day is, so that the same file has the same mistakes tomorrow."""

_TRIED = [_FROM + number * timedelta(days=9, hours=7) for number in range(40)]
"""Moments of a year, of every day of the week, whose next deadline is tried."""

_EXCEPTIONS = 2
"""Deadlines among them before which there may be time all the same: a clock that is set twice a year lends an hour."""

_VALUES = (0.01, 100.0)
_ENDLESS = timedelta(days=31)
_LEAST = {"examples": 1, "rows": 1, "texts": 1, "probes": 1, "max_failed_rows": 0}
_OPTIONAL: dict[type, tuple[str, ...]] = {
    RetrainWork: ("examples", "probes"),
    PrecomputeWork: ("max_failed_rows",),
    EvaluateWork: (),
    WorkflowWork: (),
    ExportWork: (),
}
_BATCH: WorkClass = "batch"


def window_mistakes(window: Window) -> Iterator[str]:
    """Yields the mistakes of a window, a sentence each."""
    label = f"window {window.name!r}"
    yield from (f"{label}: {text}" for text in (*_name_mistakes(window.name), *_window_mistakes(window)))


def _window_mistakes(window: Window) -> Iterator[str]:
    known = get_args(WorkClass)
    if window.kind not in get_args(WindowKind):
        yield f"kind {window.kind!r} is none; write 'blackout' or 'preferred'."
    if not window.work:
        yield f"work names no class of work; write some of {', '.join(known)}."
    for name in window.work:
        if name not in known:
            yield f"{name!r} is no class of work; there are {', '.join(known)}."
    wrong = list(duration_mistakes(window.lasts, "lasts"))
    if not isinstance(window.begins, CronTime):
        wrong.append(f"begins must be a cron line such as '0 22 * * *', not {window.begins!r}.")
    else:
        wrong += window.begins.mistakes()
        if window.zone not in ("UTC", window.begins.zone):
            wrong.append(f"begins has the zone {window.begins.zone!r} of its own; leave zone={window.zone!r} out.")
    yield from wrong
    if wrong:
        return
    if parse_duration(window.lasts) < timedelta(minutes=1):
        yield f"it lasts {window.lasts}; write a minute or more."
    elif _never_ends(window.spec):
        yield (
            f"it never ends: it lasts {window.lasts} and begins again before that is over. Write a shorter time; in "
            "place of an endless blackout leave the schedules out, and an endless preferred window prefers nothing."
        )


def _never_ends(spec: WindowSpec) -> bool:
    """Tells whether its occurrences join to one of more than a month beside its own length."""
    begin = spec.begins.after(_FROM)
    if begin is None:
        return False
    lasts, end = timedelta(seconds=spec.lasts), spec.end_of(begin)
    # What was joined as often as it may be would go on.
    return end - begin > lasts + _ENDLESS or (spec.begins.before(end) or begin) + lasts > end


def schedule_mistakes(
    schedule: DeclaredSchedule,
    applications: Mapping[str, Application],
    views: Set[str],
    blackouts: Sequence[WindowSpec] = (),
    learning: Set[str] = frozenset(),
) -> Iterator[str]:
    """Yields the mistakes of a schedule, a sentence each.

    Args:
        applications: the project's, by name.
        views: names of its feature views and documents.
        blackouts: those of its windows that are blackouts and have no mistake.
        learning: names of applications whose forgetting is measured (:func:`measured_applications`).
    """
    label = f"schedule {schedule.name!r}"
    found = (
        *_name_mistakes(schedule.name),
        *(_workflow_mistakes(schedule) if isinstance(schedule, Schedule) else ()),
        *(_export_mistakes(schedule, applications, views) if isinstance(schedule, Export) else ()),
        *(_application_mistakes(schedule, applications, learning) if _has_application(schedule) else ()),
        *_time_mistakes(schedule, views),
        *_work_mistakes(schedule, views),
    )
    yield from (f"{label}: {text}" for text in found or _deadline_mistakes(schedule, blackouts))


def _name_mistakes(name: object) -> Iterator[str]:
    if not isinstance(name, str) or not name or not name.replace("-", "").isalnum() or name != name.lower():
        yield "a name is lower-case letters, digits and hyphens."


def measured_applications(schedules: Iterable[object]) -> frozenset[str]:
    """Names of applications that schedules train from what is new, which measures what they forget."""
    return frozenset(
        one.application_name
        for one in schedules
        if isinstance(one, DeclaredSchedule)
        and isinstance(one.work, RetrainWork)
        and one.work.delta
        and not needs(one.when, ForgettingLimit)
    )


def _application_mistakes(
    schedule: DeclaredSchedule, applications: Mapping[str, Application], learning: Set[str]
) -> Iterator[str]:
    given = schedule.application
    if not isinstance(given, Application | str):
        yield f"{given!r} is no Application; name one of this project."
        return
    application = applications.get(schedule.application_name)
    if application is None:
        there = ", ".join(sorted(applications)) or "none"
        yield f"the project declares no application {schedule.application_name!r}; there are {there}."
        return
    if isinstance(schedule.work, RetrainWork):
        if application.fine_tune is None:
            yield f"{application.name!r} is not fine-tuned; declare model=FineTune(…), or leave the schedule out."
        if application.outcome is None:
            yield f"{application.name!r} has no outcome to learn from; declare outcome=Outcome(…)."
        yield from _row_mistakes(schedule.work, application)
    elif application.outcome is None and _counts_outcomes(schedule):
        yield f"when: {application.name!r} has no outcome that could arrive; declare outcome=Outcome(…)."
    yield from _forgetting_mistakes(schedule, application, learning)


def _row_mistakes(work: RetrainWork, application: Application) -> Iterator[str]:
    """Yields evaluations of fewer rows than the gates ask for, which no version passes."""
    gates: Any = application.gates
    if not isinstance(gates, Gates) or not isinstance(work.rows, int):  # Another check tells of it.
        return
    needed = needed_rows(gates, application.ungated or None, first=False)
    if work.rollout and work.rows < needed:
        yield (
            f"rows: the gates of {application.name!r} ask for {needed}, so with {work.rows} no version is ever rolled "
            "out; write more, Gates(rows=…) with fewer, or rollout=False."
        )


def _forgetting_mistakes(schedule: DeclaredSchedule, application: Application, learning: Set[str]) -> Iterator[str]:
    """Yields conditions on forgetting that cannot come, or whose bound is never exceeded."""
    retrain = schedule.work if isinstance(schedule.work, RetrainWork) else None
    when = _forgettings(schedule.when)
    if when and retrain is not None and retrain.delta:
        yield (
            "when: another training from what is new would forget more; write full_when=forgetting(…), so that all is "
            "learned anew."
        )
    elif when and application.outcome is None:
        if retrain is None:
            yield f"when: {application.name!r} has no outcome, so what it forgets is not measured."
    elif when and application.name not in learning:
        yield (
            f"when: no schedule trains {application.name!r} from what is new, which measures what it forgets; declare "
            "a Retrain(…) with another condition."
        )
    span = _span(application)
    full_when = None if retrain is None else _forgettings(retrain.full_when)
    for label, found in (("when", when), ("full_when", full_when)):
        for one in found or ():
            if span is not None and isinstance(one.bound, int | float) and one.bound >= span[1]:
                yield f"{label}: forgetting({one.bound:g}) never comes: {span[0]} is within {span[1]:g}."


def _forgettings(trigger: Any) -> list[ForgettingLimit]:
    return [one for one in simple_triggers(trigger) if isinstance(one, ForgettingLimit)]


def _span(application: Application) -> tuple[str, float] | None:
    """The metric in which an application forgets and how far its values are apart; ``None`` where that is unknown."""
    outcome: Any = application.outcome
    try:
        shape = shape_of(outcome.property, outcome.positive, outcome.name or "", application.output)
    except (AttributeError, InvalidInputError):  # Another check tells of it.
        return None
    return shape.deciding_title, shape.span


def _has_application(schedule: DeclaredSchedule) -> bool:
    return not isinstance(schedule, Schedule | Export) or schedule.application != ""


def _export_mistakes(schedule: Export, applications: Mapping[str, Application], views: Set[str]) -> Iterator[str]:
    assert isinstance(schedule.work, ExportWork)
    yield from export_mistakes(schedule.work, schedule.source, applications, views)
    yield from _applicationless_mistakes(schedule)


def _workflow_mistakes(schedule: Schedule) -> Iterator[str]:
    arguments = schedule.work.arguments if isinstance(schedule.work, WorkflowWork) else {}
    yield from workflow_mistakes(schedule.function, arguments)
    yield from _applicationless_mistakes(schedule)


def _applicationless_mistakes(schedule: DeclaredSchedule) -> Iterator[str]:
    """Yields conditions of an application, of a schedule that has none."""
    if not _has_application(schedule) and schedule.when is not None:
        for one in simple_triggers(schedule.when):
            if isinstance(one, NewOutcomes | NewRequests | NewDrift | ForgettingLimit):
                advice = "write published(…)" if isinstance(schedule, Export) else "give application=…"
                yield f"when: {describe(one)} is of an application; {advice}"


def _counts_outcomes(schedule: DeclaredSchedule) -> bool:
    return schedule.when is not None and any(isinstance(one, NewOutcomes) for one in simple_triggers(schedule.when))


def _time_mistakes(schedule: DeclaredSchedule, views: Set[str]) -> Iterator[str]:
    if isinstance(schedule, Schedule):
        if schedule.when is not None and schedule.ready_by is not None:
            yield "give when or ready_by, or neither, and not both."
    elif isinstance(schedule, Precompute):
        if (schedule.when is None) == (schedule.ready_by is None):
            yield "give when or ready_by, and not both."
    elif schedule.when is None and not isinstance(schedule, Export):
        yield "give when, such as every('7d')."
    if schedule.when is not None:
        yield from trigger_mistakes(schedule.when, "when", views)
    if schedule.ready_by is not None:
        if isinstance(schedule.deadline, CronTime):
            yield from (f"ready_by: {text}" for text in schedule.deadline.mistakes())
        else:
            yield (
                f"ready_by: {schedule.ready_by!r} is no time of day; write hours, minutes and a zone, such as "
                "'06:00 Europe/Berlin', or cron('0 6 * * MON-FRI')."
            )
    if schedule.debounce is not None and (schedule.when is None or is_timed(schedule.when)):
        yield "debounce: times do not come in bursts; leave it out, or name in when what arrives."
    for option in ("lead", "within", "settle", "catch_up", "debounce"):
        if getattr(schedule, option) is not None:
            yield from duration_mistakes(getattr(schedule, option), option)


def _work_mistakes(schedule: DeclaredSchedule, views: Set[str]) -> Iterator[str]:
    work, worth = schedule.work, schedule.value
    if not isinstance(worth, int | float) or isinstance(worth, bool) or not _VALUES[0] <= worth <= _VALUES[1]:
        yield f"value is a number from {_VALUES[0]:g} to {_VALUES[1]:g}, where 1 is that of other work, not {worth!r}."
    for name, least in _LEAST.items():
        value = getattr(work, name, None)
        if value is None and (name in _OPTIONAL[type(work)] or not hasattr(work, name)):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            yield f"{name} is a whole number from {least}, not {value!r}."
    if isinstance(work, RetrainWork):
        for name in ("delta", "rollout"):
            if not isinstance(getattr(work, name), bool):
                yield f"{name} is True or False, not {getattr(work, name)!r}."
        if work.full_when is not None:
            yield from trigger_mistakes(work.full_when, "full_when", views)
            if work.delta is False:
                yield "full_when: without delta every training is a full one; leave one of the two out."
    if isinstance(schedule, Precompute):
        yield from _entities_mistakes(schedule.entities)


def _entities_mistakes(entities: object) -> Iterator[str]:
    """A job reads one file, whole; a source may be more than that."""
    if isinstance(entities, Source):
        options = entities.options
        if entities.kind != "table" or options.get("path") is None:
            yield f"entities: the source {entities.name!r} is no table of files; name the path of a file."
            return
        if options.get("where") is not None:
            yield f"entities: a job reads every row, and {entities.name!r} has a condition; name the path of a file."
        entities = options["path"]
    if not isinstance(entities, str) or not entities:
        yield f"entities: {entities!r} is neither the path of a table nor a Source.table."
    elif any(sign in entities for sign in "*?") and not is_objects(entities):
        yield f"entities: {entities!r} is a pattern; name one file."


def _deadline_mistakes(schedule: DeclaredSchedule, blackouts: Sequence[WindowSpec]) -> Iterator[str]:
    """Yields the mistake of deadlines before which there is hardly ever time for the lead."""
    if schedule.deadline is None or schedule.lead is None:
        return
    lead = parse_duration(schedule.lead)
    held = [window for window in blackouts if _BATCH in window.work]
    if not _lead_is_had(schedule.deadline, lead, ()):
        yield f"ready_by: the lead of {schedule.lead} is longer than the time from one deadline to the next."
    elif not _lead_is_had(schedule.deadline, lead, held):
        names = ", ".join(window.name for window in held)
        yield (
            f"ready_by: blackouts of batch work ({names}) leave less than the lead of {schedule.lead} before each "
            "deadline; end them earlier, or write a later deadline or a shorter lead."
        )


def _lead_is_had(deadlines: CronTime, lead: timedelta, blackouts: Sequence[WindowSpec]) -> bool:
    """Tells whether from one deadline to the next so much time is outside of every blackout, at least now and then."""
    found = 0
    for moment in _TRIED:
        begin = deadlines.after(moment)
        end = None if begin is None else deadlines.after(begin)
        if begin is not None and end is not None:
            found += _open_time(begin, end, blackouts, enough=lead) >= lead
        if found > _EXCEPTIONS:
            return True
    return False


def _open_time(begin: datetime, end: datetime, blackouts: Sequence[WindowSpec], *, enough: timedelta) -> timedelta:
    """The time between two instants that is outside of every blackout, counted until it is enough."""
    found, at = timedelta(), begin
    while at < end and found < enough:
        spans = [span for window in blackouts if (span := window.occurrence(at)) is not None]
        if holding := [until for since, until in spans if since <= at]:
            at = max(holding)
            continue
        until = min([end, *(since for since, _ in spans)])
        found, at = found + (until - at), until
    return found
