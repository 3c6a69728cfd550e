"""Features of all time from a snapshot's tiles: the base tile of events that are kept no more, and the rows after it.

Adding tiles is exact (``tiles/tile.py``), so the value is that of all rows together: no row after the base repeats one
in it (``Plan.retained_from``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from antiphon.features.monitoring.skew.kept import Entity, KeptTiles
from antiphon.features.offline.batch_values import Computed, window_condition
from antiphon.features.plan import Plan, PlannedFeature
from antiphon.features.tiles.finish import finishes_of
from antiphon.features.tiles.row_batches import NO_SEQUENCE
from antiphon.features.tiles.tile import Tile
from antiphon.features.tiles.tile_sql import tile_columns, tiles_of

if TYPE_CHECKING:
    import duckdb


def with_base(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    kept: KeptTiles,
    found: dict[Entity, dict[str, Computed | str]],
    as_of: int,
    fitted_at: int,
    rows: str,
) -> None:
    """Replace the values of features of all time in ``found``.

    Args:
        as_of, fitted_at: the moment, and that of encodings (microseconds).
        rows: the table of the rows that are known beside the base.
    """
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
    connection: duckdb.DuckDBPyConnection, plan: Plan, measures: list[int], moment: int, rows: str
) -> dict[Entity, list[Tile]]:
    keys = [f"k{index}" for index in range(len(plan.keys))]
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


def _finished(plan: Plan, kept: KeptTiles, feature: PlannedFeature, tile: Tile, fitted_at: int) -> Computed:
    finish, fitted_finish = finishes_of(feature, plan)
    if finish is not None:
        return Computed(finish(tile), tile.latest)
    assert fitted_finish is not None
    tiles = kept.together.get(plan.fitted_index(feature.window, fitted_at))
    every = Tile() if tiles is None else tiles[feature.measure]
    return Computed(fitted_finish(tile, every), every.latest)
