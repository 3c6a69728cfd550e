"""Pages of followed places into the event log: append, then move the position.

Invariant: a position moves after its events were appended. A crash in between appends them again, which the log
ignores, as it does where two processes are at one place for a moment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from antiphon.catalog.features.events import Event
from antiphon.catalog.features.followed_streams import FollowedStream, FollowedStreams, PositionMove
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, TooLargeError
from antiphon.core.scope import Scope
from antiphon.definitions.following import within_seconds
from antiphon.definitions.source import SourceSpec
from antiphon.features.ports import FollowedPage, FollowedReader

PAGE = 2_000
"""Rows of one page."""

_PAUSE_SECONDS = 0.1
RECORD_SECONDS = 1.0
"""Interval at which it is recorded that there was nothing new: a look is often, and a record is a write."""

_log = logging.getLogger("antiphon.features")

Append = Callable[[Scope, str, Sequence[Event]], int]


class FollowedPlaces:
    """The places that streams of one scope follow.

    Args:
        reader: makes a reader of the place that a stream follows.
        append: puts events into the log; a repeated id is ignored there.
    """

    def __init__(
        self,
        scope: Scope,
        *,
        streams: FollowedStreams,
        reader: Callable[[SourceSpec], FollowedReader],
        append: Append,
        clock: Clock,
    ) -> None:
        self._scope = scope
        self._streams = streams
        self.reader = reader
        self._append = append
        self._clock = clock

    def begin(self, source: SourceSpec) -> FollowedStream:
        """The state from which reading of a stream's place goes on."""
        assert source.follow is not None
        return self._streams.begin(self._scope, source.name, source.follow.place)

    def take(self, state: FollowedStream, page: FollowedPage) -> FollowedStream | None:
        """Append a page and move the position behind it; ``None`` when another process moved it meanwhile. Of a page
        with nothing new the state stays, if it is recent.

        Raises:
            UnavailableError, CorruptionError, SetupError: the log does not take it; the position stays.
            OverloadedError: the consumer is too far behind.
        """
        if _is_idle(state, page):
            return state
        refused, refusal = page.refused, page.refusal
        try:
            if page.events:
                self._append(self._scope, state.stream, page.events)
        except TooLargeError as error:
            refused, refusal = refused + self._append_singly(state.stream, page.events), error.what
        move = PositionMove(page.position, refused, page.lost, page.waiting, refusal, page.caught_up_at)
        return self._streams.advance(self._scope, state, move)

    def failed(self, stream: str, error: str) -> None:
        """Record why a place cannot be read."""
        self._streams.failed(self._scope, stream, error)

    def catch_up(self, source: SourceSpec, progress: Callable[[int], None] = lambda _: None) -> int:
        """Append everything that is written by now, unless that was done within the declared time; the events read.

        Args:
            progress: is given the number of events that were read so far.

        Raises:
            UnavailableError, SetupError, InvalidInputError: the place cannot be read, and never was from its beginning
                to its end. One that was is left as it is, with a warning: what the log holds of it is used.
        """
        assert source.follow is not None
        now, read = self._clock.now(), 0
        state: FollowedStream | None = self.begin(source)
        reached = None if state is None else state.caught_up_at
        if reached is not None and reached >= now - timedelta(seconds=within_seconds(source.follow)):
            return 0
        reader = None
        try:
            reader = self.reader(source)
            while state is None or not _reached(state, now):
                state = state or self.begin(source)
                page = reader.read(state.position, PAGE)
                read += len(page.events)
                state = self.take(state, page)
                progress(read)
                if not page.more and (state is None or not _reached(state, now)):
                    time.sleep(_PAUSE_SECONDS)  # A file that is still written, say.
        except AntiphonError as error:
            if reached is None:
                raise
            _log.warning("The stream %s is used as it was read through %s: %s", source.name, reached, error)
        finally:
            if reader is not None:
                reader.close()
        return read

    def _append_singly(self, stream: str, events: Sequence[Event]) -> int:
        """Append all events that the log takes; returns the number of the others."""
        refused = 0
        for event in events:
            try:
                self._append(self._scope, stream, [event])
            except TooLargeError:
                refused += 1
        return refused


def _is_idle(state: FollowedStream, page: FollowedPage) -> bool:
    """Tells whether a page changes nothing but the moment that its place was read to, by less than is recorded."""
    if page.events or page.refused or page.lost or page.more or state.error is not None:
        return False
    if page.waiting != state.waiting or page.caught_up_at is None or state.caught_up_at is None:
        return False
    return abs((page.caught_up_at - state.caught_up_at).total_seconds()) < RECORD_SECONDS


def _reached(state: FollowedStream, moment: datetime) -> bool:
    return state.caught_up_at is not None and state.caught_up_at >= moment
