"""Sends events with a defect into a stream, about entities that were made up, for as long as their fault lasts.

It ends with the process that sends; what was sent stays, because a log is never taken back.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import msgspec

from antiphon.batch import tables
from antiphon.catalog.features.events import Event
from antiphon.core.clock import parse_duration
from antiphon.core.errors import AntiphonError, InvalidInputError, NotFoundError
from antiphon.definitions.source import SourceSpec, local_paths
from antiphon.operations.chaos.faults import EventFault, described
from antiphon.operations.chaos.journal import FaultEnd, FaultStart, Journal
from antiphon.services.project.store import Store

MADE_UP = "chaos-"
"""Prefix of the keys of made-up entities, and of the ids of their events."""

_ENTITIES = 5
_FIRST_NUMBER = 990_000_000
"""Keys that are numbers are these and the next ones."""


class EventsUnderWay(msgspec.Struct, frozen=True):
    """Events that are being sent."""

    sending: asyncio.Task[None]

    async def over(self) -> None:
        """Wait until the last one was sent."""
        await self.sending


@asynccontextmanager
async def sent_events(
    store: Store, fault: EventFault, *, experiment: str, name: str, journal: Journal, mark: str
) -> AsyncIterator[EventsUnderWay]:
    """Send events while the block lasts, and for no longer than the fault does.

    Args:
        mark: a text that no other run has, part of the events' ids.

    Raises:
        NotFoundError: no such stream is declared, or it has no event yet that others could be like.
    """
    source, keys, template = await asyncio.to_thread(_stream, store, fault.stream)
    began = time.time()
    journal.append(FaultStart(experiment, name, began, described(fault), (f"stream {source.name}",)))
    counter = itertools.count()

    async def send() -> None:
        end = time.monotonic() + parse_duration(fault.duration).total_seconds()
        while (now := time.monotonic()) < end:
            event = defective(fault, template, keys, source, next(counter), store.database.clock.now(), mark)
            with suppress(AntiphonError):  # The log may be away: that may be the point of the experiment.
                await asyncio.to_thread(store.events.append, store.scope, source.name, [event])
            await asyncio.sleep(max(0.0, min(now + 1 / fault.rate, end) - time.monotonic()))

    sending = asyncio.create_task(send())
    reason = "the experiment ended it"
    try:
        yield EventsUnderWay(sending)
    finally:
        if sending.done():
            reason = "its time was over"
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        journal.append(FaultEnd(experiment, name, time.time(), reason))


def defective(
    fault: EventFault,
    template: Mapping[str, Any],
    keys: tuple[str, ...],
    source: SourceSpec,
    number: int,
    now: datetime,
    mark: str,
) -> Event:
    """One event like a stream's own but for its defect and its entity.

    Raises:
        InvalidInputError: the entity's keys are neither texts nor whole numbers.
    """
    payload = dict(template)
    for key in keys:
        payload[key] = _made_up(payload.get(key), number % _ENTITIES, key)
    moment, event_id = now, f"{MADE_UP}{mark}-{number}"
    match fault.defect:
        case "late":
            moment = now - parse_duration(fault.late_by)
        case "duplicate":
            event_id = f"{MADE_UP}{mark}-0"
        case "corrupt":
            payload |= dict.fromkeys(keys)
        case "drift":
            payload |= {name: _scaled(value, fault.factor) for name, value in payload.items() if name not in keys}
    payload[source.event_time] = moment.isoformat()
    if source.available_at is not None:
        payload[source.available_at] = now.isoformat()
    if source.event_id is not None:
        payload[source.event_id] = event_id
    return Event(event_id, moment, now, payload)


def _made_up(value: Any, number: int, key: str) -> Any:
    if isinstance(value, str):
        return f"{MADE_UP}{number}"
    if isinstance(value, int) and not isinstance(value, bool):
        return _FIRST_NUMBER + number
    raise InvalidInputError(
        f"No entity can be made up: {key} is neither a text nor a whole number.", where=key,
        next_step="Take this fault out of the experiment.",
    )  # fmt: skip


def _scaled(value: Any, factor: float) -> Any:
    """A number, or a text that is one, times the factor."""
    if isinstance(value, bool):
        return value
    try:
        scaled = float(value) * factor
    except (TypeError, ValueError):
        return value
    return str(scaled) if isinstance(value, str) else scaled


def _stream(store: Store, name: str) -> tuple[SourceSpec, tuple[str, ...], Mapping[str, Any]]:
    """The declared stream, the keys of the entities of its views, and the columns of one of its events."""
    project = store.applied.project(store.scope)
    streams = {source: spec for source, spec in project.sources.items() if spec.kind == "stream"}
    source = streams.get(min(streams, default="") if name == "*" else name)
    if source is None:
        raise NotFoundError(f"There is no stream {name!r}.", where=name, next_step="Declare it with Source.stream.")
    keys = tuple(dict.fromkeys(
        key for view in project.views.values() if view.source.name == source.name for key in view.entity.keys
    ))  # fmt: skip
    return source, keys, _template(store, source)


def _template(store: Store, source: SourceSpec) -> Mapping[str, Any]:
    end = store.events.end(store.scope, source.name)
    if end:
        return store.events.read(store.scope, source.name, end - 1, 1)[0].event.payload
    for pattern in source.paths:
        for path in local_paths(pattern):
            for row in tables.read(path):
                return {
                    column: value.isoformat() if isinstance(value, datetime) else value for column, value in row.items()
                }
    raise NotFoundError(
        f"The stream {source.name} has no event that others could be like.", where=source.name,
        next_step=f"Send one: `antiphon events push {source.name} FILE`.",
    )  # fmt: skip
