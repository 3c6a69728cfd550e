"""Partitions of a workflow's output: a part for each day, or for each of some keys, made by a run of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import msgspec

from antiphon.definitions.cron import zone_mistakes

MOST_PARTITIONS = 3_660
"""Partitions of an asset, at most: ten years of days."""


def is_day(text: object) -> bool:
    """Tells whether a text is a day as days are compared here: ``2026-11-01``, and no other form of ISO 8601."""
    try:
        return isinstance(text, str) and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


class DailyPartitions(msgspec.Struct, frozen=True, tag="daily"):
    """A part for each day of a zone's calendar, from the first day on. A day has its part once it is over.

    Attributes:
        first: as ISO 8601 writes it, ``2026-11-01``.
        zone: of the IANA database.
    """

    first: str
    zone: str = "UTC"

    parameter = "day"

    def names(self, now: datetime) -> tuple[str, ...]:
        """The days that are over, the oldest first."""
        return _days(self.first, now.astimezone(ZoneInfo(self.zone)).date())

    def next_at(self, now: datetime) -> datetime:
        """The instant at which the present day is over, or the first one is."""
        zone = ZoneInfo(self.zone)
        day = max(date.fromisoformat(self.first), now.astimezone(zone).date()) + timedelta(days=1)
        return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(now.tzinfo)

    def mistakes(self, now: datetime | None = None) -> Iterator[str]:
        """Yields what is wrong with them, a sentence each; a first day in the future, or too long ago, where it is
        known when that is."""
        wrong = list(zone_mistakes(self.zone))
        yield from wrong
        if not is_day(self.first):
            yield f"partitions: {self.first!r} is no day; write one such as '2026-11-01'."
            return
        first = date.fromisoformat(self.first)
        if wrong or now is None:
            return
        today = now.astimezone(ZoneInfo(self.zone)).date()
        if first > today:
            yield f"partitions: the first day, {self.first}, is in the future; until it is over there is no partition."
        elif (today - first).days > MOST_PARTITIONS:
            yield f"partitions: {self.first} is more than {MOST_PARTITIONS} days ago; write a later day."

    def joined(self, other: DailyPartitions) -> DailyPartitions:
        """These days, and those before that another has."""
        return msgspec.structs.replace(self, first=min(self.first, other.first))

    def gaps_of(self, read: DailyPartitions) -> str | None:
        """The sentence that says which of these partitions what is read never has."""
        if read.zone != self.zone:
            return f"its days are of {read.zone}, not of {self.zone}; write the same zone"
        if self.first < read.first:
            return f"it begins at {read.first}, after {self.first}: earlier days never arrive; begin no earlier"
        return None


class KeyedPartitions(msgspec.Struct, frozen=True, tag="keyed"):
    """A part for each of these keys."""

    keys: tuple[str, ...]

    parameter = "key"

    def names(self, now: datetime) -> tuple[str, ...]:
        """The keys, as they are declared."""
        return self.keys

    def next_at(self, now: datetime) -> None:
        """None: there are all of them from the beginning."""
        return

    def mistakes(self, now: datetime | None = None) -> Iterator[str]:
        """Yields what is wrong with them, a sentence each."""
        wrong = [key for key in self.keys if not _is_key(key)]
        if not self.keys:
            yield "partitions: keyed() names no key; name one or more, such as keyed('de', 'fr')."
        elif wrong:
            yield f"partitions: {wrong[0]!r} is no key; a key is letters, digits, hyphens and underscores."
        elif len(set(self.keys)) < len(self.keys):
            yield "partitions: a key is named twice; name each once."
        if len(self.keys) > MOST_PARTITIONS:
            yield f"partitions: there are {len(self.keys)} keys, and {MOST_PARTITIONS} at most."

    def joined(self, other: KeyedPartitions) -> KeyedPartitions:
        """These keys, and those that another has beside them."""
        return KeyedPartitions(tuple(dict.fromkeys((*self.keys, *other.keys))))

    def gaps_of(self, read: KeyedPartitions) -> str | None:
        """The sentence that says which of these partitions what is read never has."""
        missing = [key for key in self.keys if key not in read.keys]
        return f"it has no partition {', '.join(missing)}: that never arrives; name the same keys" if missing else None


Partitions: TypeAlias = DailyPartitions | KeyedPartitions


def daily(first: str, zone: str = "UTC") -> DailyPartitions:
    """Declares a part for each day that is over, from a first one on: ``daily("2026-11-01", "Europe/Berlin")``.

    Args:
        first: the first day.
        zone: of the IANA database, by whose calendar days begin and end.
    """
    return DailyPartitions(first, zone)


def keyed(*keys: str) -> KeyedPartitions:
    """Declares a part for each key: ``keyed("de", "fr")``."""
    return KeyedPartitions(keys)


def alike(one: Partitions | None, other: Partitions | None) -> bool:
    """Tells whether both are days, or both are keys: then a part of one depends on the same part of the other."""
    return one is not None and type(one) is type(other)


def gaps(reader: Any, read: Any) -> str | None:
    """The sentence that says which partitions of a reader what it reads never has, where they are alike; else none."""
    found: str | None = reader.gaps_of(read) if alike(reader, read) else None
    return found


@lru_cache(maxsize=256)
def _days(first: str, today: date) -> tuple[str, ...]:
    begin = date.fromisoformat(first)
    return tuple((begin + timedelta(days=number)).isoformat() for number in range((today - begin).days))


def _is_key(key: object) -> bool:
    return isinstance(key, str) and 0 < len(key) <= 64 and key.replace("-", "").replace("_", "").isalnum()
