"""Fill a sealed snapshot from the lake's files: one pass over tiles and events in the order of entities."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from antiphon.catalog.snapshots import SnapshotManifest
from antiphon.core.clock import microseconds
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.compile_sql import column_kind
from antiphon.features.compute import ComputeLimits, compute, parquet_reader
from antiphon.features.compute import types_of as column_types
from antiphon.features.evaluate import Block, TileRow, block_of
from antiphon.features.online.encoding import FORMAT, SnapshotMeta
from antiphon.features.plan import SLACK, Plan, plan_of
from antiphon.features.ports import Lake
from antiphon.features.tile_sql import column_names, tiles_of
from antiphon.features.tiles import Tile

if TYPE_CHECKING:
    import duckdb

    from antiphon.definitions.expression import Kind

_FETCH = 2_000
_EVENTS, _TILES = "lake_events", "lake_tiles"


class SnapshotWriter(Protocol):
    """Something that a snapshot is written into; nobody sees it before it is sealed."""

    def entity(
        self, hashed: bytes, base: list[Tile] | None, rows: dict[int, TileRow], blocks: dict[int, Block], /
    ) -> None:
        """Write one entity's state."""
        ...

    def discard(self) -> None:
        """Drop what was written."""
        ...


Writer = TypeVar("Writer", bound=SnapshotWriter)


def fill(
    manifest: SnapshotManifest,
    spec: FeatureViewSpec,
    lake: Lake,
    *,
    begin: Callable[[SnapshotMeta], Writer],
    entity_hash: Callable[[str, tuple[str, ...]], bytes],
    limits: ComputeLimits | None = None,
) -> Writer:
    """Write every entity of a snapshot's lake files into the writer that ``begin`` makes; it is left to be sealed.

    Raises:
        Corrupt: a lake file is gone.
        Unavailable: memory, disk or the store ran out or went away.
    """
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
            connection.register(_EVENTS, parquet_reader(events))
            types = column_types(connection, _EVENTS)
            connection.unregister(_EVENTS)
            writer = begin(_meta(manifest, plan, types))
            try:
                # A registered relation belongs to one cursor.
                of_tiles, of_events = connection.cursor(), connection.cursor()
                of_tiles.register(_TILES, parquet_reader(tiles))
                of_events.register(_EVENTS, parquet_reader(events))
                blocks = _Grouped(_blocks(of_events, plan, _EVENTS))
                for keys, base, rows in _heads(of_tiles, plan, _TILES):
                    writer.entity(entity_hash(spec.entity.name, keys), base, rows, blocks.of(keys))
            except BaseException:
                writer.discard()
                raise
            return writer
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


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
        facts=manifest.facts(),
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
