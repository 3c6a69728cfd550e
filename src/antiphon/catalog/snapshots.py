"""Snapshots: the manifest of one materialized, immutable data version of a view.

A manifest stays for good. Its files are pruned once nothing needs them: first that is said here, in the transaction
that makes sure of it, then the files go; no publication can name it from then on.
"""

from __future__ import annotations

import builtins
from collections.abc import Collection
from datetime import datetime

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.snapshot_facts import (
    RuleCheck,
    SnapshotCost,
    SnapshotFacts,
    SourceQuality,
    SourceRead,
    Statistics,
)
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope
from antiphon.definitions.embedding import EmbeddingModel


class SnapshotFile(msgspec.Struct, frozen=True):
    """One immutable file of the lake: its path below the lake's root, the SHA-256 hex of its clear content, and how
    many bytes it takes as stored."""

    path: str
    sha256: str
    rows: int
    bytes: int


class QuarantinedRows(msgspec.Struct, frozen=True):
    """Rows that rules kept out: a Parquet file of the lake with the source's columns and ``antiphon_reason``, and how
    many rows each rule kept out (a row may offend several)."""

    file: SnapshotFile
    rows: int
    reasons: dict[str, int]


class SnapshotVectors(msgspec.Struct, frozen=True):
    """Facts about a feature of a snapshot that is a vector.

    Attributes:
        entities: how many have a vector; ``texts``: how many different texts they have.
        embedded: texts that were embedded for this snapshot; the others were known from the one before.
        truncated: texts that are longer than the model takes, of which the beginning counts.
        index: file of the nearest-neighbor index; ``None``: there are so few that every one is compared.
    """

    model: EmbeddingModel
    entities: int
    texts: int
    embedded: int
    truncated: int
    index: SnapshotFile | None = None


