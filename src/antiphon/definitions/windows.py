"""Windows: times by the calendar in which work of some classes does not run, or had better run."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from antiphon.core.clock import parse_duration, utc
from antiphon.definitions.cron import CronTime
from antiphon.definitions.place import caller, declared
from antiphon.definitions.workflows import EXPENSIVE, WorkClass

WindowKind = Literal["blackout", "preferred"]

JOINED_AT_MOST = 1_500
"""Occurrences of a window that are joined to one where each begins before the one before has ended."""


class WindowSpec(msgspec.Struct, frozen=True):
    """A declared window as a value.

    Attributes:
        begins: the times at which it begins.
        lasts: seconds from each beginning to its end, whatever the clock does meanwhile.
        kind: in a ``blackout`` the work does not run; in a ``preferred`` window it runs sooner than outside.
        work: the classes of work that it is about.
    """

    name: str
    begins: CronTime
    lasts: float
    kind: WindowKind = "blackout"
    work: tuple[WorkClass, ...] = EXPENSIVE

    def occurrence(self, moment: datetime) -> tuple[datetime, datetime] | None:
        """Beginning and end, in UTC, of the occurrence that holds at an instant, else of the next one.

        It holds from its beginning until before its end. Occurrences of which one begins before or when another ends
        are one, so that after the end the window is surely open, or over. ``None`` when none follows within 50 years.

        Raises:
            InvalidInputError: the instant has no zone, or the window begins at no readable time.
        """
        moment, lasts = utc(moment), timedelta(seconds=self.lasts)
        begin = self.begins.before(moment)
        if begin is None or begin + lasts <= moment:
            begin = self.begins.after(moment)
            return None if begin is None else (begin, self.end_of(begin))
        end = self.end_of(begin)
        for _ in range(JOINED_AT_MOST):
            earliest = self.begins.after(begin - lasts - timedelta(microseconds=1))
            if earliest is None or earliest >= begin:
                break
            begin = earliest
        return begin, end

    def end_of(self, begin: datetime) -> datetime:
        """The end of the occurrence that begins then, with those that are joined to it (:data:`JOINED_AT_MOST`)."""
        lasts = timedelta(seconds=self.lasts)
        end = begin + lasts
        for _ in range(JOINED_AT_MOST):
            latest = self.begins.before(end)
            if latest is None or latest + lasts <= end:
                break
            end = latest + lasts
        return end


class Window:
    """A declared window: a time that begins by the calendar, in which work does not run or had better run.

    Args:
        name: lower-case letters, digits and hyphens.
        begins: a cron line in the zone, or ``cron(…)``.
        lasts: how long, from each beginning.
        zone: of the line.
        kind: ``blackout``: work of these classes does not run; ``preferred``: it runs sooner than outside.
        work: classes of work: ``refresh``, ``backfill``, ``training``, ``evaluation``, ``batch``.

    Example::

        Window("opening-hours", "0 8 * * MON-FRI", lasts="10h", zone="Europe/Berlin", work=("training",))
    """

    def __init__(
        self,
        name: str,
        begins: CronTime | str,
        *,
        lasts: str,
        zone: str = "UTC",
        kind: WindowKind = "blackout",
        work: WorkClass | tuple[WorkClass, ...] = EXPENSIVE,
    ) -> None:
        self.place = caller()
        self.name = name
        self.begins: Any = CronTime(begins, zone) if isinstance(begins, str) else begins
        self.lasts = lasts
        self.zone = zone
        self.kind = kind
        self.work = (work,) if isinstance(work, str) else tuple(work)
        declared(self)

    @property
    def spec(self) -> WindowSpec:
        """The frozen value; raises ``InvalidInputError`` when its duration is none."""
        return WindowSpec(self.name, self.begins, parse_duration(self.lasts).total_seconds(), self.kind, self.work)
