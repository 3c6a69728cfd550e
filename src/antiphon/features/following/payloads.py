"""Payloads of followed rows and messages as events: id and times by the columns that the source declares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from antiphon.catalog.features.events import Event
from antiphon.core.clock import from_microseconds, utc
from antiphon.core.errors import AntiphonError
from antiphon.definitions.following import EpochUnit
from antiphon.definitions.source import SourceSpec

_MICROSECONDS: dict[EpochUnit, int] = {"s": 1_000_000, "ms": 1_000, "us": 1}


class RowRefusal(msgspec.Struct, frozen=True):
    """A row or message that is no event, in words that hold no value of it."""

    reason: str


def event_of(source: SourceSpec, payload: dict[str, Any], epoch: EpochUnit = "us") -> Event | RowRefusal:
    """The event of a payload, or why it is none.

    Args:
        epoch: the unit of times that are numbers. Texts are ISO 8601, in UTC without an offset.
    """
    assert source.event_id is not None
    identity = payload.get(source.event_id)
    if identity is None or identity == "" or isinstance(identity, dict | list):
        return RowRefusal(f"{source.event_id} is empty, so that the event has no id")
    times: list[datetime] = []
    for column in (source.event_time, source.available_at or source.event_time):
        moment = instant_of(payload.get(column), epoch)
        if moment is None:
            return RowRefusal(f"{column} is no time")
        times.append(moment)
    return Event(str(identity), times[0], times[1], payload)


def instant_of(value: object, epoch: EpochUnit) -> datetime | None:
    """The instant that a JSON value stands for, in UTC; ``None`` for what is none."""
    try:
        if isinstance(value, bool):
            return None
        if isinstance(value, int | float):
            return from_microseconds(round(value * _MICROSECONDS[epoch]))
        if not isinstance(value, str):
            return None
        found = datetime.fromisoformat(value)
        return utc(found if found.tzinfo else found.replace(tzinfo=UTC))
    except (ValueError, OverflowError, AntiphonError):
        return None


def sorted_out(
    source: SourceSpec, payloads: Iterable[dict[str, Any] | RowRefusal], epoch: EpochUnit = "us"
) -> tuple[tuple[Event, ...], int, str | None]:
    """The events among payloads in their order, how many are none, and the reason of the last of those."""
    events: list[Event] = []
    refused, reason = 0, None
    for payload in payloads:
        found = payload if isinstance(payload, RowRefusal) else event_of(source, payload, epoch)
        if isinstance(found, RowRefusal):
            refused, reason = refused + 1, found.reason
        else:
            events.append(found)
    return tuple(events), refused, reason


def decoded(content: bytes | str, decode: Callable[[bytes | str], Any]) -> dict[str, Any] | RowRefusal:
    """The JSON object of a text, or why it is none."""
    try:
        found = decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return RowRefusal("the content is no JSON")
    return found if isinstance(found, dict) else RowRefusal("the content is no JSON object")
