"""The event log on NATS JetStream: one stream a tenant, environment and source, one subject an event.

Invariants: an offset is the stream's sequence, from 1 and without holes. An event's subject ends in a hash of its id,
and the stream takes one message a subject and refuses a second, so an event id is stored once however late it comes
again: no window of deduplication is relied on. Nothing is ever taken out. The stream carries the id it was made with,
and the catalog remembers that id and how far the stream has been seen: one that was deleted, replaced, cut short, set
back or thinned out is an error for every reader and appender. It is never stepped over, and never grows over.

Stream ``antiphon_TENANT_ENVIRONMENT_SOURCE``, subjects ``antiphon.TENANT.ENVIRONMENT.SOURCE.EVENT``. A message is an
envelope of the codec, sealed for its place; of a sealed event neither id nor payload nor times leave readable.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import zip_longest
from typing import Any

import msgspec

from antiphon.catalog.features.events import Event, StoredEvent, StreamHomes, require_events, set_back
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.codec import Codec, PayloadContext, pack, unpack
from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    SetupError,
    UnavailableError,
)
from antiphon.core.scope import Scope
from antiphon.features.streaming.nats_server import NatsServer, StoredMessage, StreamState

_SCHEMA = "logged-event/1"
_PAGE = 2_000
_REMEMBER_SECONDS = 1.0
"""Interval at which the catalog records how far a stream was seen."""

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,100}\Z")


class _LogRecord(msgspec.Struct, frozen=True, array_like=True):
    """Content of a message; instants in microseconds since 1970. ``appended_at`` is when another log took it, from
    which it was copied."""

    event_id: str
    event_time: int
    available_at: int
    payload: dict[str, Any]
    appended_at: int | None = None


class SealCheck(msgspec.Struct, frozen=True):
    """Check of one stored event: the data key that seals it, or ``plaintext``, and the reason when it does not open."""

    offset: int
    key: str
    problem: str | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_LogRecord).decode


class NatsEventLog:
    """The log of one project on a server. Safe to share between threads."""

    def __init__(self, server: NatsServer, homes: StreamHomes, codec: Codec) -> None:
        self._server = server
        self._homes = homes
        self._codec = codec
        self._known: dict[tuple[Scope, str], str] = {}
        self._seen: dict[tuple[Scope, str], int] = {}
        self._remembered: dict[tuple[Scope, str], float] = {}

    def append(self, scope: Scope, stream: str, events: Sequence[Event]) -> int:
        """Append events in order and return the stream's last offset; a repeated ``event_id`` is ignored.

        Unlike in the catalog a batch is not one transaction: after an error part of it may be stored. The same batch
        again stores the rest.

        Raises:
            InvalidInputError: an event without id or with an instant without zone, or a stream without a usable name.
            TooLargeError: an event is larger than the server takes; nothing is stored.
            UnavailableError, SetupError: the server is away or not as it must be.
            CorruptionError: the stream was deleted, replaced, cut short or set back.
        """
        require_events(stream, events)
        messages = self._messages(scope, stream, events)
        self._homes.require_unmoved()  # What would come to lie here is no event, and in the way of a move back.
        state = self._state(scope, stream, make=True)
        assert state is not None
        end = state.end
        if messages:
            end = max(end, self._server.publish(_name(scope, stream), list(messages.items())))
        self._homes.require_unmoved()
        self._remember(scope, stream, state, end)
        return end

    def read(self, scope: Scope, stream: str, after: int, limit: int) -> list[StoredEvent]:
        """Events with ``offset > after``, in order, at most ``limit``.

        Raises:
            UnavailableError, SetupError: the server is away or not as it must be.
            CorruptionError: events are gone, the stream is another one, or an event does not open.
        """
        found = self._stored(scope, stream, after, limit)
        return [self._opened(scope, stream, each) for each in found]

    def check(self, scope: Scope, stream: str, after: int, limit: int) -> list[SealCheck]:
        """Open the events that :meth:`read` would return and report each that does not open; otherwise raises alike."""
        return [self._check(scope, stream, each) for each in self._stored(scope, stream, after, limit)]

    def end(self, scope: Scope, stream: str) -> int:
        """The last offset, 0 for a stream without events. Raises as :meth:`read`."""
        state = self._state(scope, stream)
        return 0 if state is None else state.end

    def begin_copy(self, scope: Scope, stream: str) -> tuple[str, int]:
        """Make the stream that another log's is to be copied to, or go on with one; return its id and its last offset.

        Until :meth:`.StreamHomes.switch` this log alone takes it for the stream's home.
        """
        state = self._server.make(_name(scope, stream), _subjects(scope, stream), uuid.uuid4().hex)
        log = self._known[scope, stream] = _require_ours(_name(scope, stream), stream, state)
        return log, state.end

    def copy(self, scope: Scope, stream: str, stored: Sequence[StoredEvent]) -> None:
        """Put events of another log here, in the order of their offsets; those that are here stay.

        Raises:
            ConflictError: they did not come to lie at their offsets, because other events are here.
        """
        messages = self._messages(scope, stream, [one.event for one in stored], [one.appended_at for one in stored])
        end = self._server.publish(_name(scope, stream), list(messages.items()))
        if end != stored[-1].offset:
            raise ConflictError(
                f"The event of offset {stored[-1].offset} came to lie at {end}: the stream on the server has others.",
                where=f"stream {stream}",
                next_step="Remove that stream, or use another server or account for this project.",
            )

    def close(self) -> None:
        """Close the connection."""
        self._server.close()

    def _stored(self, scope: Scope, stream: str, after: int, limit: int) -> list[StoredMessage]:
        state = self._state(scope, stream)
        end = 0 if state is None else state.end
        if after > end:
            raise set_back(stream, after, end, "Restore the stream from its backup")
        number = min(limit, end - after)
        if state is None or number <= 0:
            return []
        found = self._server.read(_name(scope, stream), state.log or "", after, number)
        if [each.sequence for each in found] != list(range(after + 1, after + 1 + number)):
            raise UnavailableError(
                f"Offsets {after + 1} to {after + number} were requested and {len(found)} events came.",
                where=f"stream {stream}",
                next_step="Try again; if it stays, look at the server's log and run `nats stream info`.",
            )
        self._remember(scope, stream, state, found[-1].sequence)
        return found

    def _state(self, scope: Scope, stream: str, *, make: bool = False) -> StreamState | None:
        """The stream as it is, held against what the catalog remembers; ``None`` before its first use."""
        name = _name(scope, stream)
        log, home = self._known.get((scope, stream)), None
        if log is None:
            home = self._homes.of(scope, stream)
            if home.log is None and home.end:
                raise ConflictError(
                    f"{home.end} events of this stream are in the catalog.",
                    where=f"stream {stream}",
                    next_step="`antiphon migrate` moves them: name the server with --log, not in the settings.",
                )
            log = home.log
        # What was seen is asked before the server is: others append meanwhile.
        seen = max(self._seen.get((scope, stream), 0), 0 if home is None else home.end)
        state = self._server.state(name)
        if log is None:
            if state is None:
                if not make:
                    return None
                state = self._server.make(name, _subjects(scope, stream), uuid.uuid4().hex)
            log = self._homes.claim(scope, stream, _require_ours(name, stream, state)).log
        if state is None or log is None or state.log != log:
            raise CorruptionError(
                f"The stream {name} {'is gone' if state is None else 'was deleted and made anew'}: "
                "what was read from it before is not there any more.",
                where=f"stream {stream}",
                next_step="Restore the stream from its backup; or give the source another name: it begins a new one.",
            )
        if state.faults:
            raise SetupError(
                f"The stream {name} would not keep every event once: {'; '.join(state.faults)}.",
                where=f"stream {stream}",
                next_step="Set it back with `nats stream edit`.",
            )
        if state.missing or state.first > 1:
            raise CorruptionError(
                f"{state.missing + state.first - 1} of the first {state.end} events are gone from the log, the "
                f"earliest kept is {state.first}.",
                where=f"stream {stream}",
                next_step="Restore the stream from its backup; or give the source another name, which begins a new "
                "one.",
            )
        if seen > state.end:
            raise set_back(stream, seen, state.end, "Restore the stream from its backup")
        self._known[scope, stream] = log
        self._seen[scope, stream] = max(seen, self._seen.get((scope, stream), 0))
        return state

    def _remember(self, scope: Scope, stream: str, state: StreamState, end: int) -> None:
        """Record how far the stream was seen: in memory at once, in the catalog at an interval."""
        key, now = (scope, stream), time.monotonic()
        self._seen[key] = max(self._seen.get(key, 0), end)
        if now - self._remembered.get(key, -_REMEMBER_SECONDS) >= _REMEMBER_SECONDS:
            self._remembered[key] = now
            # The event is stored or read already: a busy catalog records it the next time.
            with suppress(UnavailableError):
                self._seen[key] = max(
                    self._seen[key], self._homes.seen(scope, stream, state.log or "", self._seen[key])
                )

    def _messages(
        self, scope: Scope, stream: str, events: Sequence[Event], appended: Sequence[datetime | None] = ()
    ) -> dict[str, bytes]:
        prefix = _subjects(scope, stream).removesuffix("*")
        messages: dict[str, bytes] = {}
        for event, appended_at in zip_longest(events, appended):
            place = self._place(scope, stream, event.event_id)
            if prefix + place not in messages:
                messages[prefix + place] = self._sealed(scope, stream, place, event, appended_at)
        return messages

    def _place(self, scope: Scope, stream: str, event_id: str) -> str:
        index = self._codec.index(f"{stream}:{event_id}", scope, "event")
        return hashlib.sha256(index.encode()).hexdigest()[:32]

    def erase(self, scope: Scope, stream: str) -> bool:
        """Take a stream out with every event, for a tenant that is erased: the one thing that is ever taken out. Tell
        whether it was there."""
        return self._server.remove(_name(scope, stream))

    def _sealed(self, scope: Scope, stream: str, place: str, event: Event, appended_at: datetime | None) -> bytes:
        logged = _LogRecord(
            event.event_id,
            microseconds(event.event_time),
            microseconds(event.available_at),
            event.payload,
            None if appended_at is None else microseconds(appended_at),
        )
        return pack(self._codec.seal(_encode(logged), PayloadContext(_SCHEMA, scope, f"{stream}:{place}")))

    def _check(self, scope: Scope, stream: str, message: StoredMessage) -> SealCheck:
        key = "plaintext"
        try:
            key = unpack(message.content).key_id or key
            self._opened(scope, stream, message)
        except AntiphonError as error:
            # The cause names the missing key or the changed bytes.
            cause = error.__cause__
            return SealCheck(message.sequence, key, cause.what if isinstance(cause, AntiphonError) else error.what)
        return SealCheck(message.sequence, key, None)

    def _opened(self, scope: Scope, stream: str, message: StoredMessage) -> StoredEvent:
        place = message.subject.rpartition(".")[2]
        where = f"stream {stream}, offset {message.sequence}"
        context = PayloadContext(_SCHEMA, scope, f"{stream}:{place}")
        try:
            logged = _decode(self._codec.open(unpack(message.content), context))
        except (CorruptionError, msgspec.DecodeError) as error:
            raise _unreadable(where) from error
        if self._place(scope, stream, logged.event_id) != place:
            raise _unreadable(where)
        times = from_microseconds(logged.event_time), from_microseconds(logged.available_at)
        appended_at = message.stored_at if logged.appended_at is None else from_microseconds(logged.appended_at)
        return StoredEvent(message.sequence, Event(logged.event_id, *times, logged.payload), appended_at)


def _name(scope: Scope, stream: str) -> str:
    # Neither a tenant's nor an environment's name has an underscore, so no two streams share a name.
    return f"antiphon_{scope.tenant}_{scope.environment}_{_require_source(stream)}"


def _subjects(scope: Scope, stream: str) -> str:
    return f"antiphon.{scope.tenant}.{scope.environment}.{_require_source(stream)}.*"


def _require_ours(name: str, stream: str, state: StreamState) -> str:
    if state.log is None:
        raise SetupError(
            f"The stream {name} is there and was not made by Antiphon.",
            where=f"stream {stream}",
            next_step="Remove it, or use another server or account for this project.",
        )
    return state.log


def _require_source(stream: str) -> str:
    if not _SOURCE.match(stream):
        raise InvalidInputError(
            f"{stream!r} cannot name a stream of this log.",
            where="stream",
            next_step="Use letters, digits, underscores and hyphens, at most 100.",
        )
    return stream


def _unreadable(where: str) -> CorruptionError:
    return CorruptionError(
        "A message of the log is no event of ours, or is sealed for another place or under other settings.",
        where=where,
        next_step="Start with the encryption settings it was written under; append events through Antiphon alone.",
    )
