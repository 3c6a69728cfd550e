"""Source events in, with a bound on how far the consumer may be behind, and how far it is."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import msgspec

from antiphon.catalog.features.events import Event
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.errors import AntiphonError, NotFoundError, OverloadedError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.streaming.consumer import StreamStatus
from antiphon.orchestration.stream_partitions import held_partitions
from antiphon.services.features.following import follower_statuses
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store

LOOK_SECONDS = 0.25
"""Validity of a measured stream lag."""

_UNKNOWN_RETRY = 5.0
_LONGEST_RETRY = 60.0


class _StreamLag(msgspec.Struct):
    """One look at a stream: when (monotonic seconds), its end, the furthest view, and the consumer's pace."""

    at: float
    end: int
    consumed: int
    pace: float = 0.0


class ProjectStreams:
    """Appends source events and reports the consumers' progress."""

    def __init__(self, store: Store, platform: FeaturePlatform) -> None:
        self._store = store
        self._platform = platform
        self._bound = store.settings.features.max_lag
        self._looked: dict[str, _StreamLag] = {}
        self._lock = threading.Lock()

    def append(self, scope: Scope, stream: str, events: Sequence[Event]) -> int:
        """Append to a declared stream; its last offset.

        Raises:
            NotFoundError: no applied view reads a stream of this name.
            OverloadedError: the consumer is further behind than ``[features] max_lag`` allows; nothing is stored.
            UnavailableError: the log is away.
        """
        declared = _streams(self._platform.views()) if self._platform.serves(scope) else []
        if stream not in declared:
            raise NotFoundError(
                f"No view reads a stream named {stream!r}.",
                where="stream",
                next_step=f"Declared streams: {', '.join(declared) or 'none'}.",
            )
        if self._bound > 0:
            self._admit(scope, stream)
        end = self._store.events.append(
            scope,
            stream,
            [Event(event.event_id, event.event_time, event.available_at, event.payload) for event in events],
        )
        with self._lock:
            known = self._looked.get(stream)
            if known is not None:
                known.end = max(known.end, end)
        return end

    def _admit(self, scope: Scope, stream: str) -> None:
        now = self._store.database.clock.monotonic()
        with self._lock:
            known = self._looked.get(stream)
        if known is None or now - known.at >= LOOK_SECONDS:
            known = self._look(scope, stream, now, known)
            with self._lock:
                self._looked[stream] = known
        lag = known.end - known.consumed
        if lag < self._bound:
            return
        # Until half of the bound is free again, or a guess while nothing moves.
        wait = (lag - self._bound / 2) / known.pace if known.pace > 0 else _UNKNOWN_RETRY
        raise OverloadedError(
            f"The consumer is {lag} events behind in stream {stream!r}, and at most {self._bound} are let wait.",
            where="stream",
            retry_after=min(max(wait, 1.0), _LONGEST_RETRY),
            next_step="Send the same events again later; `antiphon features streams` tells what it waits for.",
        )

    def _look(self, scope: Scope, stream: str, now: float, before: _StreamLag | None) -> _StreamLag:
        end = self._store.events.end(scope, stream)
        consumer = self._platform.consumer
        consumer.follow(self._platform.views().values())
        try:
            # The furthest view: a new one that catches up takes nothing from anybody.
            consumed = consumer.furthest(stream)
        except UnavailableError:
            # The log still takes events while the online store is away, as far as the bound goes.
            consumed = before.consumed if before is not None else 0
        if before is None or now <= before.at:
            return _StreamLag(now, end, consumed)
        return _StreamLag(now, end, consumed, max(0.0, (consumed - before.consumed) / (now - before.at)))

    def status(self, scope: Scope, views: Mapping[str, FeatureViewSpec] | None = None) -> Sequence[StreamStatus]:
        """Every declared stream, its follower, and the workers that consume it: ``consumed`` is what all its views
        have.

        Args:
            views: what :meth:`FeaturePlatform.views` said, where it was asked already.
        """
        if not self._platform.serves(scope):
            return ()
        views = self._platform.views() if views is None else views
        declared = _streams(views)
        if not declared:
            return ()
        consumer = self._platform.consumer
        consumer.follow(views.values())
        now = self._store.database.clock.now()
        held = held_partitions(ProcessLeases(self._store.database, scope.environment), scope.tenant)
        found: list[StreamStatus] = []
        for stream in declared:
            try:
                found += consumer.status(now, (stream,))
            except AntiphonError as error:
                found.append(StreamStatus(stream, 0, 0, 0, problem=str(error)))
        followed = follower_statuses(self._store, views.values())
        return [
            msgspec.structs.replace(one, workers=dict(held.get(one.stream, {})), follower=followed.get(one.stream))
            for one in found
        ]


def _streams(views: Mapping[str, FeatureViewSpec]) -> list[str]:
    return sorted({view.source.name for view in views.values() if view.source.kind == "stream"})
