"""Point in time: for every row of a frame, the features as they were readable at that row's moment.

Invariants: rows out = rows in, in the same order; window rule ``t − w < event_time ≤ t AND available_at ≤ t``.

Rows are columns from the file to the result: DuckDB reads and measures the events (``event_columns``), running totals
over sorted events answer for windows and ``last`` (``timeline``), whole columns are finished by arithmetic that is
equal to ``finish`` bit for bit (``finish_columns``). Extremes, firsts and sketches are read from tiles
(``window_tiles``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.on_demand import OnDemandSpec
from antiphon.features.embedding.snapshot_embedding import vector_column
from antiphon.features.embedding.vectors import Embedders
from antiphon.features.expressions.compile_sql import INSTANT_TYPES
from antiphon.features.expressions.expression_sql import quoted
from antiphon.features.expressions.on_demand import with_on_demand
from antiphon.features.offline.batch_values import BatchValue
from antiphon.features.offline.compute import (
    STOP_CHECK_SECONDS,
    ComputeLimits,
    compute,
    interrupting,
    one_row,
    relation_of,
    types_of,
)
from antiphon.features.plan import ViewPlan, plan_of
from antiphon.features.ports import LogReader

if TYPE_CHECKING:
    import duckdb
    import pyarrow

    from antiphon.features.offline.point_in_time.timeline import Ints


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
    stop: threading.Event | None = None,
) -> pyarrow.Table:
    """Join features to a frame of entities and moments.

    Args:
        frame: Parquet, CSV or an Arrow table with the entities' key columns and the moment; its other columns
            (labels) are carried along.
        as_of: name of the column with the moment.
        on_demand: views that are computed from the frame's columns and the features that are joined.
        event_times: also return ``view.feature.event_time``.
        embedders: make vectors of texts; without them features that are vectors are left out.
        stop: once it is set, queries are interrupted and this raises.

    Returns:
        The frame with a column ``view.feature`` for each feature, same rows, same order.

    Raises:
        InvalidInputError: a key column or the moment is missing.
    """
    stopped = (stop or threading.Event()).is_set
    with compute(limits or ComputeLimits()) as connection, interrupting(connection, stopped, STOP_CHECK_SECONDS):
        # Rows are numbered in the order they are read, which only this setting keeps.
        connection.execute("SET preserve_insertion_order = true")
        table, where = _frame(connection, frame, as_of)
        columns: dict[str, pyarrow.Array] = {}
        for spec in views:
            plan = plan_of(spec)
            missing = [key for key in plan.keys if key not in table.column_names]
            if missing:
                raise InvalidInputError(
                    f"The frame has no column {missing[0]!r}.", where=where, next_step=f"{spec.name} needs it."
                )
            for feature, column in _view_columns(connection, plan, as_of, scope, log).items():
                model = spec.models.get(feature)
                if model is not None and embedders is None:
                    continue
                values = column.values
                if model is not None and embedders is not None:
                    values = vector_column(values.to_pylist(), embedders.get(model))
                columns[f"{spec.name}.{feature}"] = values
                if event_times:
                    columns[f"{spec.name}.{feature}.event_time"] = column.event_times()
        for name, column in columns.items():
            table = table.append_column(name, column)
        connection.unregister("frame")
        table = with_on_demand(connection, table, on_demand, as_of=as_of, event_times=event_times)
    return table


def _frame(connection: duckdb.DuckDBPyConnection, frame: Path | pyarrow.Table, as_of: str) -> tuple[pyarrow.Table, str]:
    """The frame as a table, which is also registered as ``frame``, and its name in errors."""
    where = "frame"
    if isinstance(frame, Path):
        if not frame.is_file():
            raise InvalidInputError(f"There is no file {frame}.", where="frame")
        where = str(frame)
        frame = connection.sql(f"SELECT * FROM {relation_of([frame])}").to_arrow_table()
    connection.register("frame", frame)
    if not types_of(connection, "frame").get(as_of, "").startswith(INSTANT_TYPES):
        raise InvalidInputError(f"The frame has no column {as_of!r} with instants.", where="frame")
    (absent,) = one_row(
        connection, f"SELECT count(*) FROM frame WHERE TRY_CAST({quoted(as_of)} AS TIMESTAMPTZ) IS NULL"
    )
    if absent:
        raise InvalidInputError(f"{absent} rows of the frame have no moment in {as_of!r}.", where="frame")
    return frame, where


class _FeatureColumn(NamedTuple):
    """A feature's values, and what makes the event times of the latest event in each, in the order of the frame."""

    values: pyarrow.Array
    event_times: Callable[[], pyarrow.Array]


def _view_columns(
    connection: duckdb.DuckDBPyConnection, plan: ViewPlan, as_of: str, scope: Scope, log: LogReader | None
) -> dict[str, _FeatureColumn]:
    # Here, so that what never joins never loads numpy.
    from antiphon.features.offline.point_in_time.event_columns import Moments, event_columns
    from antiphon.features.offline.point_in_time.view_columns import ViewColumns
    from antiphon.features.offline.point_in_time.window_tiles import TILED, tiled_columns

    entity, moment = _points(connection, plan, as_of)
    events = event_columns(connection, plan, Moments.of(entity, moment), scope=scope, log=log)
    read = ViewColumns(plan, events, entity, moment)
    tiled = tiled_columns(connection, plan, len(entity))
    return {
        feature.name: _of_tiles(tiled[feature.name])
        if feature.aggregation in TILED
        else _FeatureColumn(read.values(feature), partial(read.event_times, feature))
        for feature in plan.features
    }


def _of_tiles(computed: Sequence[BatchValue]) -> _FeatureColumn:
    import pyarrow

    def event_times() -> pyarrow.Array:
        return pyarrow.array([item.event_time for item in computed], pyarrow.timestamp("us", tz="UTC"))

    return _FeatureColumn(pyarrow.array([item.value for item in computed]), event_times)


def _points(connection: duckdb.DuckDBPyConnection, plan: ViewPlan, as_of: str) -> tuple[Ints, Ints]:
    """The number of the entity (−1 where a key is null) and the moment of each row of the frame, in their order. Also
    makes the tables ``points`` (p, k0 …, t) and ``entities`` (k0 …, entity)."""
    import numpy as np

    from antiphon.features.tiles.finish_columns import integers

    keys = plan.key_columns
    casts = ", ".join(f"CAST({quoted(key)} AS VARCHAR) AS {name}" for key, name in zip(plan.keys, keys, strict=True))
    joined = ", ".join(keys)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE points AS SELECT row_number() OVER () - 1 AS p, {casts}, "
        f"epoch_us(CAST({quoted(as_of)} AS TIMESTAMPTZ)) AS t FROM frame"
    )
    present = " AND ".join(f"{key} IS NOT NULL" for key in keys)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE entities AS SELECT *, row_number() OVER () - 1 AS entity FROM "
        f"(SELECT DISTINCT {joined} FROM points WHERE {present})"
    )
    found = connection.sql(
        f"SELECT p, coalesce(entity, -1) AS entity, t FROM points LEFT JOIN entities USING ({joined})"
    ).to_arrow_table()
    order = np.argsort(integers(found.column("p")))
    return integers(found.column("entity"))[order], integers(found.column("t"))[order]
