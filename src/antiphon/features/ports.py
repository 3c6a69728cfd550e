"""What this room needs from others: an event log, catalog repositories and a lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from antiphon.catalog.events import StoredEvent
from antiphon.catalog.publications import Publication
from antiphon.catalog.snapshots import SnapshotManifest
from antiphon.catalog.verdicts import Staged, Verdict
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec


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
        """Events with ``offset > after``, in order, at most ``limit``."""
        ...

    def end(self, scope: Scope, stream: str) -> int:
        """The last offset, 0 for an empty stream."""
        ...


class SnapshotStore(Protocol):
    """Repository of manifests."""

    def add(self, manifest: SnapshotManifest) -> SnapshotManifest:
        """Record a manifest; the same one again changes nothing."""
        ...

    def get(self, scope: Scope, snapshot: str) -> SnapshotManifest:
        """One manifest; raises ``NotFound``."""
        ...

    def list(
        self, scope: Scope, view: str | None = None, definition_version: str | None = None, *, limit: int = 100
    ) -> list[SnapshotManifest]:
        """Manifests, latest ``as_of`` first."""
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
        """One definition; raises ``NotFound``."""
        ...


class PublicationReader(Protocol):
    """Publications, for reading."""

    def current(self, scope: Scope) -> Publication | None:
        """The latest, ``None`` before the first."""
        ...

    def get(self, scope: Scope, number: int) -> Publication:
        """One by number; raises ``NotFound``."""
        ...


class PublicationStore(PublicationReader, Protocol):
    """Publications, for publishing."""

    def list(self, scope: Scope, limit: int = 50) -> list[Publication]:
        """Latest first."""
        ...

    def publish(
        self, scope: Scope, changes: Mapping[str, str | None], *, expected: int, reason: str, principal: str
    ) -> Publication:
        """Publication ``expected + 1``; raises ``Conflict`` when another came first."""
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
        """The clear content of a file, for reading at any position; raises ``Corrupt`` when it is gone or changed."""
        ...

    def scratch(self) -> Path:
        """A new empty folder on the lake's own disk. What is written there is not sealed."""
        ...
