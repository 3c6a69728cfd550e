"""Times by the calendar, as cron lines in a zone.

Invariants: ``after(t) > t`` strictly, ``before(t) <= t``, both are occurrences, and no occurrence lies between them and
``t``. So ``before(after(t)) == after(t)``, in every zone and across every change of its clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from antiphon.core.clock import utc
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.conditions import Condition

_MINUTE = timedelta(minutes=1)
_FACE = datetime(2000, 1, 1)  # noqa: DTZ001 -- a time of a clock, of no zone
_FIELDS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, L (the last day) or LW (the last weekday)",
    "month": "1 to 12 or JAN to DEC",
    "day-of-week": "0 to 7 (0 and 7 are Sunday) or SUN to SAT, MON#1 (the first Monday) or 5L (the last Friday)",
}
"""Fields of a line in their order, with their values."""


_kept: dict[tuple[str, str], tuple[datetime | None, datetime | None]] = {}
_MOST_KEPT = 1_000


class CronTime(Condition, frozen=True, tag="cron"):
    """Times by the calendar: a cron line of five fields, read in the zone's local time.

    The syntax is that of Debian's cron: ``*``, lists, ranges, steps, and names of months and days. Where both days are
    named, either of them is enough. Beside it ``L`` and ``LW`` are a month's last day and last weekday, ``MON#1`` its
    first Monday, ``5L`` its last Friday.

    When the zone's clock is set, the rules are Debian's too. A line that names its times (neither minute nor hour
    begins with ``*``) fires once for each: a time that is skipped is made up for at the moment to which the clock
    jumps, and one that comes twice counts when it comes first. Any other line follows the clock: it does not fire at
    times that are skipped, and fires twice at those that come twice.

    Attributes:
        line: minute, hour, day of month, month, day of week.
        zone: name of a zone of the IANA database, such as ``Europe/Berlin``.

    Example::

        CronTime("0 3 * * MON-FRI", "Europe/Berlin").after(datetime.now(UTC))
    """

    line: str
    zone: str = "UTC"

    def mistakes(self) -> Iterator[str]:
        """Yields the mistakes of line and zone, a sentence each."""
        text = _line_mistake(self.line) if isinstance(self.line, str) else f"{self.line!r} is no text."
        if text is not None:
            yield text
        yield from zone_mistakes(self.zone)

    def after(self, moment: datetime) -> datetime | None:
        """The first occurrence later than an instant, in UTC; ``None`` when there is none within 50 years.

        Raises:
            InvalidInputError: the instant has no zone, or the line or its zone has a mistake.
        """
        zone, moment = self._checked(), utc(moment)
        wall = _wall(moment, zone)
        found: datetime | None = None
        # Within the first of two equal hours, their second follows, with times that the clock has shown.
        for face in _faces(self.line, wall - _repetition(wall, zone), reverse=False):
            later = [instant for instant in self._instants(face, zone) if instant > moment]
            found = min(later if found is None else (*later, found), default=None)
            if found is not None and face > wall:
                break
        return found

    def before(self, moment: datetime) -> datetime | None:
        """The latest occurrence at or before an instant, in UTC; ``None`` when there is none within 50 years.

        Raises:
            InvalidInputError: the instant has no zone, or the line or its zone has a mistake.
        """
        zone, moment = self._checked(), utc(moment)
        wall = _wall(moment, zone)
        # Within the second, the first was before, with times that the clock has yet to show. Reverse iteration begins
        # below its start, and occurrences are whole minutes.
        start = (wall + _repetition(wall, zone)).replace(second=0, microsecond=0) + _MINUTE
        found: datetime | None = None
        for face in _faces(self.line, start, reverse=True):
            earlier = [instant for instant in self._instants(face, zone) if instant <= moment]
            found = max(earlier if found is None else (*earlier, found), default=None)
            if found is not None and face <= wall:
                break
        return found

    def around(self, moment: datetime) -> tuple[datetime | None, datetime | None]:
        """The latest occurrence at or before an instant, and the first one later; raises as :meth:`after`.

        Between the two the answer stays the same, and is kept: it is asked for every few seconds.
        """
        key = (self.line, self.zone)
        latest, first = _kept.get(key, (None, None))
        if latest is not None and first is not None and latest <= moment < first:
            return latest, first
        found = self.before(moment), self.after(moment)
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[key] = found
        return found

    def describe(self) -> str:
        """The times in English: ``at 03:00 every day (Europe/Berlin)``; the line itself where it has a mistake."""
        if any(True for _ in self.mistakes()):
            return f"at {self.line!r} ({self.zone})"
        text = CronSim(self.line, _FACE).explain()
        return f"{text[0].lower()}{text[1:]} ({self.zone})"

    def _checked(self) -> ZoneInfo:
        for text in self.mistakes():
            raise InvalidInputError(
                f"The cron time {self.line!r}: {text}", next_step="Mend it where it is declared and apply it again."
            )
        zone = _zone_of(self.zone)
        assert zone is not None
        return zone

    def _instants(self, face: datetime, zone: ZoneInfo) -> tuple[datetime, ...]:
        """The instants at which a time of the clock that the line names counts."""
        minute, hour = self.line.split()[:2]
        named = not minute.startswith("*") and not hour.startswith("*")
        if _skipped(face, zone):
            if not named:
                return ()
            while _skipped(face, zone):
                face += _MINUTE
        first = face.replace(tzinfo=zone)
        if named or not _repetition(face, zone):
            return (first.astimezone(UTC),)
        return first.astimezone(UTC), first.replace(fold=1).astimezone(UTC)


def _faces(line: str, start: datetime, *, reverse: bool) -> Iterator[datetime]:
    """The times of the clock, without zone, that a line names: later than the start, or in reverse earlier.

    Without a zone the library knows no changes of the clock. They are resolved here, by one rule for both directions:
    begun within the second of two equal hours, its own forgets that this is the second.
    """
    try:
        yield from CronSim(line, start, reverse=reverse)
    except (OverflowError, ValueError):  # before the year 1 or after 9999
        return


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    """The zone's clock at an instant, without zone."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _turn(face: datetime, zone: ZoneInfo) -> timedelta:
    """By how much the clock is set at a time of it, back (above 0) or forward (below); 0 where it exists once
    (PEP 495)."""
    first, second = (face.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    return (first or timedelta()) - (second or timedelta())


def _repetition(face: datetime, zone: ZoneInfo) -> timedelta:
    """The time after which a time of the clock comes again; 0 where it does not."""
    return max(_turn(face, zone), timedelta())


def _skipped(face: datetime, zone: ZoneInfo) -> bool:
    return _turn(face, zone) < timedelta()


def zone_mistakes(name: object) -> Iterator[str]:
    """Yields the mistake of a name that no zone has."""
    if _zone_of(name) is None:
        yield f"{name!r} is no zone; write a name of the IANA database, such as 'Europe/Berlin' or 'UTC'."


def _zone_of(name: object) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if isinstance(name, str) else None
    except (KeyError, ValueError, OSError):  # a folder of the database is an error of the file system
        return None


@lru_cache(maxsize=1024)
def _line_mistake(line: str) -> str | None:
    parts = line.split()
    if len(parts) != len(_FIELDS):
        return (
            f"{line!r} is no cron line; write five fields: minute, hour, day of month, month and day of week, such as "
            "'0 3 * * *'."
        )
    try:
        fires = next(_faces(line, _FACE, reverse=False), None) is not None
    except CronSimError as error:
        name = str(error).removeprefix("Bad ")
        if name == "day-of-month" and _readable(" ".join((*parts[:3], "*", *parts[4:]))):
            fires = False  # it names a day that none of its months has
        else:
            place = list(_FIELDS).index(name)
            return (
                f"{line!r}: {parts[place]!r} is no {name.replace('-', ' ')}; write {_FIELDS[name]}, or *, */STEP, "
                "FIRST-LAST, or a list with commas."
            )
    return None if fires else f"{line!r} never fires: no date meets it; name days that its months have."


def _readable(line: str) -> bool:
    try:
        CronSim(line, _FACE)
    except CronSimError:
        return False
    return True
