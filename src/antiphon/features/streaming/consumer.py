"""The stream consumer: source events from the log become measured events of the overlay.

Invariants: an event is quantized here and written to the overlay under its log offset, in the transaction that moves
its partition's progress from where it was read; so a crash at any point repeats work and changes nothing, and of two
consumers of a partition one moves it and the other reads it again. All events of an entity are in one partition. One
poll takes a bounded number of events, shared out over the streams, and what has to catch up takes no more than half of
its stream's share: a burst or a new view delays the others by one batch. Pending events wait in the log, never in
memory. A stream that cannot be read keeps its offsets, is logged, and holds back no other stream.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from antiphon.catalog.features.events import StoredEvent, set_back
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import AntiphonError, WriteConflictError
from antiphon.core.retry_delays import RetryDelays
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.expressions.compile_python import Measured, compile_measures, key_texts, sequence
from antiphon.features.expressions.expression_python import Payload
from antiphon.features.online.overlay_records import (
    PARTITIONS,
    OverlayEvent,
    OverlayState,
    ProgressMove,
    StreamProgress,
    ViewPartition,
    partition_of,
    together,
    view_prefix,
)
from antiphon.features.online.prune_fence import IncludedOffsets
from antiphon.features.plan import plan_of
from antiphon.features.ports import LogReader, OnlineSnapshots, StreamedOverlay
from antiphon.features.values import StreamedEvent

_ATTEMPTS = 50
_log = logging.getLogger("antiphon.features")
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 30.0
"""Backoff after a failed read of a stream, at first and at most (seconds)."""


class StreamedView(msgspec.Struct, frozen=True):
    """Progress of one view in its stream.

    Attributes:
        lag, lag_seconds: events it has not applied, and how long the first of them has been in the log.
        watermark: the greatest event time it has seen.
        late, lateness_seconds: events that came after one of a later event time, and by how much the latest did; they
            count where they belong.
        rejected: events without usable entity keys.
    """

    view: str
    definition_version: str
    consumed: int
    lag: int
    lag_seconds: float
    watermark: datetime | None
    late: int
    lateness_seconds: float
    rejected: int


class FollowerStatus(msgspec.Struct, frozen=True):
    """Progress of the follower of a place that another system writes to.

    Attributes:
        place: what is followed.
        within_seconds: the declared time from writing to counting online; ``late``: it is exceeded now.
        caught_up_at: everything that was written before then is in the log, ``behind_seconds`` ago; ``None`` until the
            place has been read from its beginning.
        waiting: messages that were not read yet, where the place tells.
        refused: rows that are no events; ``refusal`` says why the last one is none.
        lost: messages that were removed before they were read.
        problem: why reading fails, ``failing_since`` the first failure in a row.
    """

    place: str
    within_seconds: float
    late: bool
    caught_up_at: datetime | None = None
    behind_seconds: float | None = None
    waiting: int | None = None
    refused: int = 0
    refusal: str | None = None
    lost: int = 0
    problem: str | None = None
    failing_since: datetime | None = None


class StreamStatus(msgspec.Struct, frozen=True):
    """Progress of a stream's consumer: ``lag`` events lie between ``consumed`` and ``end``, the first of them for
    ``lag_seconds``. ``problem`` says why that cannot be told; ``workers``: which hold which partitions now;
    ``follower``: that of a stream that another system writes."""

    stream: str
    consumed: int
    end: int
    lag: int
    lag_seconds: float = 0.0
    views: tuple[StreamedView, ...] = ()
    problem: str | None = None
    workers: dict[str, tuple[int, ...]] = {}
    follower: FollowerStatus | None = None


class _FollowedView:
    """One view that follows a stream."""

    def __init__(self, spec: FeatureViewSpec) -> None:
        self.spec = spec
        self.prefix = view_prefix(spec.key)
        self.measured: Callable[[Payload], Measured | None] = compile_measures(plan_of(spec))


class StreamConsumer:
    """Feeds the overlay of one scope with the partitions of its streams that it is given.

    A view that is followed for the first time starts at the log's beginning.
    """

    def __init__(
        self,
        scope: Scope,
        *,
        log: LogReader,
        overlay: StreamedOverlay,
        online: OnlineSnapshots,
        views: Iterable[FeatureViewSpec] = (),
        now: Callable[[], float] = time.monotonic,
        included: Callable[[], IncludedOffsets] = IncludedOffsets,
    ) -> None:
        """
        Args:
            included: what every kept snapshot includes; a damaged overlay is replayed from there.
        """
        self._scope = scope
        self._now = now
        self._included = included
        self._delays = RetryDelays(_FIRST_DELAY, _LONGEST_DELAY)
        self._log = log
        self._overlay = overlay
        self._online = online
        self._followers: dict[str, _FollowedView] = {}
        self._turn = 0
        self._replaying = False
        self.follow(views)

    def follow(self, views: Iterable[FeatureViewSpec]) -> None:
        """Follow these views' streams too; views of tables are passed over."""
        for spec in views:
            if spec.source.kind == "stream" and spec.key not in self._followers:
                # Another dictionary: a thread may be going through this one.
                self._followers = {**self._followers, spec.key: _FollowedView(spec)}

    @property
    def streams(self) -> frozenset[str]:
        """The streams that are followed."""
        return frozenset(follower.spec.source.name for follower in self._followers.values())

    def poll(self, limit: int = 1_000, owned: Mapping[str, Collection[int]] | None = None) -> int:
        """Take at most ``limit`` events of all streams together; how many were taken, 0 when caught up.

        Args:
            owned: the partitions of each stream that are consumed; ``None`` is all of all.

        Raises:
            UnavailableError: log or overlay are away, or the overlay is full. Nothing is lost: the offsets stay.
            CorruptionError: the log was set back, or events are gone from it.
                When only some streams fail, they are logged and left alone for a while, and nothing is raised.
        """
        now = self._now()
        streams: dict[str, list[_FollowedView]] = {}
        for follower in self._followers.values():
            if owned is None or owned.get(follower.spec.source.name):
                streams.setdefault(follower.spec.source.name, []).append(follower)
        names = [name for name in sorted(streams) if not self._delays.waiting(name, now)]
        self._turn += 1
        taken, failed, self._replaying = 0, dict[str, AntiphonError](), not self._followers
        # Each poll begins with another stream, so that what is left over goes round.
        first = self._turn % max(1, len(names))
        for place, stream in enumerate(names[first:] + names[:first]):
            share = (limit - taken) // (len(names) - place)
            try:
                parts = range(PARTITIONS) if owned is None else sorted(owned[stream])
                taken += self._poll(stream, streams[stream], parts, max(1, share))
            except AntiphonError as error:
                failed[stream] = error
        if failed and len(failed) == len(names):
            raise next(iter(failed.values()))
        for stream in set(names) - failed.keys():
            self._delays.succeeded(stream)
        for stream, problem in failed.items():
            seconds = self._delays.failed(stream, now)
            _log.error("The stream %s is not consumed; the others are. Again in %.0f s: %s", stream, seconds, problem)
        if self._replaying:
            self._end_replay()
        return taken

    @property
    def unsettled(self) -> bool:
        """``True`` while there is work without new events: a stream to try again, a damaged overlay to replay."""
        return self._delays.pending or (self._replaying and bool(self._followers))

    def _end_replay(self) -> None:
        """End the replay of a damaged overlay once every view has what it held, also when no view follows a stream."""
        prefixes = [follower.prefix for follower in self._followers.values()]
        reading = self._overlay.read(prefixes)
        if reading.replaying and not any(map(reading.lacking, prefixes)):
            self._overlay.caught_up()
            _log.warning("Streamed events that a damaged overlay held were read again from the log.")

    def _poll(self, stream: str, followers: list[_FollowedView], parts: Sequence[int], limit: int) -> int:
        reading = self._overlay.read([follower.prefix for follower in followers])
        if reading.replaying:
            self._replaying = True
            reading = self._begun(stream, followers, parts, reading)
        groups: dict[int, dict[_FollowedView, list[int]]] = {}
        for follower in followers:
            for part in parts:
                offset = reading.progress[follower.prefix][part].offset
                groups.setdefault(offset, {}).setdefault(follower, []).append(part)
        taken, ahead = 0, None
        for offset in sorted(groups, reverse=True):
            # Those that are furthest serve fresh values and go first; the others catch up to where they are.
            behind = len(groups) > 1 and ahead is None
            number = limit - limit // 2 if behind else limit - taken
            if ahead is not None:
                number = min(number, ahead - offset)
            stored = self._log.read(self._scope, stream, offset, number) if number > 0 else ()
            if stored:
                self._apply(groups[offset], stored, reading)
                taken += len(stored)
            if ahead is None:
                ahead = stored[-1].offset if stored else offset
        return taken

    def _begun(
        self, stream: str, followers: Sequence[_FollowedView], parts: Sequence[int], reading: OverlayState
    ) -> OverlayState:
        """The state once views that nothing was read for again begin where their snapshots end.

        The replay of a stream ends where its log ends now: events that come meanwhile do not prolong it.
        """
        if any(one.prefix not in reading.targets for one in followers):
            end = self._log.end(self._scope, stream)
            self._overlay.replay_through({one.prefix: end for one in followers})
        unread = StreamProgress()
        fresh = [one for one in followers if any(reading.progress[one.prefix][part] == unread for part in parts)]
        included = self._included() if fresh else IncludedOffsets()
        for one in fresh:
            if offset := included.offsets.get(one.spec.key, 0):
                # First: who is killed in between begins here again. It goes less far where a rollback needs more.
                self._overlay.prune(one.prefix, offset, included.publication)
                begin = ProgressMove(unread, StreamProgress(self._overlay.read([one.prefix]).pruned[one.prefix]))
                for part in parts if begin.after.offset else ():
                    # One by one: another consumer may have moved some of them.
                    self._overlay.apply({ViewPartition(one.prefix, part): begin}, ())
        return self._overlay.read([one.prefix for one in followers]) if included.offsets else reading

    def _apply(
        self, group: Mapping[_FollowedView, Sequence[int]], stored: Sequence[StoredEvent], reading: OverlayState
    ) -> None:
        """Write events, and move the partitions of a group, which are all at one offset.

        Each partition counts its own events, but the watermark is the stream's: what is late does not depend on the
        number of consumers.
        """
        events: list[OverlayEvent] = []
        moves: dict[ViewPartition, ProgressMove] = {}
        for follower, parts in group.items():
            before = reading.progress[follower.prefix]
            watermark = together(before[part] for part in parts).watermark
            rejected, late, lateness = 0, dict.fromkeys(parts, 0), dict.fromkeys(parts, 0)
            for item in stored:
                keys = key_texts(follower.spec.entity.keys, item.event.payload)
                if keys is None:
                    rejected += 1
                    continue
                part, event_time = partition_of(keys), microseconds(item.event.event_time)
                behind = 0 if watermark is None else watermark - event_time
                if behind <= 0:
                    watermark = event_time
                if part not in late:
                    continue
                if behind > 0:
                    late[part], lateness[part] = late[part] + 1, max(lateness[part], behind)
                if (event := self._measured(follower, item, keys)) is not None:
                    events.append(event)
            for part in parts:
                was = before[part]
                moves[ViewPartition(follower.prefix, part)] = ProgressMove(
                    was,
                    StreamProgress(
                        stored[-1].offset,
                        was.rejected + (rejected if part == 0 else 0),
                        was.late + late[part],
                        watermark,
                        max(was.lateness, lateness[part]),
                    ),
                )
        self._overlay.apply(moves, events)

    def furthest(self, stream: str) -> int:
        """The offset of the view that is furthest in a stream, 0 when none follows it; raises ``UnavailableError``."""
        prefixes = [each.prefix for each in self._followers.values() if each.spec.source.name == stream]
        return max(self._overlay.read(prefixes).offsets.values(), default=0)

    def status(self, now: datetime, streams: Collection[str] | None = None) -> list[StreamStatus]:
        """Progress in all streams that views follow, or in these; raises as :meth:`poll`, for any of them."""
        followers = [one for one in self._followers.values() if streams is None or one.spec.source.name in streams]
        reading = self._overlay.read([follower.prefix for follower in followers])
        by_stream: dict[str, list[_FollowedView]] = {}
        for follower in followers:
            by_stream.setdefault(follower.spec.source.name, []).append(follower)
        return [self._status(stream, followers, reading, now) for stream, followers in by_stream.items()]

    def _status(
        self, stream: str, followers: Sequence[_FollowedView], reading: OverlayState, now: datetime
    ) -> StreamStatus:
        end = self._log.end(self._scope, stream)
        waited: dict[int, float] = {}
        views: list[StreamedView] = []
        for follower in followers:
            progress = together(reading.progress[follower.prefix])
            offset = progress.offset
            if offset > end:
                raise set_back(stream, offset, end, "Restore a newer backup of the log")
            if offset < end and offset not in waited:
                since = next((one.appended_at for one in self._log.read(self._scope, stream, offset, 1)), None)
                waited[offset] = 0.0 if since is None else max(0.0, (now - since).total_seconds())
            views.append(
                StreamedView(
                    view=follower.spec.name,
                    definition_version=follower.spec.definition_version,
                    consumed=offset,
                    lag=end - offset,
                    lag_seconds=waited.get(offset, 0.0),
                    watermark=None if progress.watermark is None else from_microseconds(progress.watermark),
                    late=progress.late,
                    lateness_seconds=progress.lateness / 1e6,
                    rejected=progress.rejected,
                )
            )
        consumed = min(view.consumed for view in views)
        most = max(view.lag_seconds for view in views)
        return StreamStatus(stream, consumed, end, end - consumed, most, tuple(views))

    def restore(self, spec: FeatureViewSpec, after: int, publication: int) -> int:
        """Put back a view's pruned events with ``offset > after``, which ``publication``, current or to come, needs,
        and keep them from prunes decided before it; return how many log events were read again. Raises
        ``WriteConflictError`` when others pruned each time meanwhile."""
        follower = self._followers.get(spec.key) or _FollowedView(spec)
        for _ in range(_ATTEMPTS):
            pruned = self._overlay.read([follower.prefix]).pruned[follower.prefix]
            read, at, events = 0, after, list[OverlayEvent]()
            while at < pruned and (page := self._log.read(self._scope, spec.source.name, at, 1_000)):
                at = page[-1].offset
                needed = [item for item in page if item.offset <= pruned]
                read += len(needed)
                for item in needed:
                    keys = key_texts(spec.entity.keys, item.event.payload)
                    if keys is not None and (event := self._measured(follower, item, keys)) is not None:
                        events.append(event)
            if self._overlay.restore(follower.prefix, after, events, pruned, publication):
                return read
        raise WriteConflictError(
            f"The streamed events of {spec.name!r} were pruned while they were put back.",
            where="overlay",
            next_step="Try again in a moment.",
        )

    def _measured(self, follower: _FollowedView, item: StoredEvent, keys: tuple[str, ...]) -> OverlayEvent | None:
        """An event of an entity; ``None`` when the source's filter drops it."""
        event = item.event
        measures = follower.measured(event.payload)
        if measures is None:
            return None
        return OverlayEvent(
            follower.prefix,
            self._online.entity_hash(follower.spec.entity.name, keys),
            StreamedEvent(
                microseconds(event.event_time),
                microseconds(event.available_at),
                sequence(event.event_id),
                measures,
                item.offset,
            ),
        )
