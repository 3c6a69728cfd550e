"""Windows from tiles: extremes, firsts and sketches of every point's window, which running totals cannot give.

Windows are read from whole tiles and, at their edges, from events. A tile holds only events that were available by
the tile's end, so that a whole tile is visible wherever it is inside the window; events that came later ("late") are
read one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from antiphon.definitions.feature import Aggregation
from antiphon.features.offline.batch_values import BatchValue
from antiphon.features.plan import PlannedFeature, ViewPlan
from antiphon.features.sources.source_rows import ROWS
from antiphon.features.tiles.finish import finish_of
from antiphon.features.tiles.tile import Tile
from antiphon.features.tiles.tile_sql import merge_columns, tile_columns, tile_index, tiles_of

if TYPE_CHECKING:
    import duckdb

TILED: frozenset[Aggregation] = frozenset({"min", "max", "first", "distinct", "quantile"})
_FETCH = 5_000


def tiled_columns(connection: duckdb.DuckDBPyConnection, plan: ViewPlan, rows: int) -> dict[str, list[BatchValue]]:
    """The features of a view that need tiles, in the order of the points.

    Needs the tables ``points`` (``p`` from 0 to ``rows`` − 1, keys ``k0 …``, moment ``t``) and :data:`ROWS`.
    """
    features = [feature for feature in plan.features if feature.aggregation in TILED]
    if not features:
        return {}
    keys = plan.key_columns
    _prepare_tiles(connection, plan, keys)
    windows: dict[int | None, list[PlannedFeature]] = {}
    for feature in features:
        windows.setdefault(feature.window, []).append(feature)
    columns: dict[str, list[BatchValue]] = {}
    for window, requested in windows.items():
        measures = sorted({feature.measure for feature in requested})
        found = _windowed(connection, plan, keys, window, measures, rows)
        for feature in requested:
            finish = finish_of(feature, plan.measures[feature.measure])
            columns[feature.name] = [BatchValue(finish(tile, tile), tile.latest) for tile in found[feature.measure]]
    return columns


def _prepare_tiles(connection: duckdb.DuckDBPyConnection, plan: ViewPlan, keys: list[str]) -> None:
    joined = ", ".join(keys)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE placed AS SELECT *, {tile_index(plan, 'event_time')} AS tile FROM {ROWS}"
    )
    # Tiles with events, and no others: between one event of the year 1 and today there are 700,000 of a day.
    connection.execute(f"CREATE OR REPLACE TEMP TABLE occupied AS SELECT DISTINCT {joined}, tile FROM placed")
    columns = [column for index in range(len(plan.measures)) for column in tile_columns(plan, index, f"t{index}")]
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE tiles AS SELECT {joined}, tile, {', '.join(columns)} FROM placed "
        f"WHERE available_at < (tile + 1) * {plan.tile} GROUP BY {joined}, tile"
    )


def _windowed(
    connection: duckdb.DuckDBPyConnection,
    plan: ViewPlan,
    keys: list[str],
    window: int | None,
    measures: list[int],
    rows: int,
) -> Mapping[int, list[Tile]]:
    """For each measure, the tile of every point's window."""
    width = plan.tile
    start = "(SELECT min(event_time) FROM placed)" if window is None else f"t - {window} + 1"
    first, last = tile_index(plan, f"({start})"), tile_index(plan, "t")
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE covered AS SELECT *, tile * {width} >= since AND (tile + 1) * {width} - 1 <= t "
        f"AS whole FROM (SELECT {', '.join(['p', *keys])}, t, {start} AS since, tile FROM points "
        f"JOIN occupied USING ({', '.join(keys)}) WHERE tile BETWEEN {first} AND {last})"
    )
    same = " AND ".join(f"c.{name} = e.{name}" for name in [*keys, "tile"])
    found: dict[int, list[Tile]] = {measure: [Tile() for _ in range(rows)] for measure in measures}
    whole = [column for measure in measures for column in merge_columns(plan, measure, f"t{measure}")]
    edges = [column for measure in measures for column in tile_columns(plan, measure, f"t{measure}")]
    statements = (
        f"SELECT p, {', '.join(whole)} FROM covered c JOIN tiles e ON {same} WHERE whole GROUP BY p",
        f"SELECT p, {', '.join(edges)} FROM covered c JOIN placed e ON {same} "
        f"WHERE (NOT whole OR available_at >= (e.tile + 1) * {width}) "
        f"AND event_time >= since AND event_time <= t AND available_at <= t GROUP BY p",
    )
    for statement in statements:
        cursor = connection.execute(statement)
        while fetched := cursor.fetchmany(_FETCH):
            for row in fetched:
                for measure, tile in zip(measures, tiles_of(plan, measures, row[1:]), strict=True):
                    found[measure][row[0]].merge(tile)
    return found
