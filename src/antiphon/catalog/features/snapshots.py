"""Snapshots: the manifest of one materialized, immutable data version of a view.

A manifest stays for good. Its files are pruned once nothing needs them: first that is said here, in the transaction
that makes sure of it, then the files go; no publication can name it from then on. No publication names one either that
a backfill made, until it is promoted.
"""

from __future__ import annotations

import builtins
from collections.abc import Collection
from datetime import datetime

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.features.snapshot_facts import (
    RuleCheck,
    SnapshotCost,
    SnapshotFacts,
    SourceQuality,
    SourceRead,
    Statistics,
)
from antiphon.catalog.rows import SealedRows
from antiphon.core.errors import ConflictError
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


class Snapshots:
    """Repository of snapshot manifests."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "snapshots.document", SnapshotManifest)

    def add(self, manifest: SnapshotManifest) -> SnapshotManifest:
        """Record a manifest. Recording the same one again changes nothing.

        Raises:
            ConflictError: another manifest has this id.
        """
        with self._database.transaction() as connection:
            known = self._documents.get(manifest.scope, manifest.id, within=connection)
            if known is None:
                connection.execute(insert(schema.snapshots).values(self._documents.row(manifest, backfilled=False)))
            elif canonical(known) != canonical(manifest):
                raise ConflictError(
                    f"The snapshot id {manifest.id!r} is taken by another manifest.",
                    where=str(manifest.scope),
                    next_step="A snapshot is immutable: give the new one its own id.",
                )
        return known or manifest

    def add_backfilled(self, manifest: SnapshotManifest, *, within: Connection) -> None:
        """Record the manifest of a snapshot that no publication may name. The same values, made before by whomever,
        stay recorded as they were; their files are there again."""
        statement = upsert(schema.snapshots).values(self._documents.row(manifest, backfilled=True))
        within.execute(statement.on_conflict_do_update(set_={"pruned_at": None}))

    def get(self, scope: Scope, snapshot: str) -> SnapshotManifest:
        """The manifest of one snapshot.

        Raises:
            NotFoundError: there is none of this id here.
        """
        return self._documents.require(scope, snapshot, "snapshot", "See `antiphon features list`.")

    def find(self, scope: Scope, snapshot: str | None) -> SnapshotManifest | None:
        """The manifest of one snapshot; ``None`` when there is none of this id here, or no id."""
        return self._documents.get(scope, snapshot) if snapshot else None

    def list(
        self,
        scope: Scope,
        view: str | None = None,
        definition_version: str | None = None,
        *,
        limit: int = 100,
        pruned: bool = True,
        backfilled: bool = False,
    ) -> list[SnapshotManifest]:
        """Manifests, latest ``as_of`` first; without ``pruned`` only those that still have their files, and with
        ``backfilled`` also those that a backfill made and nobody promoted."""
        table = schema.snapshots
        conditions = schema.given(table, view=view, definition_version=definition_version)
        if not pruned:
            conditions.append(table.c.pruned_at.is_(None))
        if not backfilled:
            conditions.append(table.c.backfilled.is_(False))
        order = (table.c.as_of.desc(), table.c.created_at.desc(), table.c.id.desc())
        return self._documents.find(scope, *conditions, order=order, limit=limit)

    def pruned_at(self, scope: Scope, snapshot: str) -> datetime | None:
        """Returns the time at which its files were removed; ``None`` while it has them, or when it is not known."""
        table = schema.snapshots
        at: datetime | None = self._database.scalar(
            select(table.c.pruned_at).where(schema.owned(table, scope, id=snapshot))
        )
        return at

    def prune(self, scope: Scope, snapshots: Collection[str], keep: int) -> builtins.list[str]:
        """Give up these snapshots' files, but for those that one of the last ``keep`` publications names, that wait
        for the end of an embargo or that a backfill keeps; which were given up."""
        published, staged, table = schema.publications, schema.staged_snapshots, schema.snapshots
        partitions = schema.backfill_partitions
        with self._database.transaction() as connection:
            latest = select(published.c.snapshots).where(schema.owned(published, scope))
            named: set[str] = set(
                connection.execute(select(staged.c.snapshot).where(schema.owned(staged, scope))).scalars()
            )
            backfilled = select(partitions.c.snapshot).where(schema.owned(partitions, scope))
            named.update(connection.execute(backfilled.where(partitions.c.snapshot.is_not(None))).scalars())
            for document in connection.execute(latest.order_by(published.c.number.desc()).limit(keep)).scalars():
                named.update(msgspec.json.decode(document, type=dict[str, str]).values())
            gone = sorted(set(snapshots) - named)
            for snapshot in gone:
                connection.execute(
                    update(table)
                    .where(schema.owned(table, scope, id=snapshot), table.c.pruned_at.is_(None))
                    .values(pruned_at=self._database.clock.now())
                )
        return gone

    def publishable(self, scope: Scope, snapshot: str) -> bool:
        """Tells whether a publication may name it: it is recorded, has its files and is no backfill's."""
        table = schema.snapshots
        own = schema.owned(table, scope, id=snapshot)
        fit = select(table.c.id).where(own, table.c.pruned_at.is_(None), table.c.backfilled.is_(False))
        return self._database.scalar(fit) is not None

    def restore(self, scope: Scope, snapshot: str, *, within: Connection | None = None) -> None:
        """Its files are there again, and publications may name it."""
        table = schema.snapshots
        values = {"pruned_at": None, "backfilled": False}
        with self._database.writing(within) as connection:
            connection.execute(update(table).where(schema.owned(table, scope, id=snapshot)).values(values))