class SnapshotManifest(msgspec.Struct, frozen=True):
    """Contents and origin of a snapshot.

    Attributes:
        as_of: the state is that of the sources as known then.
        kind: how it was made: ``batch``, ``backfill`` or ``stream``.
        logical_hash: hash of its values, the same whatever the files' encoding or compaction.
        rows_in: rows read; ``rows_out`` rows (entities) written; ``rows_rejected`` rows refused at ingest, and
            ``rejections`` why: reason to rows.
        statistics: of each feature's values.
        source_quality: of the source's rows as read; ``sampling_rate`` the share of all events that it holds.
        checks: what rules over rows found. ``quarantined``: rows that they kept out.
        principal: who ordered it; ``reason`` why.
        read: what of the source was read for it, and what was taken over from the snapshot before.
        vectors: of each feature that is one, how many, of which model, and the index.
        source: description of the source as read; ``source_hash`` its content.
        online_file: path of the sealed online file below the online store's root.
        run: the run that made it.
        stream_offset: last offset of the source's stream that the state includes; ``None`` for a table.
    """

    id: str
    scope: Scope
    view: str
    definition_version: str
    as_of: datetime
    files: tuple[SnapshotFile, ...]
    logical_hash: str
    rows_in: int
    rows_out: int
    rows_rejected: int
    source: str
    source_hash: str
    created_at: datetime
    kind: str = "batch"
    statistics: dict[str, Statistics] = {}
    online_file: str | None = None
    duration_seconds: float = 0.0
    run: str | None = None
    stream_offset: int | None = None
    rejections: dict[str, int] = {}
    source_quality: SourceQuality | None = None
    sampling_rate: float = 1.0
    checks: tuple[RuleCheck, ...] = ()
    quarantined: QuarantinedRows | None = None
    cost: SnapshotCost = SnapshotCost()
    principal: str = ""
    reason: str = ""
    vectors: dict[str, SnapshotVectors] = {}
    read: SourceRead = SourceRead()

    @property
    def key(self) -> str:
        """``view@definition_version``."""
        return f"{self.view}@{self.definition_version}"

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file of the lake that it names."""
        kept = (self.quarantined.file.path,) if self.quarantined is not None else ()
        indexes = (one.index.path for one in self.vectors.values() if one.index is not None)
        return (*(file.path for file in self.files), *kept, *indexes)

    def facts(self) -> SnapshotFacts:
        """Returns the facts that go with each value."""
        quality = self.source_quality
        return SnapshotFacts(
            snapshot=self.id,
            as_of=self.as_of,
            created_at=self.created_at,
            source=self.source,
            source_hash=self.source_hash,
            source_quality=None if quality is None else quality.score,
            null_share=None if quality is None else quality.null_share,
            late_share=None if quality is None else quality.late_share,
            duplicate_share=None if quality is None else quality.duplicate_share,
            sampling_rate=self.sampling_rate,
            rows_in=self.rows_in,
            rows_out=self.rows_out,
            rows_rejected=self.rows_rejected,
        )


_SCHEMA = "snapshot/1"
_decoder = msgspec.json.Decoder(SnapshotManifest)


class Snapshots:
    """Repository of snapshot manifests."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, manifest: SnapshotManifest, *, within: Connection | None = None) -> SnapshotManifest:
        """Record a manifest. Recording the same one again changes nothing.

        Raises:
            ConflictError: another manifest has this id.
        """
        with self._database.writing(within) as connection:
            known = self._find(connection, manifest.scope, manifest.id)
            if known is not None:
                if canonical(known) == canonical(manifest):
                    return known
                raise _taken(manifest)
            try:
                connection.execute(
                    insert(schema.snapshots).values(
                        tenant=manifest.scope.tenant,
                        environment=manifest.scope.environment,
                        id=manifest.id,
                        view=manifest.view,
                        definition_version=manifest.definition_version,
                        as_of=microseconds(manifest.as_of),
                        logical_hash=manifest.logical_hash,
                        document=self._database.seal(
                            manifest.scope, _SCHEMA, manifest.id, msgspec.json.encode(manifest)
                        ),
                        created_at=microseconds(manifest.created_at),
                    )
                )
            except IntegrityError as error:
                raise _taken(manifest) from error
        return manifest

    def get(self, scope: Scope, snapshot: str, *, within: Connection | None = None) -> SnapshotManifest:
        """The manifest of one snapshot.

        Raises:
            NotFoundError: there is none of this id here.
        """
        with self._database.reading(within) as connection:
            found = self._find(connection, scope, snapshot)
        if found is None:
            raise NotFoundError(
                f"There is no snapshot {snapshot!r}.", where=str(scope), next_step="See `antiphon features list`."
            )
        return found

    def list(
        self,
        scope: Scope,
        view: str | None = None,
        definition_version: str | None = None,
        *,
        limit: int = 100,
        pruned: bool = True,
        within: Connection | None = None,
    ) -> list[SnapshotManifest]:
        """Manifests, latest ``as_of`` first; without ``pruned`` only those that still have their files."""
        table = schema.snapshots
        statement = select(table.c.id, table.c.document).where(schema.owned(table, scope))
        if view is not None:
            statement = statement.where(table.c.view == view)
        if definition_version is not None:
            statement = statement.where(table.c.definition_version == definition_version)
        if not pruned:
            statement = statement.where(table.c.pruned_at.is_(None))
        statement = statement.order_by(table.c.as_of.desc(), table.c.created_at.desc(), table.c.id.desc()).limit(limit)
        with self._database.reading(within) as connection:
            rows = connection.execute(statement).all()
        return [self._opened(scope, row.id, row.document) for row in rows]

    def pruned_at(self, scope: Scope, snapshot: str) -> datetime | None:
        """Returns the time at which its files were removed; ``None`` while it has them, or when it is not known."""
        table = schema.snapshots
        with self._database.read() as connection:
            at = connection.execute(
                select(table.c.pruned_at).where(schema.owned(table, scope), table.c.id == snapshot)
            ).scalar()
        return None if at is None else from_microseconds(at)

    def prune(self, scope: Scope, snapshots: Collection[str], keep: int) -> builtins.list[str]:
        """Give up these snapshots' files, but for those that one of the last ``keep`` publications names or that wait
        for the end of an embargo; which were given up."""
        published, staged, table = schema.publications, schema.staged_snapshots, schema.snapshots
        with self._database.transaction() as connection:
            latest = select(published.c.snapshots).where(schema.owned(published, scope))
            named: set[str] = set(
                connection.execute(select(staged.c.snapshot).where(schema.owned(staged, scope))).scalars()
            )
            for document in connection.execute(latest.order_by(published.c.number.desc()).limit(keep)).scalars():
                named.update(msgspec.json.decode(document, type=dict[str, str]).values())
            gone = sorted(set(snapshots) - named)
            for snapshot in gone:
                connection.execute(
                    update(table)
                    .where(schema.owned(table, scope), table.c.id == snapshot, table.c.pruned_at.is_(None))
                    .values(pruned_at=microseconds(self._database.clock.now()))
                )
        return gone

    def restore(self, scope: Scope, snapshot: str) -> None:
        """Its files are there again."""
        table = schema.snapshots
        with self._database.transaction() as connection:
            connection.execute(
                update(table).where(schema.owned(table, scope), table.c.id == snapshot).values(pruned_at=None)
            )

    def _find(self, connection: Connection, scope: Scope, snapshot: str) -> SnapshotManifest | None:
        table = schema.snapshots
        document = connection.execute(
            select(table.c.document).where(schema.owned(table, scope), table.c.id == snapshot)
        ).scalar()
        return None if document is None else self._opened(scope, snapshot, document)

    def _opened(self, scope: Scope, snapshot: str, document: bytes) -> SnapshotManifest:
        return _decoder.decode(self._database.unseal(scope, _SCHEMA, snapshot, document))


def _taken(manifest: SnapshotManifest) -> ConflictError:
    return ConflictError(
        f"The snapshot id {manifest.id!r} is taken by another manifest.",
        where=str(manifest.scope),
        next_step="A snapshot is immutable: give the new one its own id.",
    )
