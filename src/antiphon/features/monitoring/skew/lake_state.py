"""State of a source that a snapshot keeps in the lake: events that are read one by one, and tiles of older ones.

A feature over all time is the base tile of older events plus the rows after it. Adding tiles is exact
(``tiles/tile.py``), so the value is that of all rows together: no row after the base repeats one in it
(``ViewPlan.retained_from``).

Both were written by batch as it read the source, before anything was sealed for the online store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from antiphon.catalog.features.snapshots import SnapshotFile, SnapshotManifest
from antiphon.core.errors import UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.lake.content import Lake
from antiphon.features.offline.batch_values import BatchValue, window_condition
from antiphon.features.offline.compute import parquet_reader
from antiphon.features.plan import PlannedFeature, ViewPlan
from antiphon.features.sources.taking_over import EVENTS, TakenOver
from antiphon.features.tiles.finish import finish_of
from antiphon.features.tiles.row_batches import NO_SEQUENCE
from antiphon.features.tiles.tile import Tile
from antiphon.features.tiles.tile_files import tiles_in
from antiphon.features.tiles.tile_sql import tile_columns, tiles_of

if TYPE_CHECKING:
    import duckdb
    import pyarrow


Entity = tuple[str, ...]


class SourceQuery(msgspec.Struct, frozen=True):
    """Query to the source of a snapshot, for the values of some entities; ``through`` is the last log offset that any
    reading knew."""

    scope: Scope
    plan: ViewPlan
    manifest: SnapshotManifest
    through: int | None
    entities: Collection[Entity]

    @property
    def among(self) -> Collection[Entity] | None:
        """Entities whose rows are read; ``None`` for all, which encodings are set against."""
        return None if self.plan.fitted_windows else self.entities


class KeptTiles(msgspec.Struct, frozen=True):
    """A tile a measure: ``base`` of each entity, of everything that is older than the events that are kept;
    ``together`` of all entities, by the index of a window and a midnight (``plan.fitted_index``)."""

    base: dict[Entity, list[Tile]]
    together: dict[int, list[Tile]]


def kept_events(connection: duckdb.DuckDBPyConnection, query: SourceQuery, lake: Lake) -> TakenOver:
    """Fill the table ``EVENTS`` with what the snapshot keeps of the entities. Raises ``UnavailableError`` when it does
    not say of which kind its columns are, ``CorruptionError`` when its file is gone or was changed."""
    manifest = query.manifest
    if not manifest.read.kinds:
        raise UnavailableError("an earlier version made the snapshot", where=manifest.id)
    _fill(connection, query, lake, manifest.files[0], EVENTS)
    return TakenOver(manifest, frozenset(), manifest.stream_offset or 0, alone=True)


def kept_tiles(connection: duckdb.DuckDBPyConnection, query: SourceQuery, lake: Lake) -> KeptTiles:
    """The tiles of the entities, and those of all together; raises ``CorruptionError`` when the file is gone or was
    changed."""
    _fill(connection, query, lake, query.manifest.files[1], "kept_tiles")
    keys, base, together = len(query.plan.keys), dict[Entity, list[Tile]](), dict[int, list[Tile]]()
    for rows in connection.sql("SELECT * FROM kept_tiles").to_arrow_table().to_batches():
        named = zip(*(rows.column(index).to_pylist() for index in range(keys)), strict=True)
        indexes = rows.column("tile").to_pylist()
        for entity, index, tiles in zip(named, indexes, tiles_in(rows, query.plan), strict=True):
            if index is None:
                base[entity] = tiles
            else:
                together[index] = tiles
    return KeptTiles(base, together)


def entity_table(entities: Iterable[Entity], names: Sequence[str]) -> pyarrow.Table:
    """The keys of entities as a table of texts."""
    import pyarrow

    listed = list(entities)
    return pyarrow.table(
        {name: pyarrow.array([one[index] for one in listed], pyarrow.string()) for index, name in enumerate(names)}
    )


def _fill(
    connection: duckdb.DuckDBPyConnection, query: SourceQuery, lake: Lake, file: SnapshotFile, table: str
) -> None:
    lake.verify(file.path, file.sha256)
    condition = ""
    if query.among is not None:
        names = [f"w{index}" for index in range(len(query.plan.keys))]
        connection.register("kept_of", entity_table(query.among, names))
        same = " AND ".join(f"{name} = k{index}" for index, name in enumerate(names))
        # Of all entities together the keys are null.
        condition = f" WHERE k0 IS NULL OR EXISTS (SELECT 1 FROM kept_of WHERE {same})"
    with lake.open(file.path) as stream:
        connection.register("kept_file", parquet_reader(stream))
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT * FROM kept_file{condition}")
        connection.unregister("kept_file")


def with_base(
    connection: duckdb.DuckDBPyConnection,
    plan: ViewPlan,
    kept: KeptTiles,
    found: dict[Entity, dict[str, BatchValue | str]],
    as_of: int,
    fitted_at: int,
    rows: str,
) -> None:
    """Replace the values of features of all time in ``found``; moments are in microseconds, that of encodings is
    ``fitted_at``. ``rows`` is the table of the rows that are known beside the base."""
    for fitted, moment in ((False, as_of), (True, fitted_at)):
        features = [one for one in plan.features if one.window is None and one.fitted is fitted]
        if not features:
            continue
        measures = list(dict.fromkeys(feature.measure for feature in features))
        after = _after(connection, plan, measures, moment, rows)
        for entity, values in found.items():
            tiles = after.get(entity) or [Tile() for _ in measures]
            for feature in features:
                tile = Tile()
                tile.merge(tiles[measures.index(feature.measure)])
                if entity in kept.base:
                    tile.merge(kept.base[entity][feature.measure])
                values[feature.name] = _finished(plan, kept, feature, tile, fitted_at)


def _after(
    connection: duckdb.DuckDBPyConnection, plan: ViewPlan, measures: list[int], moment: int, rows: str
) -> dict[Entity, list[Tile]]:
    keys = plan.key_columns
    same = " AND ".join(f"asked.{key} = later.{key}" for key in keys)
    condition = window_condition(None, moment)
    columns = [column for index in measures for column in tile_columns(plan, index, f"b{index}", condition)]
    fetched = connection.execute(
        f"SELECT {', '.join(f'later.{key}' for key in keys)}, {', '.join(columns)} "
        f"FROM (SELECT * REPLACE (coalesce(seq, {NO_SEQUENCE!r}) AS seq) FROM {rows}) AS later "
        f"WHERE EXISTS (SELECT 1 FROM asked_entities AS asked WHERE {same}) GROUP BY ALL"
    ).fetchall()
    width = len(keys)
    return {tuple(row[:width]): tiles_of(plan, measures, row[width:]) for row in fetched}


def _finished(plan: ViewPlan, kept: KeptTiles, feature: PlannedFeature, tile: Tile, fitted_at: int) -> BatchValue:
    every = tile
    if feature.fitted:
        tiles = kept.together.get(plan.fitted_index(feature.window, fitted_at))
        every = Tile() if tiles is None else tiles[feature.measure]
    return BatchValue(finish_of(feature, plan.measures[feature.measure])(tile, every), every.latest)
