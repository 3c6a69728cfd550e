"""What this room needs from others: an event log, catalog repositories, a lake and an online store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from antiphon.catalog.events import Event, StoredEvent
from antiphon.catalog.publications import Publication
from antiphon.catalog.snapshots import SnapshotManifest
from antiphon.catalog.verdicts import Staged, Verdict
from antiphon.core.scope import Scope
from antiphon.definitions.expression import Kind
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.online.overlay_records import OverlayCheck, OverlayEvent, OverlayReading, Progress
from antiphon.features.online.snapshots.encoding import SnapshotMeta
from antiphon.features.tiles.entity_state import EntityState
from antiphon.features.tiles.evaluate import Evaluator
from antiphon.features.values import EntityRow


class LakeDraft(Protocol):
    """A file being written; after the block it tells its place, the SHA-256 of its content and its stored size."""

    path: str
    sha256: str
    size: int

    def write(self, content: bytes, /) -> int:
        """Append to it."""
        ...


class LogReader(Protocol):
    """The event log, for reading."""

    def read(self, scope: Scope, stream: str, after: int, limit: int) -> Sequence[StoredEvent]:
        """Events with ``offset > after``, in order, at most ``limit``.

        Raises:
            CorruptionError: events that were there are not any more. UnavailableError: the log does not answer.
        """
        ...

    def end(self, scope: Scope, stream: str) -> int:
        """The last offset, 0 for an empty stream."""
        ...


class SourceLog(LogReader, Protocol):
    """The event log, for those who append too."""

    def append(self, scope: Scope, stream: str, events: Sequence[Event]) -> int:
        """Append in order, each event id once; the stream's last offset."""
        ...


class SnapshotStore(Protocol):
    """Repository of manifests."""

    def add(self, manifest: SnapshotManifest) -> SnapshotManifest:
        """Record a manifest; the same one again changes nothing."""
        ...

    def get(self, scope: Scope, snapshot: str) -> SnapshotManifest:
        """One manifest; raises ``NotFoundError``."""
        ...

    def list(
        self,
        scope: Scope,
        view: str | None = None,
        definition_version: str | None = None,
        *,
        limit: int = 100,
        pruned: bool = True,
    ) -> list[SnapshotManifest]:
        """Manifests, latest ``as_of`` first; without ``pruned`` only those that still have their files."""
        ...

    def pruned_at(self, scope: Scope, snapshot: str) -> datetime | None:
        """When its files were given up; ``None`` while it has them."""
        ...

    def prune(self, scope: Scope, snapshots: Collection[str], keep: int) -> Sequence[str]:
        """Give up files, but for snapshots of the last ``keep`` publications and those that wait; which it were."""
        ...

    def restore(self, scope: Scope, snapshot: str) -> None:
        """Its files are there again."""
        ...


class QuarantineStore(Protocol):
    """Verdicts as far as they keep rows aside."""

    def expiring(self, scope: Scope, before: datetime) -> Sequence[tuple[str, str, datetime]]:
        """Verdicts from before this moment that still have rows aside: id, view and when it was."""
        ...

    def expire(self, scope: Scope, verdicts: Collection[str]) -> None:
        """Their rows are given up."""
        ...


class VerdictStore(Protocol):
    """Verdicts of the gates, for writing."""

    def add(self, verdict: Verdict) -> None:
        """Record one; the same one again changes nothing."""
        ...


class StagedStore(Protocol):
    """Snapshots that wait for the end of an embargo."""

    def add(self, staged: Staged) -> None:
        """Let one wait; the same one again changes nothing."""
        ...

    def list(self, scope: Scope, due_by: datetime | None = None) -> list[Staged]:
        """What waits, or what is due, the earliest first."""
        ...

    def remove(self, scope: Scope, snapshot: str) -> None:
        """It waits no longer."""
        ...


class DefinitionReader(Protocol):
    """Definition versions, for reading."""

    def get(self, scope: Scope, view: str, version: str) -> FeatureViewSpec:
        """One definition; raises ``NotFoundError``."""
        ...


