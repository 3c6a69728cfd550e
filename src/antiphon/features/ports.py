"""Ports of the features package: an event log, an online store and its overlay, and places that are followed, each with
two implementations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from antiphon.catalog.features.events import Event, StoredEvent
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.nodes import Kind
from antiphon.features.lake.content import Lake
from antiphon.features.online.overlay_records import (
    OverlayCheck,
    OverlayEvent,
    OverlayState,
    ProgressMove,
    ViewPartition,
)
from antiphon.features.online.snapshots.encoding import SnapshotMeta
from antiphon.features.tiles.entity_state import EntityState
from antiphon.features.tiles.evaluate import ViewEvaluator
from antiphon.features.values import EntityRow


class LogReader(Protocol):
    """The event log, for reading: the catalog's ``EventLog`` and ``NatsEventLog``."""

    def read(self, scope: Scope, stream: str, after: int, limit: int) -> Sequence[StoredEvent]:
        """Events with ``offset > after``, in order, at most ``limit``.

        Raises:
            CorruptionError: events were lost. UnavailableError: the log does not answer.
        """

    def end(self, scope: Scope, stream: str) -> int:
        """The last offset, 0 for an empty stream."""


class FollowedPage(msgspec.Struct, frozen=True):
    """Events of a followed place, and where reading goes on once they are in the log.

    Attributes:
        position: in the reader's own words.
        more: the next page is there already.
        refused: rows that are no events; ``refusal`` says why the last one is none, without values.
        lost: messages that were removed before they were read.
        waiting: messages after these, where the place tells.
        caught_up_at: everything that was written before then has been read; ``None`` where that is not so yet.
    """

    events: tuple[Event, ...]
    position: str
    more: bool
    refused: int = 0
    refusal: str | None = None
    lost: int = 0
    waiting: int | None = None
    caught_up_at: datetime | None = None


class FollowedReader(Protocol):
    """A place that another system writes to: a table of PostgreSQL, messages of NATS JetStream, or
    files of a folder.

    What was in a page may come again in a later one; nothing that was written is in none.
    """

    def read(self, position: str | None, limit: int) -> FollowedPage:
        """The rows after a position (``None``: the beginning), at most ``limit``.

        Raises:
            UnavailableError: the place does not answer. SetupError: it refuses access.
            InvalidInputError: it is not as the source declares it.
        """

    def abandon(self) -> None:
        """End a reading that hangs, from another thread; the reader is closed and used no more."""

    def close(self) -> None:
        """Close the connection."""


class StateQuery(msgspec.Struct, frozen=True):
    """A query for the state of one entity.

    Attributes:
        entity: its hash.
        as_of: the moment (microseconds).
        patched: tiles into which streamed events fall; they are read event by event.
    """

    entity: bytes
    as_of: int
    patched: Collection[int] = ()


class OpenedSnapshot(Protocol):
    """An online snapshot opened for reading, in LMDB or Redis. Safe to share between threads."""

    @property
    def meta(self) -> SnapshotMeta:
        """Its description: view, definition version, moment and files."""

    @property
    def evaluator(self) -> ViewEvaluator:
        """Its plan, ready to read."""

    @property
    def plain(self) -> tuple[tuple[int, Kind], ...]:
        """Unquantized measures whose column had a kind, with that kind."""

    def finished(self, entities: Sequence[bytes]) -> list[EntityRow | None]:
        """The finished row of each entity, by hash, at the cost of at most one round trip; ``None`` where it has none.
        A row is right from ``since`` on and before ``until``, for an entity without streamed events.

        Raises:
            As :meth:`states`.
        """

    def states(self, queries: Sequence[StateQuery]) -> list[EntityState]:
        """The state of each entity, in the order of the queries, at the cost of at most one round trip, and one more
        when tiles hold something that is not available yet.

        Raises:
            CorruptionError: the snapshot is gone or damaged; the publication before is to be read.
            UnavailableError: the store does not answer.
        """


