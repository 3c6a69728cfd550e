"""Schedules, windows and freezes of one project, as people read and move them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import get_args

from antiphon.catalog.run_holds import HoldKind, RunHold
from antiphon.catalog.schedules import ScheduleRecord
from antiphon.core.clock import parse_duration, utc
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.definitions.schedules import WorkClass
from antiphon.definitions.workflows import EXPENSIVE
from antiphon.services.conducting.built_in_schedules import all_schedules
from antiphon.services.conducting.schedule_lines import ScheduleLine, schedule_lines
from antiphon.services.conducting.traffic import HourlyLoad, TrafficForecasts, hourly_forecast
from antiphon.services.conducting.upcoming import UpcomingWork, upcoming_work
from antiphon.services.conducting.windows import AHEAD, WindowOccurrence, held_workflows, occurrences
from antiphon.services.project.store import Store
from antiphon.services.workflows import WORK

MOST_SLOTS = 64

LONGEST = timedelta(days=90)
"""A freeze or pause lasts so long at most: one that is forgotten ends."""


class ProjectSchedules:
    """Schedules, windows and freezes of one tenant in one project's environment."""

    def __init__(self, store: Store, scope: Scope, traffic: TrafficForecasts | None = None) -> None:
        self._store = store
        self._scope = scope
        self._traffic = traffic or TrafficForecasts(store)

    def list(self) -> tuple[ScheduleLine, ...]:
        """Every schedule that is applied or built in, with what it waits for."""
        return schedule_lines(self._store, self._scope, self._store.applied.project(self._scope), self._traffic)

    def pause(self, principal: str, name: str, reason: str, until: datetime) -> ScheduleRecord:
        """Keep a schedule from ordering anything until a moment; a run that it ordered goes on. It is on record.

        Raises:
            NotFoundError: no schedule of this name is applied.
            InvalidInputError: no reason, or a moment that is past or too far away.
        """
        self._require(name)
        until = self._checked(until, reason)
        store = self._store
        with store.database.transaction() as connection:
            record = store.schedules.pause(self._scope, name, principal, reason, until, within=connection)
            detail = {"reason": reason, "until": until.isoformat()}
            store.audit.append(self._scope, principal, "schedule.pause", name, detail, within=connection)
        return record

    def resume(self, principal: str, name: str) -> ScheduleRecord:
        """End a schedule's pause; raises ``NotFoundError`` when no schedule of this name is applied."""
        self._require(name)
        store = self._store
        with store.database.transaction() as connection:
            record = store.schedules.resume(self._scope, name, within=connection)
            store.audit.append(self._scope, principal, "schedule.resume", name, within=connection)
        return record

    def freeze(
        self, principal: str, reason: str, until: datetime, work: Sequence[str] = (), begins: datetime | None = None,
        *, slots: int = 0,
    ) -> RunHold:  # fmt: skip
        """Let no run of these classes of work begin until a moment, and have those under way given back. It is on
        record, and ends by itself.

        Args:
            slots: so many of these runs may be under way at once, which makes it a limit.

        Raises:
            InvalidInputError: an unknown class, no reason, a moment that is past or too far away, or too many slots.
        """
        store, now = self._store, self._now()
        classes = tuple(dict.fromkeys(_work_class(one) for one in work)) or EXPENSIVE
        start, end = max(now, utc(begins)) if begins is not None else now, self._checked(until, reason)
        if end <= start:
            raise InvalidInputError(
                "The freeze ends before it begins.", where="--until", next_step="Name a later time."
            )
        if not 0 <= slots <= MOST_SLOTS:
            raise InvalidInputError(
                f"A limit leaves from 1 to {MOST_SLOTS} slots.", where="slots", next_step="Name a number of them."
            )
        kind: HoldKind = "limit" if slots else "freeze"
        name = new_id(kind)
        hold = RunHold(name, kind, name, held_workflows(classes), start, end, reason, principal, slots)
        with store.database.transaction() as connection:
            store.run_holds.add(self._scope, hold, within=connection)
            detail = {"reason": reason, "until": end.isoformat(), "work": " ".join(classes)}
            detail |= {"slots": str(slots)} if slots else {}
            store.audit.append(self._scope, principal, f"{kind}.begin", name, detail, within=connection)
        return hold

    def thaw(self, principal: str, hold: str) -> RunHold:
        """End a freeze or limit before its time; raises ``NotFoundError`` when there is none of this id, and
        ``InvalidInputError`` for a window, which is declared."""
        store = self._store
        with store.database.transaction() as connection:
            lasting = store.run_holds.lasting(self._scope, limits=True, within=connection)
            found = next((one for one in lasting if one.id == hold), None)
            if found is not None and found.kind == "window":
                raise InvalidInputError(
                    f"{found.name} is a declared window.",
                    where=hold,
                    next_step="Change it in definitions.py, or let one run go: `antiphon runs exempt RUN --reason …`.",
                )
            ended = store.run_holds.end(self._scope, hold, within=connection)
            store.audit.append(self._scope, principal, f"{ended.kind}.end", hold, within=connection)
        return ended

    def holds(self) -> tuple[RunHold, ...]:
        """Freezes, limits and windows that are not over."""
        return self._store.run_holds.lasting(self._scope, limits=True)

    def windows(self, until: datetime | None = None) -> tuple[WindowOccurrence, ...]:
        """The declared windows as they come, until a moment (three days from now by default)."""
        now = self._now()
        project = self._store.applied.project(self._scope)
        found = [one for spec in project.windows.values() for one in occurrences(spec, now, until or now + AHEAD)]
        return tuple(sorted(found, key=lambda one: (one.begins, one.window.name)))

    def upcoming(self) -> tuple[UpcomingWork, ...]:
        """Work that is under way and to come, in the order in which it can begin."""
        return upcoming_work(self._store, self._scope, self._traffic)

    def forecast(self, hours: int = 24) -> tuple[HourlyLoad, ...]:
        """Requests that each hour from now on is expected to bring; none before there was a day of them."""
        return hourly_forecast(self._store, self._scope, hours, self._traffic)

    def exempt(self, principal: str, run: str, reason: str) -> None:
        """Let one run go past freezes and windows, on record; raises ``NotFoundError`` when there is none of this
        id."""
        store = self._store
        if not reason.strip():
            raise InvalidInputError("A run is exempted for a reason.", where="--reason", next_step="Say why.")
        with store.database.transaction() as connection:
            store.runs.exempt(self._scope, run, principal, within=connection)
            store.audit.append(self._scope, principal, "run.exempt", run, {"reason": reason}, within=connection)

    def _require(self, name: str) -> None:
        known = all_schedules(self._store, self._scope, self._store.applied.project(self._scope))
        if name not in known:
            raise NotFoundError(
                f"There is no schedule {name!r}.",
                where=str(self._scope),
                next_step=nearest(name, known, "`antiphon schedules list` shows those that are applied."),
            )
        self._store.schedules.enroll(self._scope, [name])

    def _checked(self, until: datetime, reason: str) -> datetime:
        now, end = self._now(), utc(until)
        if not reason.strip():
            raise InvalidInputError("A pause or freeze has a reason.", where="--reason", next_step="Say why.")
        if not now < end <= now + LONGEST:
            raise InvalidInputError(
                f"{end:%Y-%m-%d %H:%M}Z is {'past' if end <= now else f'more than {LONGEST.days} days away'}.",
                where="--until",
                next_step="Name a later time." if end <= now else "Name an earlier time; it can be prolonged.",
            )
        return end

    def _now(self) -> datetime:
        return self._store.database.clock.now()


def until_of(until: str, duration: str, now: datetime) -> datetime:
    """The moment that ``--until`` or ``--for`` names.

    Raises:
        InvalidInputError: neither or both are given, or one is malformed.
    """
    if bool(until) == bool(duration):
        raise InvalidInputError(
            "A pause or freeze ends at some time.",
            where="--until",
            next_step="Give either --until 2026-12-24T18:00Z or --for 2h.",
        )
    if duration:
        return now + parse_duration(duration)
    try:
        moment = datetime.fromisoformat(until)
    except ValueError:
        raise InvalidInputError(
            f"{until!r} is no time.", where="--until", next_step="Write 2026-12-24T18:00+01:00."
        ) from None
    if moment.tzinfo is None:
        raise InvalidInputError(
            f"{until!r} has no zone.", where="--until", next_step="Write 2026-12-24T18:00+01:00, or Z for UTC."
        )
    return moment


def _work_class(name: str) -> WorkClass:
    for known in WORK:
        if name == known:
            return known
    raise InvalidInputError(
        f"There is no class of work {name!r}.",
        where="--work",
        next_step=f"Choose some of {', '.join(get_args(WorkClass))}.",
    )