class PublicationReader(Protocol):
    """Publications, for reading."""

    def current(self, scope: Scope) -> Publication | None:
        """The latest, ``None`` before the first."""
        ...

    def get(self, scope: Scope, number: int) -> Publication:
        """One by number; raises ``NotFoundError``."""
        ...


class PublicationStore(PublicationReader, Protocol):
    """Publications, for publishing."""

    def list(self, scope: Scope, limit: int = 50) -> list[Publication]:
        """Latest first."""
        ...

    def publish(
        self, scope: Scope, changes: Mapping[str, str | None], *, expected: int, reason: str, principal: str
    ) -> Publication:
        """Publication ``expected + 1``; raises ``ConflictError`` when another came first."""
        ...

    def rollback(
        self, scope: Scope, to: int, *, reason: str, principal: str, expected: int | None = None
    ) -> Publication:
        """The snapshots of ``to`` again, as N + 1."""
        ...


class Lake(Protocol):
    """Immutable content-addressed files."""

    @property
    def sealed(self) -> bool:
        """Whether nothing clear of what is read or written here may reach a disk."""
        ...

    def writing(self, scope: Scope, suffix: str) -> AbstractContextManager[LakeDraft]:
        """A new file, in place when the block ends."""
        ...

    def open(self, relative: str) -> BinaryIO:
        """The clear content of a file, for reading at any position; raises ``CorruptionError`` when it is gone or
        changed."""
        ...

    def verify(self, relative: str, sha256: str) -> None:
        """Read a file to its end; raises ``CorruptionError`` when it is gone or its clear content is not what it
        was."""
        ...

    def scratch(self) -> Path:
        """A new empty folder on the lake's own disk. What is written there is not sealed."""
        ...


class CollectedLake(Lake, Protocol):
    """A lake whose garbage can be collected."""

    def files(self, scope: Scope) -> Iterator[str]:
        """Every file of a scope."""
        ...

    def collect(self, scope: Scope, keep: Iterable[str], older_than: float) -> list[str]:
        """Delete files that are not kept and were written before ``older_than`` (seconds since 1970)."""
        ...


class StateQuestion(msgspec.Struct, frozen=True):
    """What a reading needs of one entity.

    Attributes:
        entity: its hash.
        as_of: the moment (microseconds).
        patched: tiles into which streamed events fall; they are read event by event.
    """

    entity: bytes
    as_of: int
    patched: Collection[int] = ()


class OpenedSnapshot(Protocol):
    """A sealed snapshot opened for reading. Safe to share between threads."""

    @property
    def meta(self) -> SnapshotMeta:
        """What it says about itself."""
        ...

    @property
    def evaluator(self) -> Evaluator:
        """Its plan, ready to read."""
        ...

    @property
    def plain(self) -> tuple[tuple[int, Kind], ...]:
        """Unquantised measures whose column had a kind, with that kind."""
        ...

    def finished(self, entities: Sequence[bytes]) -> list[EntityRow | None]:
        """The finished row of each entity, by hash, at the cost of at most one round trip; ``None`` where it has none.
        A row is right from ``since`` on and before ``until``, for an entity of which nothing has streamed in.

        Raises:
            As :meth:`states`.
        """
        ...

    def states(self, asked: Sequence[StateQuestion]) -> list[EntityState]:
        """What it knows of each entity, in the order asked, at the cost of at most one round trip, and one more when
        tiles hold something that is not available yet.

        Raises:
            CorruptionError: the snapshot is gone or damaged; the publication before is to be read.
            UnavailableError: the store does not answer.
        """
        ...


