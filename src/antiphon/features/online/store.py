"""The online store of one root folder: builds sealed files from the lake, opens them, and forgets old ones."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from antiphon.catalog.snapshots import SnapshotManifest
from antiphon.core.clock import microseconds
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import Corrupt
from antiphon.core.ids import keyed_hash
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.compile_sql import column_kind
from antiphon.features.compute import ComputeLimits, compute, parquet_reader
from antiphon.features.compute import types_of as column_types
from antiphon.features.evaluate import Block, TileRow, block_of
from antiphon.features.online.sealed import FORMAT, SealedSnapshot, SealedWriter, SnapshotMeta, is_sealed, seal_path
from antiphon.features.plan import SLACK, Plan, plan_of
from antiphon.features.ports import Lake
from antiphon.features.tile_sql import column_names, tiles_of
from antiphon.features.tiles import Tile

if TYPE_CHECKING:
    import duckdb

    from antiphon.definitions.expression import Kind

_FETCH = 2_000
_EVENTS, _TILES = "lake_events", "lake_tiles"


class OnlineStore:
    """Sealed snapshots below one root.

    Args:
        root: the folder; files are ``TENANT/ENVIRONMENT/VIEW/SNAPSHOT.mdb``.
        key: the store's secret; entities are only known by their hash under it.
        codec: seals each file's own key, under which its values are sealed.
    """

    def __init__(self, root: Path, key: bytes, codec: Codec | None = None) -> None:
        self._root = root
        self._key = key
        self._codec: Codec = codec or PlainCodec()
        self._lock = threading.Lock()
        self._opened: dict[tuple[Scope, str, str], SealedSnapshot] = {}

    @property
    def root(self) -> Path:
        """The store's folder."""
        return self._root

    def entity_hash(self, entity: str, keys: Iterable[str | None]) -> bytes:
        """16 bytes that stand for an entity; ``keys`` are the key values as text, in order. Without any value (all are
        null) it is all entities together."""
        return keyed_hash(self._key, msgspec.json.encode([entity, *keys]).decode())

    def file(self, scope: Scope, view: str, snapshot: str) -> Path:
        """Where a snapshot's sealed file is."""
        return self._root / scope.tenant / scope.environment / view / f"{snapshot}.mdb"

    def sealed(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Whether the snapshot can be read online."""
        return is_sealed(self.file(scope, view, snapshot), snapshot)

    def build(
        self, manifest: SnapshotManifest, spec: FeatureViewSpec, lake: Lake, limits: ComputeLimits | None = None
    ) -> bool:
        """Build a snapshot's sealed file from its lake files, unless it is there; whether it was built now.

        Raises:
            Corrupt: a lake file is gone.
        """
        target = self.file(manifest.scope, manifest.view, manifest.id)
        if is_sealed(target, manifest.id):
            return False
        plan = plan_of(spec)
        bounds = limits or ComputeLimits()
        folder = None if lake.sealed else lake.scratch()
        bounds = msgspec.structs.replace(bounds, spill=None if folder is None else bounds.spill or str(folder))
        try:
            with (
                compute(bounds) as connection,
                lake.open(manifest.files[0].path) as events,
                lake.open(manifest.files[1].path) as tiles,
            ):
                self._build(connection, target, manifest, plan, events, tiles)
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        return True

    def _build(
        self,
        connection: duckdb.DuckDBPyConnection,
        target: Path,
        manifest: SnapshotManifest,
        plan: Plan,
        events: BinaryIO,
        tiles: BinaryIO,
    ) -> None:
        spec = plan.spec
        connection.register(_EVENTS, parquet_reader(events))
        types = column_types(connection, _EVENTS)
        connection.unregister(_EVENTS)
        writer = SealedWriter(
            target, _meta(manifest, plan, types), manifest.files[0].bytes, self._codec, manifest.scope
        )
        try:
            # A registered relation belongs to one cursor.
            of_tiles, of_events = connection.cursor(), connection.cursor()
            of_tiles.register(_TILES, parquet_reader(tiles))
            of_events.register(_EVENTS, parquet_reader(events))
            heads = _heads(of_tiles, plan, _TILES)
            blocks = _Grouped(_blocks(of_events, plan, _EVENTS))
            for keys, base, rows in heads:
                hashed = self.entity_hash(spec.entity.name, keys)
                writer.entity(hashed, base, rows, blocks.of(keys))
        except BaseException:
            writer.discard()
            raise
        writer.seal()

    def reseal(self, scope: Scope, view: str, snapshot: str) -> None:
        """Write a file anew under a new key of its own, in the place of the old one; whoever reads the old one goes on.

        Raises:
            Corrupt: it is missing, or does not open.
        """
        file = self.file(scope, view, snapshot)
        before = SealedSnapshot(file, snapshot, self._codec, scope)
        try:
            writer = SealedWriter(file, before.meta, file.stat().st_size, self._codec, scope)
            try:
                for key, value in before.values():
                    if key != b"m":
                        writer.copy(key, value)
            except BaseException:
                writer.discard()
                raise
            writer.seal(instead_of=before.seal)
        finally:
            before.close()

    def values(self, scope: Scope, view: str, snapshot: str) -> Iterator[tuple[bytes, bytes]]:
        """Every key and clear value of a snapshot's file, to check it.

        Raises:
            Corrupt: the file is missing, or it or a value does not open.
        """
        opened = SealedSnapshot(self.file(scope, view, snapshot), snapshot, self._codec, scope)
        try:
            yield from opened.values()
        finally:
            opened.close()

    def files(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Every sealed file of a scope, as (view, snapshot)."""
        for file in sorted((self._root / scope.tenant / scope.environment).glob("*/*.mdb")):
            if not file.name.startswith("."):
                yield file.parent.name, file.stem

    def open(self, scope: Scope, view: str, snapshot: str) -> SealedSnapshot:
        """The snapshot, opened once per process.

        Raises:
            Corrupt: its file is missing, or its seal does not match.
        """
        found = self._opened.get((scope, view, snapshot))
        if found is not None:
            return found
        with self._lock:
            found = self._opened.get((scope, view, snapshot))
            if found is None:
                found = self._opened_anew(scope, view, snapshot)
                self._opened[scope, view, snapshot] = found
            return found

    def _opened_anew(self, scope: Scope, view: str, snapshot: str) -> SealedSnapshot:
        file = self.file(scope, view, snapshot)
        try:
            return SealedSnapshot(file, snapshot, self._codec, scope)
        except Corrupt:
            # Between its check and its opening the file may have been replaced by one of the same content.
            return SealedSnapshot(file, snapshot, self._codec, scope)

    def forget(self, scope: Scope, keep: Iterable[tuple[str, str]]) -> None:
        """Let go of opened snapshots of a scope that are not among (view, snapshot) of ``keep``; each closes when
        the last request that reads it is done."""
        kept = set(keep)
        with self._lock:
            for key in [key for key in self._opened if key[0] == scope and key[1:] not in kept]:
                del self._opened[key]

    def collect(self, scope: Scope, keep: Iterable[tuple[str, str]], older_than: float) -> list[str]:
        """Delete sealed files not among (view, snapshot) of ``keep`` and unfinished ones, both only when written
        before ``older_than`` (seconds since 1970). A process that still has one open keeps its pages."""
        kept = {self.file(scope, view, snapshot) for view, snapshot in keep}
        kept |= {seal_path(file) for file in kept}
        gone = []
        for file in sorted((self._root / scope.tenant / scope.environment).glob("*/*")):
            if file not in kept and file.is_file() and file.stat().st_mtime < older_than:
                file.unlink()
                gone.append(str(file.relative_to(self._root)))
        return gone

    def close(self) -> None:
        """Close every opened snapshot."""
        with self._lock:
            for snapshot in self._opened.values():
                snapshot.close()
            self._opened.clear()


def _meta(manifest: SnapshotManifest, plan: Plan, types: dict[str, str]) -> SnapshotMeta:
    kinds: list[Kind] = []
    for index, measure in enumerate(plan.measures):
        kinds.append("number" if measure.mode != "plain" else column_kind(types[f"m{index}"]))
    as_of = microseconds(manifest.as_of)
    return SnapshotMeta(
        format=FORMAT,
        snapshot=manifest.id,
        spec=plan.spec,
        as_of=as_of,
        answers_from=as_of - SLACK,
        stream_offset=manifest.stream_offset,
        kinds=tuple(kinds),
    )


def _heads(
    cursor: duckdb.DuckDBPyConnection, plan: Plan, relation: str
) -> Iterator[tuple[tuple[str, ...], list[Tile] | None, dict[int, TileRow]]]:
    """Every entity's base tile and tiles, in the order of keys."""
    width = len(plan.keys)
    keys = ", ".join(f"k{index}" for index in range(width))
    names = ", ".join(name for index in range(len(plan.measures)) for name in column_names(plan, index, f"t{index}"))
    cursor.execute(f"SELECT {keys}, tile, available_at, {names} FROM {relation} ORDER BY {keys}, tile NULLS FIRST")
    entity: tuple[str, ...] | None = None
    base: list[Tile] | None = None
    rows: dict[int, TileRow] = {}
    for row in _fetched(cursor):
        if row[:width] != entity:
            if entity is not None:
                yield entity, base, rows
            entity, base, rows = row[:width], None, {}
        start = width + 2
        tiles = tiles_of(plan, range(len(plan.measures)), row[start:])
        if row[width] is None:
            base = tiles
        else:
            rows[row[width]] = TileRow(row[width + 1], tiles)
    if entity is not None:
        yield entity, base, rows


def _blocks(
    cursor: duckdb.DuckDBPyConnection, plan: Plan, relation: str
) -> Iterator[tuple[tuple[str, ...], int, Block]]:
    """Every tile's events, in the order of keys and tile."""
    width = len(plan.keys)
    keys = ", ".join(f"k{index}" for index in range(width))
    measures = ", ".join(f"list(m{index} ORDER BY event_time, seq)" for index in range(len(plan.measures)))
    cursor.execute(
        f"SELECT {keys}, tile, list(event_time ORDER BY event_time, seq), list(available_at ORDER BY event_time, seq), "
        f"list(seq ORDER BY event_time, seq), {measures} FROM {relation} GROUP BY {keys}, tile ORDER BY {keys}, tile"
    )
    for row in _fetched(cursor):
        times, available, seqs = row[width + 1 : width + 4]
        yield row[:width], row[width], block_of(times, available, seqs, list(row[width + 4 :]))


class _Grouped:
    """Walks blocks in step with the entities they belong to."""

    def __init__(self, blocks: Iterator[tuple[tuple[str, ...], int, Block]]) -> None:
        self._blocks = blocks
        self._next = next(blocks, None)

    def of(self, entity: tuple[str, ...]) -> dict[int, Block]:
        """The blocks of the next entity."""
        found: dict[int, Block] = {}
        while self._next is not None and self._next[0] == entity:
            found[self._next[1]] = self._next[2]
            self._next = next(self._blocks, None)
        return found


def _fetched(cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(_FETCH):
        yield from rows
