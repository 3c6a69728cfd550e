"""Point in time: for every row of a frame, the features as they were readable at that row's moment.

Invariants: rows out = rows in, in the same order; window rule ``t − w < event_time ≤ t AND available_at ≤ t``.

Windows are read from whole tiles and, at their edges, from events. A tile holds only events that were available by
the tile's end, so that a whole tile is visible wherever it is inside the window; events that came later ("late") are
read one by one. ``last`` is an ASOF join: with ``v = max(event_time, available_at)``, and rows dropped that do not
exceed the running maximum of ``(event_time, seq)`` in the order of ``v``, the row at the greatest ``v ≤ t`` is the
last one visible at ``t``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.core.errors import InvalidInput
from antiphon.core.scope import Scope
from antiphon.definitions.feature import LATEST
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.on_demand import OnDemandSpec
from antiphon.features.batch_values import Computed
from antiphon.features.compile_sql import quoted
from antiphon.features.compute import ComputeLimits, compute, one_row, relation_of
from antiphon.features.embedding.batch import vector_column
from antiphon.features.embedding.ports import Embedders
from antiphon.features.finish import finish_of, fitted_finish_of
from antiphon.features.on_demand import with_on_demand
from antiphon.features.plan import DAY, Plan, PlannedFeature, plan_of
from antiphon.features.ports import LogReader
from antiphon.features.source_rows import ROWS, load_rows
from antiphon.features.tile_sql import merge_columns, tile_columns, tile_index, tiles_of
from antiphon.features.tiles import Tile

if TYPE_CHECKING:
    import duckdb
    import pyarrow

_FETCH = 5_000


def point_in_time(
    frame: Path | pyarrow.Table,
    views: Sequence[FeatureViewSpec],
    *,
    scope: Scope,
    log: LogReader | None = None,
    as_of: str = "as_of",
    on_demand: Sequence[OnDemandSpec] = (),
    event_times: bool = False,
    limits: ComputeLimits | None = None,
    embedders: Embedders | None = None,
) -> pyarrow.Table:
    """Join features to a frame of entities and moments.

    Args:
        frame: Parquet, CSV or an Arrow table with the entities' key columns and the moment; its other columns
            (labels) are carried along.
        as_of: name of the column with the moment.
        on_demand: views that are computed from the frame's columns and the features that are joined.
        event_times: also return ``view.feature.event_time``.
        embedders: make vectors of texts; without them features that are vectors are left out.

    Returns:
        The frame with a column ``view.feature`` for each feature, same rows, same order.

    Raises:
        InvalidInput: a key column or the moment is missing.
    """
    import pyarrow

    with compute(limits or ComputeLimits()) as connection:
        # Rows are numbered in the order they are read, which only this setting keeps.
        connection.execute("SET preserve_insertion_order = true")
        relation = _frame(connection, frame, as_of)
        ordered = connection.sql("SELECT * EXCLUDE (frame_row) FROM frame ORDER BY frame_row")
        table: pyarrow.Table = ordered.to_arrow_table()
        for spec in views:
            plan = plan_of(spec)
            missing = [key for key in plan.keys if key not in table.column_names]
            if missing:
                raise InvalidInput(
                    f"The frame has no column {missing[0]!r}.", where=relation, next_step=f"{spec.name} needs it."
                )
            load_rows(connection, plan, scope=scope, log=log)
            columns = _view_columns(connection, plan, as_of, table.num_rows)
            for feature in plan.features:
                computed = columns[feature.name]
                found = [item.value for item in computed]
                model = spec.models.get(feature.name)
                if model is not None and embedders is None:
                    continue
                table = table.append_column(
                    f"{spec.name}.{feature.name}",
                    pyarrow.array(found)
                    if model is None or embedders is None
                    else vector_column(found, embedders.get(model)),
                )
                if event_times:
                    times = [item.event_time for item in computed]
                    table = table.append_column(
                        f"{spec.name}.{feature.name}.event_time",
                        pyarrow.array(times, pyarrow.timestamp("us", tz="UTC")),
                    )
        table = with_on_demand(connection, table, on_demand, as_of=as_of, event_times=event_times)
    return table


def _frame(connection: duckdb.DuckDBPyConnection, frame: Path | pyarrow.Table, as_of: str) -> str:
    if isinstance(frame, Path):
        if not frame.is_file():
            raise InvalidInput(f"There is no file {frame}.", where="frame")
        relation = relation_of([frame])
    else:
        relation = "frame_given"
        connection.register(relation, frame)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE frame AS SELECT *, row_number() OVER () - 1 AS frame_row FROM {relation}"
    )
    described = {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE frame").fetchall()}
    if not described.get(as_of, "").startswith(("TIMESTAMP", "DATE", "VARCHAR")):
        raise InvalidInput(f"The frame has no column {as_of!r} with instants.", where="frame")
    (absent,) = one_row(
        connection, f"SELECT count(*) FROM frame WHERE TRY_CAST({quoted(as_of)} AS TIMESTAMPTZ) IS NULL"
    )
    if absent:
        raise InvalidInput(f"{absent} rows of the frame have no moment in {as_of!r}.", where="frame")
    return "frame" if relation == "frame_given" else str(frame)


def _view_columns(
    connection: duckdb.DuckDBPyConnection, plan: Plan, as_of: str, rows: int
) -> dict[str, list[Computed]]:
    """Every feature's values in the order of the frame."""
    keys = [f"k{index}" for index in range(len(plan.keys))]
    casts = ", ".join(f"CAST({quoted(key)} AS VARCHAR) AS {name}" for key, name in zip(plan.keys, keys, strict=True))
    instant = f"epoch_us(CAST({quoted(as_of)} AS TIMESTAMPTZ))"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE points AS SELECT frame_row AS p, {casts}, {instant} AS t FROM frame"
    )
    _prepare_tiles(connection, plan, keys)
    merged: dict[tuple[int, int | None], list[Tile]] = {}
    lasts: dict[int, list[Tile]] = {}
    windows: dict[int | None, set[int]] = {}
    fitted: dict[int | None, set[int]] = {}
    for feature in plan.features:
        if feature.fitted:
            fitted.setdefault(feature.window, set()).add(feature.measure)
        elif feature.aggregation in LATEST:
            if feature.measure not in lasts:
                lasts[feature.measure] = _last(connection, keys, feature.measure, rows)
        else:
            windows.setdefault(feature.window, set()).add(feature.measure)
    for window, measures in windows.items():
        for measure, tiles in _windowed(connection, plan, keys, window, sorted(measures), rows).items():
            merged[measure, window] = tiles
    encoded = _Encoded(connection, plan, keys, fitted, rows)
    moments = [row[0] for row in connection.execute("SELECT t FROM points ORDER BY p").fetchall()]
    columns: dict[str, list[Computed]] = {}
    for feature in plan.features:
        if feature.fitted:
            columns[feature.name] = encoded.values(feature)
            continue
        finish = finish_of(feature, plan.measures[feature.measure])
        if feature.aggregation in LATEST:
            tiles = [_within(tile, feature, moments[p]) for p, tile in enumerate(lasts[feature.measure])]
        else:
            tiles = merged[feature.measure, feature.window]
        columns[feature.name] = [Computed(finish(tile), tile.latest) for tile in tiles]
    return columns


