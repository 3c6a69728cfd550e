"""The stream consumer: source events from the log become measured events of the overlay.

Invariant: an event is quantised once, here, and stands in the overlay under its log offset in the same transaction
that moves the consumer's offset; so a crash at any point repeats work and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from antiphon.catalog.events import StoredEvent
from antiphon.core.clock import microseconds
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.compile_python import Measured, Payload, compile_measures, key_texts, sequence
from antiphon.features.evaluate import StreamedEvent
from antiphon.features.online.streamed import OverlayEvent, view_prefix
from antiphon.features.plan import plan_of
from antiphon.features.ports import LogReader, OnlineSnapshots, StreamedOverlay


class Consumed(msgspec.Struct, frozen=True):
    """How far a view's consumer is in its stream; it is caught up when ``offset == end``."""

    view: str
    definition_version: str
    stream: str
    offset: int
    end: int
    rejected: int


class _Follower:
    """One view that follows a stream."""

    def __init__(self, spec: FeatureViewSpec) -> None:
        self.spec = spec
        self.prefix = view_prefix(spec.key)
        self.measured: Callable[[Payload], Measured | None] = compile_measures(plan_of(spec))


class StreamConsumer:
    """Feeds the overlay of one scope; one consumer per scope at a time.

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
    ) -> None:
        self._scope = scope
        self._log = log
        self._overlay = overlay
        self._online = online
        self._followers: dict[str, _Follower] = {}
        self.follow(views)

    def follow(self, views: Iterable[FeatureViewSpec]) -> None:
        """Follow these views' streams too; views of tables are passed over."""
        for spec in views:
            if spec.source.kind == "stream" and spec.key not in self._followers:
                self._followers[spec.key] = _Follower(spec)

    def poll(self, limit: int = 1_000) -> int:
        """Take at most ``limit`` events of every stream; how many log events were taken, 0 when caught up.

        Raises:
            Unavailable: the catalog is away or the overlay is full.
        """
        taken = 0
        streams: dict[str, list[_Follower]] = {}
        for follower in self._followers.values():
            streams.setdefault(follower.spec.source.name, []).append(follower)
        for stream, followers in streams.items():
            reading = self._overlay.read([follower.prefix for follower in followers])
            at = {follower.spec.key: reading.offsets[follower.prefix] for follower in followers}
            stored = self._log.read(self._scope, stream, min(at.values()), limit)
            if not stored:
                continue
            events: list[OverlayEvent] = []
            rejected: dict[bytes, int] = {}
            for follower in followers:
                for item in stored:
                    if item.offset <= at[follower.spec.key]:
                        continue
                    event = self._measured(follower, item)
                    if event is None:
                        rejected[follower.prefix] = rejected.get(follower.prefix, 0) + 1
                    elif event is not _FILTERED:
                        events.append(event)
            self._overlay.apply({f.prefix: stored[-1].offset for f in followers}, events, rejected)
            taken += len(stored)
        return taken

    def status(self) -> list[Consumed]:
        """How far every followed view is."""
        reading = self._overlay.read([follower.prefix for follower in self._followers.values()])
        return [
            Consumed(
                view=follower.spec.name,
                definition_version=follower.spec.definition_version,
                stream=follower.spec.source.name,
                offset=reading.offsets[follower.prefix],
                end=self._log.end(self._scope, follower.spec.source.name),
                rejected=reading.rejected[follower.prefix],
            )
            for follower in self._followers.values()
        ]

    def restore(self, spec: FeatureViewSpec, after: int) -> int:
        """Put back a view's pruned events with ``offset > after``, before a snapshot that needs them comes back.

        Returns:
            How many log events were read again.
        """
        self.follow([spec])
        follower = self._followers[spec.key]
        pruned = self._overlay.read([follower.prefix]).pruned[follower.prefix]
        read = 0
        events: list[OverlayEvent] = []
        at = after
        while at < pruned:
            stored = self._log.read(self._scope, spec.source.name, at, 1_000)
            if not stored:
                break
            for item in stored:
                at = item.offset
                if item.offset > pruned:
                    break
                read += 1
                event = self._measured(follower, item)
                if event is not None and event is not _FILTERED:
                    events.append(event)
        if after < pruned:
            self._overlay.restore(follower.prefix, after, events)
        return read

    def _measured(self, follower: _Follower, item: StoredEvent) -> OverlayEvent | None:
        event = item.event
        keys = key_texts(follower.spec.entity.keys, event.payload)
        if keys is None:
            return None
        measures = follower.measured(event.payload)
        if measures is None:
            return _FILTERED
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


_FILTERED = OverlayEvent(b"", b"", StreamedEvent(0, 0, "", (), 0))
"""Stands for an event that the source's filter drops."""