class OnlineSnapshots(Protocol):
    """Sealed snapshots. A snapshot without its seal does not exist, whatever else is there of it."""

    def entity_hash(self, entity: str, keys: Iterable[str | None]) -> bytes:
        """16 bytes that stand for an entity."""
        ...

    def entity_hashes(self, entity: str, keys: Iterable[Sequence[str | None]]) -> list[bytes]:
        """:meth:`entity_hash` of many."""
        ...

    def build(self, manifest: SnapshotManifest, spec: FeatureViewSpec, lake: Lake) -> bool:
        """Build a snapshot from its lake files, unless it is there; whether it was built now. One that is there counts
        as written now."""
        ...

    def open(self, scope: Scope, view: str, snapshot: str) -> OpenedSnapshot:
        """The snapshot, opened once per process; raises ``CorruptionError`` when it is missing or damaged."""
        ...

    def sealed(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Tell whether the snapshot is there to be read, as far as that is known without reading it."""
        ...

    def whole(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Tell whether the snapshot is there and undamaged; all of it is read."""
        ...

    def condemn(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Take a damaged snapshot out of use, so that it is built again; whether it is damaged. All of it is read."""
        ...

    def forget(self, scope: Scope, keep: Iterable[tuple[str, str]]) -> None:
        """Let go of opened snapshots that are not among (view, snapshot) of ``keep``."""
        ...

    def collect(self, scope: Scope, keep: Iterable[tuple[str, str]], older_than: float) -> list[str]:
        """Delete snapshots that are not kept and were written before ``older_than`` (seconds since 1970), and what
        unfinished builds left."""
        ...

    def close(self) -> None:
        """Close everything opened."""
        ...


class CollectedSnapshots(OnlineSnapshots, Protocol):
    """Sealed snapshots whose garbage can be told."""

    def files(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Every sealed snapshot of a scope, as (view, snapshot)."""
        ...


class SealedValuesStore(Protocol):
    """The same store as whoever looks after encryption sees it."""

    def scopes(self) -> list[Scope]:
        """Every scope that has anything in it."""
        ...

    def files(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Every sealed snapshot of a scope, as (view, snapshot)."""
        ...

    def key_of(self, scope: Scope, view: str, snapshot: str) -> str | None:
        """Id of the data key that seals a snapshot's own key; ``None`` for one in plaintext."""
        ...

    def values(self, scope: Scope, view: str, snapshot: str) -> Iterator[tuple[bytes, bytes]]:
        """Every key and clear value; raises ``CorruptionError`` when one does not open or is missing."""
        ...

    def reseal(self, scope: Scope, view: str, snapshot: str) -> None:
        """Write it anew under a new key of its own; whoever reads goes on."""
        ...


class StreamedOverlay(Protocol):
    """Streamed events of one scope, with the consumer's offsets in the same store and transaction."""

    def read(self, views: Iterable[bytes], wanted: Iterable[tuple[bytes, bytes, int]] = ()) -> OverlayReading:
        """One consistent state, in one round trip: the offsets of ``views``, and of each (view, entity, offset) of
        ``wanted`` the events after that offset."""
        ...

    def apply(
        self, offsets: Mapping[bytes, int], events: Iterable[OverlayEvent], seen: Mapping[bytes, Progress]
    ) -> None:
        """Write events and move the views' offsets, all or nothing; offsets never go back, and ``seen`` counts only
        where one moves. Raises ``UnavailableError``."""
        ...

    def prune(self, view: bytes, through: int) -> int:
        """Drop a view's events with ``offset ≤ through``; how many there were."""
        ...

    def restore(self, view: bytes, through: int, events: Iterable[OverlayEvent], pruned: int) -> bool:
        """Put the events with ``through < offset ≤ pruned`` back; from now on only those through ``through`` are
        missing. ``False``, and nothing is changed, when more was pruned meanwhile."""
        ...

    def replay_through(self, targets: Mapping[bytes, int]) -> None:
        """Record, while a damaged overlay is replayed, the log offsets at which views have what it held; the first that
        is recorded for a view stays."""
        ...

    def caught_up(self) -> None:
        """End the replay of a damaged overlay; readings say ``replaying`` no more."""
        ...

    def reseal(self) -> int:
        """Write every event anew under a new key, unless all are under the present one; how many were written."""
        ...

    def check(self) -> OverlayCheck:
        """Open every event; what does not open is counted. Raises ``UnavailableError``."""
        ...

    def close(self) -> None:
        """Close it."""
        ...