def _prepare_tiles(connection: duckdb.DuckDBPyConnection, plan: Plan, keys: list[str]) -> None:
    joined = ", ".join(keys)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE placed AS SELECT *, {tile_index(plan, 'event_time')} AS tile FROM {ROWS}"
    )
    columns = [column for index in range(len(plan.measures)) for column in tile_columns(plan, index, f"t{index}")]
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE tiles AS SELECT {joined}, tile, {', '.join(columns)} FROM placed "
        f"WHERE available_at < (tile + 1) * {plan.tile} GROUP BY {joined}, tile"
    )


def _windowed(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    keys: list[str],
    window: int | None,
    measures: list[int],
    rows: int,
    points: str = "points",
    tiled: str = "tiles",
) -> Mapping[int, list[Tile]]:
    """For each measure, the tile of every point's window.

    Args:
        points: a table of points ``p`` with keys and moments ``t``.
        tiled: the table of tiles of these keys.
    """
    width = plan.tile
    start = "(SELECT min(event_time) FROM placed)" if window is None else f"t - {window} + 1"
    first, last = tile_index(plan, f"({start})"), tile_index(plan, "t")
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE covered AS SELECT *, tile * {width} >= since AND (tile + 1) * {width} - 1 <= t "
        f"AS whole FROM (SELECT {', '.join(['p', *keys])}, t, {start} AS since, "
        f"unnest(range({first}, {last} + 1)) AS tile FROM {points})"
    )
    same = " AND ".join(f"c.{name} = e.{name}" for name in [*keys, "tile"])
    found: dict[int, list[Tile]] = {measure: [Tile() for _ in range(rows)] for measure in measures}
    whole = [column for measure in measures for column in merge_columns(plan, measure, f"t{measure}")]
    edges = [column for measure in measures for column in tile_columns(plan, measure, f"t{measure}")]
    statements = (
        f"SELECT p, {', '.join(whole)} FROM covered c JOIN {tiled} e ON {same} WHERE whole GROUP BY p",
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


class _Encoded:
    """Encodings: each point at the last midnight before it, and all entities together at each of those midnights."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        plan: Plan,
        keys: list[str],
        windows: Mapping[int | None, set[int]],
        rows: int,
    ) -> None:
        self._plan = plan
        self._own: dict[tuple[int, int | None], list[Tile]] = {}
        self._every: dict[tuple[int, int | None], list[Tile]] = {}
        self._midnights: list[int] = []
        if not windows:
            return
        midnight = f"(t - 1 - (((t - 1) % {DAY}) + {DAY}) % {DAY})"
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE fitted_points AS SELECT p, {', '.join(keys)}, {midnight} AS t FROM points"
        )
        # Few midnights are asked about, however many points; without keys their windows hold everybody's events.
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE midnights AS SELECT row_number() OVER (ORDER BY t) - 1 AS p, t FROM "
            "(SELECT DISTINCT t FROM fitted_points)"
        )
        self._midnights = [
            row[0]
            for row in connection.execute(
                "SELECT m.p FROM fitted_points f JOIN midnights m ON m.t = f.t ORDER BY f.p"
            ).fetchall()
        ]
        used = sorted(set().union(*windows.values()))
        columns = [column for index in used for column in merge_columns(plan, index, f"t{index}")]
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE tiles_together AS SELECT tile, {', '.join(columns)} FROM tiles GROUP BY tile"
        )
        days = len(set(self._midnights))
        for window, measures in windows.items():
            chosen = sorted(measures)
            own = _windowed(connection, plan, keys, window, chosen, rows, "fitted_points")
            every = _windowed(connection, plan, [], window, chosen, days, "midnights", "tiles_together")
            for measure in chosen:
                self._own[measure, window], self._every[measure, window] = own[measure], every[measure]

    def values(self, feature: PlannedFeature) -> list[Computed]:
        """An encoding of every point."""
        place = (feature.measure, feature.window)
        finish = fitted_finish_of(feature, self._plan.measures[feature.measure])
        every = [self._every[place][midnight] for midnight in self._midnights]
        return [
            Computed(finish(tile, whole), whole.latest) for tile, whole in zip(self._own[place], every, strict=True)
        ]


def _last(connection: duckdb.DuckDBPyConnection, keys: list[str], measure: int, rows: int) -> list[Tile]:
    """For every point the last visible event that has the measure, whatever its age, as a tile of one."""
    joined = ", ".join(keys)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE visible AS SELECT {joined}, v, event_time, seq, m FROM ("
        f"SELECT {joined}, greatest(event_time, available_at) AS v, event_time, seq, m{measure} AS m, "
        f"max((event_time, seq)) OVER (PARTITION BY {joined} ORDER BY greatest(event_time, available_at), event_time, "
        f"seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM placed WHERE m{measure} IS NOT NULL) "
        f"WHERE before IS NULL OR (event_time, seq) > before "
        # Of rows that become visible at one instant only the last counts: an ASOF join may pick any of them.
        f"QUALIFY row_number() OVER (PARTITION BY {joined}, v ORDER BY event_time DESC, seq DESC) = 1"
    )
    same = " AND ".join(f"points.{name} = visible.{name}" for name in keys)
    cursor = connection.execute(
        f"SELECT p, event_time, seq, m FROM points ASOF JOIN visible ON {same} AND points.t >= visible.v"
    )
    tiles = [Tile() for _ in range(rows)]
    while fetched := cursor.fetchmany(_FETCH):
        for row in fetched:
            tiles[row[0]].count = 1
            tiles[row[0]].last = (row[1], row[2], row[3])
            tiles[row[0]].latest = row[1]
    return tiles


def _within(tile: Tile, feature: PlannedFeature, t: int) -> Tile:
    if tile.last is None or feature.window is None or tile.last[0] > t - feature.window:
        return tile
    return Tile()
