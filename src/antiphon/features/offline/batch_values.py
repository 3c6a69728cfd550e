"""The batch query: every entity's feature values as of one moment, straight from the measured rows.

It shares nothing with tiles or the online read but the window rule, and finishes whole columns as the finishing
function does single values; that they agree bit for bit is a tested property.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.features.plan import ViewPlan, midnight_before
from antiphon.features.sources.source_rows import ROWS
from antiphon.features.tiles.aggregate_columns import Aggregates
from antiphon.features.tiles.finish_aggregates import finished
from antiphon.features.tiles.row_batches import RowBatch, row_batches
from antiphon.features.tiles.tile import Tile
from antiphon.features.tiles.tile_sql import tile_columns, tiles_of
from antiphon.features.values import EVER, MeasureValue

if TYPE_CHECKING:
    import duckdb
    import numpy
    import pyarrow


class BatchValue(msgspec.Struct, frozen=True):
    """A feature's value and the event time (microseconds) of the latest event in it."""

    value: MeasureValue
    event_time: int | None


def window_condition(window: int | None, moment: int) -> str:
    """An SQL condition for the rows of a window that ends at a moment."""
    since = "" if window is None else f" AND event_time > {moment - window}"
    return f"(event_time <= {moment} AND available_at <= {moment}{since})"


class BatchValues:
    """The values of a plan as of a moment (microseconds), a batch of entities at a time.

    Window rule: ``t − w < event_time ≤ t AND available_at ≤ t``.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        plan: ViewPlan,
        as_of: int,
        *,
        fitted_at: int | None = None,
        together: str = ROWS,
    ) -> None:
        """
        Args:
            fitted_at: the moment of encodings; the midnight before ``as_of`` by default.
            together: the relation (after FROM) of all rows that encodings compare with.
        """
        self._plan = plan
        self._moments = {False: as_of, True: midnight_before(as_of) if fitted_at is None else fitted_at}
        self._every: dict[tuple[int, int | None], Tile] = {}
        groups = list(dict.fromkeys((feature.measure, feature.window) for feature in plan.features if feature.fitted))
        if groups:
            columns = [
                column
                for index, (measure, window) in enumerate(groups)
                for column in tile_columns(plan, measure, f"g{index}", window_condition(window, self._moments[True]))
            ]
            (row,) = connection.execute(f"SELECT {', '.join(columns)} FROM {together}").fetchall()
            self._every = dict(zip(groups, tiles_of(plan, [measure for measure, _ in groups], row), strict=True))

    def of(self, batch: RowBatch) -> pyarrow.RecordBatch:
        """One row per entity: keys, and for each feature ``VIEW.FEATURE`` and ``VIEW.FEATURE.event_time``."""
        import pyarrow

        plan = self._plan
        windows: dict[tuple[int | None, bool], numpy.ndarray[Any, Any] | None] = {}
        groups: dict[tuple[int, int | None, bool], Aggregates] = {}
        instant = pyarrow.timestamp("us", tz="UTC")
        columns: dict[str, Any] = dict(zip(plan.keys, batch.keys, strict=True))
        for feature in plan.features:
            window, group = (feature.window, feature.fitted), (feature.measure, feature.window, feature.fitted)
            if window not in windows:
                windows[window] = _inside(batch, feature.window, self._moments[feature.fitted])
            if group not in groups:
                column, parts = batch.measure(feature.measure), plan.parts[feature.measure]
                groups[group] = Aggregates(batch, column, parts, windows[window])
            found = groups[group]
            every = self._every.get((feature.measure, feature.window)) if feature.fitted else None
            name = f"{plan.spec.name}.{feature.name}"
            columns[name] = finished(feature, plan.measures[feature.measure], found, every)
            if every is not None:
                times = pyarrow.array([every.latest] * batch.entities, instant)
            else:
                latest = batch.times[found.last]
                times = pyarrow.array(latest, mask=None if found.some.all() else ~found.some).cast(instant)
            columns[f"{name}.event_time"] = times
        return pyarrow.RecordBatch.from_pydict(columns)

    def schema(self) -> pyarrow.Schema:
        """The columns when there is no entity at all."""
        import pyarrow

        fields = [(key, pyarrow.string()) for key in self._plan.keys]
        for feature in self._plan.features:
            kind = pyarrow.int64() if feature.aggregation in ("count", "distinct") else pyarrow.float64()
            name = f"{self._plan.spec.name}.{feature.name}"
            fields += [(name, kind), (f"{name}.event_time", pyarrow.timestamp("us", tz="UTC"))]
        return pyarrow.schema(fields)


def _inside(batch: RowBatch, window: int | None, moment: int) -> numpy.ndarray[Any, Any] | None:
    """Flags of the rows of a window that ends at a moment; ``None`` when it has every row."""
    inside = (batch.times <= moment) & (batch.available <= moment)
    if window is not None:
        inside &= batch.times > moment - window
    return None if inside.all() else inside


def holds_until(batch: RowBatch, plan: ViewPlan, as_of: int) -> numpy.ndarray[Any, Any]:
    """The first moment after ``as_of`` at which an event of each entity becomes visible or leaves a window
    (microseconds): until then its values stay as they are. Encodings are those of ``as_of`` and do not count."""
    import numpy

    visible = numpy.maximum(batch.times, batch.available)
    seen = visible <= as_of
    changes = numpy.where(seen, EVER, visible)
    for window in {feature.window for feature in plan.features if not feature.fitted}:
        if window is not None:
            leaving = numpy.flatnonzero(seen & (batch.times > as_of - window))
            changes[leaving] = numpy.minimum(changes[leaving], batch.times[leaving] + window)
    found: numpy.ndarray[Any, Any] = numpy.minimum.reduceat(changes, batch.starts[:-1])
    return found


def values_at(
    connection: duckdb.DuckDBPyConnection,
    plan: ViewPlan,
    as_of: int,
    *,
    fitted_at: int | None = None,
    rows: str = ROWS,
    together: str = ROWS,
) -> Iterator[tuple[tuple[str, ...], dict[str, BatchValue]]]:
    """Entity keys and feature values as of a moment (microseconds), for every entity that has a row.

    Args:
        fitted_at: the moment of encodings; the midnight before ``as_of`` by default.
        rows: the relation (after FROM). ``together``: that of all rows that encodings compare with.
    """
    import pyarrow

    values = BatchValues(connection, plan, as_of, fitted_at=fitted_at, together=together)
    for batch in row_batches(connection, plan, rows):
        found = values.of(batch)
        keys = [found.column(index).to_pylist() for index in range(len(plan.keys))]
        names = [feature.name for feature in plan.features]
        columns = [found.column(f"{plan.spec.name}.{name}").to_pylist() for name in names]
        times = [
            found.column(f"{plan.spec.name}.{name}.event_time").cast(pyarrow.int64()).to_pylist() for name in names
        ]
        for place, entity in enumerate(zip(*keys, strict=True)):
            yield (
                entity,
                {
                    name: BatchValue(column[place], instants[place])
                    for name, column, instants in zip(names, columns, times, strict=True)
                },
            )
