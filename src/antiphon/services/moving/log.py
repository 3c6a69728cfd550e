"""Moves the events of streams between the catalog's log and a log server, under their offsets.

Invariant: a stream's home in the catalog changes last, in the transaction that switches the project; until then its
events are read where they were, and what lies in the target already is gone on with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import msgspec

from antiphon.catalog.features.events import EventLog, StoredEvent, StreamHome
from antiphon.core.clock import microseconds
from antiphon.core.errors import ConflictError, CorruptionError
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope
from antiphon.features.streaming.nats_log import NatsEventLog

_PAGE = 2_000
_Read = Callable[[Scope, str, int, int], Sequence[StoredEvent]]
Tell = Callable[[int, int], object]
"""Takes the events done and in all."""


class MovedStream(msgspec.Struct, frozen=True):
    """A stream that is the same in both logs: its events, and their SHA-256 in the order of offsets.

    Attributes:
        log: id of the log server's stream; ``None`` in the catalog.
        copied: events that were written now.
    """

    scope: Scope
    stream: str
    log: str | None
    events: int
    copied: int
    sha256: str

    @property
    def home(self) -> StreamHome:
        """Location of the stream from now on."""
        return StreamHome(self.log, self.events)


def copy_stream(
    source: EventLog | NatsEventLog,
    target: EventLog | NatsEventLog,
    scope: Scope,
    stream: str,
    tell: Tell = lambda done, total: None,
) -> MovedStream:
    """Copy what the target lacks of a stream, and compare all of it.

    Raises:
        ConflictError: the target has other events of a stream of this name.
        CorruptionError: what was written is not what was read. UnavailableError, SetupError: a log is away.
    """
    end = source.end(scope, stream)
    if isinstance(target, NatsEventLog):
        log, begun = target.begin_copy(scope, stream)
        read: _Read = target.read
    else:
        log, begun, read = None, target.copied_through(scope, stream), target.copied
    if begun > end:
        raise ConflictError(
            f"The target has {begun} events of this stream, and the project {end}: they are another project's.",
            where=f"stream {stream}",
            next_step="Remove that stream there, or name another server, account or catalog.",
        )
    for page in _pages(source.read, scope, stream, begun, end):
        target.copy(scope, stream, page)
        tell(page[-1].offset, end)
    ours, theirs = digest(source.read, scope, stream, end), digest(read, scope, stream, end)
    if ours != theirs:
        raise CorruptionError(
            "The events that were written are not those that were read.",
            where=f"stream {stream}",
            next_step="Remove that stream from the target and run `antiphon migrate` again; the project goes on with "
            "the log that it has.",
        )
    return MovedStream(scope, stream, log, end, end - begun, ours)


def digest(read: _Read, scope: Scope, stream: str, end: int) -> str:
    """The SHA-256 of a stream's events through an offset, with their offsets and instants."""
    found = hashlib.sha256()
    for page in _pages(read, scope, stream, 0, end):
        for one in page:
            event, appended = one.event, 0 if one.appended_at is None else microseconds(one.appended_at)
            times = microseconds(event.event_time), microseconds(event.available_at), appended
            found.update(canonical([one.offset, event.event_id, *times, event.payload]))
    return found.hexdigest()


def _pages(read: _Read, scope: Scope, stream: str, after: int, end: int) -> Iterator[Sequence[StoredEvent]]:
    while after < end and (page := read(scope, stream, after, min(_PAGE, end - after))):
        yield page
        after = page[-1].offset
