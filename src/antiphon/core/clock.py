"""Time is injected. Wall time drives leases, expiry and audit; a request's ``as_of`` drives features."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from antiphon.core.errors import InvalidInputError


class Clock(Protocol):
    """Source of the wall time: :class:`SystemClock`, or :class:`ManualClock` in simulations."""

    def now(self) -> datetime:
        """The wall time, in UTC with zone."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for durations and leases inside one process."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that is moved by hand, for tests and replays."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._elapsed = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def set(self, now: datetime) -> None:
        """Set the wall time, as an operator or a time server does; the monotonic reading stays."""
        self._now = now

    def advance(self, by: timedelta) -> None:
        """Move both readings forward.

        Raises:
            InvalidInputError: ``by`` is negative.
        """
        if by < timedelta(0):
            raise InvalidInputError("A clock does not go back.")
        self._now += by
        self._elapsed += by.total_seconds()


class ClockAgreement:
    """Measures for how long the wall clock has moved as the monotonic one does.

    What is deleted because of its age is deleted for good, and a wall clock may be set to any time: an age is believed
    once the clock has not been set for a while. Looks need not be regular; what moved away and came back between two of
    them is not seen, and then the clock is right.
    """

    TOLERANCE = 60.0
    """Seconds by which both may come apart: clocks are slewed, and machines sleep for a moment."""

    def __init__(self, clock: Clock, elapsed: Callable[[], float] | None = None) -> None:
        """``elapsed``: seconds that never go back; :func:`seconds_since_boot` where machines may be suspended."""
        self._clock = clock
        self._elapsed = elapsed or clock.monotonic
        self._since = self._elapsed()
        self._apart = self._offset()

    def seconds(self) -> float:
        """For how long (monotonic) both have agreed, as of now; 0 when the clock was set since the last look."""
        offset = self._offset()
        if abs(offset - self._apart) > self.TOLERANCE:
            self._apart, self._since = offset, self._elapsed()
        return self._elapsed() - self._since

    def _offset(self) -> float:
        return self._clock.now().timestamp() - self._elapsed()


def seconds_since_boot() -> float:
    """Seconds that never go back and go on while the machine is suspended, where it can tell them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def utc(moment: datetime) -> datetime:
    """The same instant in UTC.

    Raises:
        InvalidInputError: the moment has no time zone, so it names no instant; or in UTC it is before year 1 or after
            9999.
    """
    if moment.tzinfo is None:
        raise InvalidInputError(
            f"{moment.isoformat()} has no time zone.", next_step="Write it with an offset, e.g. +00:00."
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidInputError(
            f"{moment.isoformat()} is no time in UTC.", next_step="Write a time between the years 1 and 9999 in UTC."
        ) from None


def to_the_minute(moment: datetime) -> str:
    """A moment in UTC as people read it in a sentence: ``2026-06-01 12:00Z``."""
    return f"{moment:%Y-%m-%d %H:%M}Z"


def microseconds(moment: datetime) -> int:
    """Whole microseconds since 1970-01-01 UTC: how instants are stored and compared."""
    delta = utc(moment) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_microseconds(value: int) -> datetime:
    """The inverse of :func:`microseconds`."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)


def parse_duration(text: str) -> timedelta:
    """Read ``"90s"``, ``"15m"``, ``"2h"``, ``"28d"`` (also ``"250ms"``).

    Raises:
        InvalidInputError: not a positive whole number followed by ms, s, m, h or d.
    """
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
    number = text.rstrip("mshd")
    unit = text[len(number) :]
    # Digits of other scripts are none to int(), and ten of ours are more days than a duration has.
    if not (number.isascii() and number.isdigit() and len(number) < 10) or unit not in units or int(number) == 0:
        raise InvalidInputError(
            f"{text!r} is not a duration.", next_step="Write a whole number and ms, s, m, h or d: 15m."
        )
    return timedelta(seconds=int(number) * units[unit])


def format_duration(duration: timedelta) -> str:
    """The inverse of :func:`parse_duration`, in the largest unit that fits; rounded up to whole milliseconds."""
    thousandths = -(-duration // timedelta(milliseconds=1))
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if thousandths % size == 0:
            return f"{thousandths // size}{unit}"
    return f"{thousandths}ms"