class OnlineSnapshots(Protocol):
    """The online store of snapshots, in LMDB or Redis. A snapshot without its seal does not exist."""

    def entity_hash(self, entity: str, keys: Iterable[str | None]) -> bytes:
        """The keyed hash of an entity, 16 bytes."""

    def entity_hashes(self, entity: str, keys: Iterable[Sequence[str | None]]) -> list[bytes]:
        """:meth:`entity_hash` of many."""

    def build(self, manifest: SnapshotManifest, spec: FeatureViewSpec, lake: Lake) -> bool:
        """Build a snapshot from its lake files, unless it exists; tell whether it was built. An existing one counts as
        written at this moment. Raises ``CorruptionError`` when a lake file is gone, ``UnavailableError`` when the store
        is full or does not answer."""

    def open(self, scope: Scope, view: str, snapshot: str) -> OpenedSnapshot:
        """Open a snapshot, once per process; raises ``CorruptionError`` when it is missing, damaged or does not open,
        and ``UnavailableError`` when the store does not answer, like every method below."""

    def sealed(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Tell whether the snapshot can be read, as far as that is known without reading it."""

    def whole(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Tell whether the snapshot exists and is undamaged; every byte is read."""

    def condemn(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Take a damaged snapshot out of use, so that it is built again; tell whether it was damaged. Every byte is
        read."""

    def forget(self, scope: Scope, keep: Iterable[tuple[str, str]]) -> None:
        """Close opened snapshots that are not among (view, snapshot) of ``keep``."""

    def files(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Every sealed snapshot of a scope, as (view, snapshot)."""

    def collect(self, scope: Scope, keep: Iterable[tuple[str, str]], older_than: float) -> list[str]:
        """Delete snapshots outside of ``keep`` that were written before ``older_than`` (seconds since 1970), and the
        remains of unfinished builds."""

    def erase(self, tenant: str) -> int:
        """Delete everything of a tenant, its overlays too, in all environments; how many files or keys there were."""

    def close(self) -> None:
        """Close everything opened."""


class StreamedOverlay(Protocol):
    """Streamed events of one scope in LMDB or Redis, with the consumers' progress in the same store and transaction."""

    def read(self, views: Iterable[bytes], queries: Iterable[tuple[bytes, bytes, int]] = ()) -> OverlayState:
        """One consistent state, in one round trip: the progress of ``views``, and for each query (view, entity, offset)
        the events after that offset."""

    def apply(self, moves: Mapping[ViewPartition, ProgressMove], events: Iterable[OverlayEvent]) -> bool:
        """Write events and move the partitions that they are of, all or none: ``False``, and none moves, unless each is
        still where the consumer read it. Raises ``UnavailableError`` when the store or its disk is full or does not
        answer."""

    def prune(self, view: bytes, through: int, decided: int) -> int:
        """Drop a view's events with ``offset ≤ through``, which every snapshot in use includes as of publication
        ``decided``; at most up to the view's fence (``prune_fence``). Return their number."""

    def restore(self, view: bytes, through: int, events: Iterable[OverlayEvent], pruned: int, publication: int) -> bool:
        """Put the events with ``through < offset ≤ pruned`` back, so that only those up to ``through`` are missing, and
        keep what is after ``through`` from prunes decided before ``publication``, which needs it; all or nothing.
        Return ``False`` and change nothing when more was pruned meanwhile."""

    def replay_through(self, targets: Mapping[bytes, int]) -> None:
        """Record, while a damaged overlay is replayed, the log offsets at which views have their former events; the
        first one recorded for a view stays."""

    def caught_up(self) -> None:
        """End the replay of a damaged overlay: readings are ``replaying`` until then."""

    def reseal(self) -> int:
        """Write every event again under a new key, unless all are under the present one; return how many."""

    def events(self, view: bytes) -> Iterator[OverlayEvent]:
        """Every event of a view, in any order; of one that is written meanwhile, in a state between before and
        after."""

    def check(self) -> OverlayCheck:
        """Open every event and count those that do not open. Raises ``UnavailableError``."""

    def close(self) -> None:
        """Close it."""
