"""What this room needs from others: an event log, catalog repositories and a lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from antiphon.catalog.events import StoredEvent
from antiphon.catalog.publications import Publication
from antiphon.catalog.snapshots import SnapshotManifest
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec


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

    def put(self, scope: Scope, file: Path) -> tuple[str, str, int]:
        """Move a finished file in; its path below the root, SHA-256 and size in bytes."""
        ...

    def path(self, relative: str) -> Path:
        """Where a file can be read; raises ``Corrupt`` when it is gone."""
        ...

    def scratch(self) -> Path:
        """A new empty folder on the lake's own disk, for files not finished yet."""
        ...
