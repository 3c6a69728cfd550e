"""Measured rows in the order of entities, as columns: a batch at a time, and never an entity cut in two.

Invariants: rows come in the order of (keys, event time, sequence), so the first and last event of any selection are its
first and last row; nothing is held but one batch and the rows of the entity that it ends in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.features.expressions.compile_python import SEQUENCE_DIGITS
from antiphon.features.plan import ViewPlan

if TYPE_CHECKING:
    import duckdb
    import numpy
    import pyarrow

    Array = numpy.ndarray[Any, Any]

BATCH = 100_000
"""Rows in a batch, about."""

NO_SEQUENCE = "0" * SEQUENCE_DIGITS
"""The sequence of a row whose event id is null."""


class MeasureColumn(msgspec.Struct, frozen=True):
    """A measure of a batch of rows.

    Attributes:
        values: int64, float64 or uint8 (a boolean); of a text its place among ``texts``. Anything where it is null.
        present: where it is not null; ``None`` when it never is.
        texts: the different texts in order, for a measure of texts.
    """

    values: Array
    present: Array | None
    texts: pyarrow.Array | None = None

    def arrow(self, places: Array, missing: Array | None) -> pyarrow.Array:
        """Values by place (of a text: among ``texts``), null where they are missing."""
        import pyarrow

        if self.texts is None:
            return pyarrow.array(places.astype(bool) if places.dtype == "uint8" else places, mask=missing)
        return self.texts.take(pyarrow.array(places, mask=missing))


class RowGroups:
    """Consecutive rows in groups: of entities, or of tiles.

    Attributes:
        starts: the first row of each group, and the number of rows last.
        entities: number of groups.
        entity: the group of each row.
    """

    def __init__(self, starts: Array) -> None:
        import numpy

        self.starts = starts
        self.entities = len(starts) - 1
        self.entity: Array = numpy.repeat(numpy.arange(self.entities), numpy.diff(starts))


class RowBatch(RowGroups):
    """Rows of whole entities; ``rows`` has k0 …, event_time, available_at, seq, m0 … as Arrow columns."""

    def __init__(self, rows: pyarrow.RecordBatch, plan: ViewPlan) -> None:
        import numpy

        self.rows = rows
        self._plan = plan
        width = len(plan.keys)
        changes = numpy.flatnonzero(_changed(rows, width))
        super().__init__(numpy.concatenate([changes, [rows.num_rows]]).astype(numpy.int64))
        self.times: Array = _instants(rows.column(width))
        self.available: Array = _instants(rows.column(width + 1))
        self._measures: dict[int, MeasureColumn] = {}

    @property
    def keys(self) -> list[pyarrow.Array]:
        """The entities' keys, a column each."""
        import pyarrow

        first = pyarrow.array(self.starts[:-1])
        return [self.rows.column(index).take(first) for index in range(len(self._plan.keys))]

    @property
    def seqs(self) -> pyarrow.Array:
        """The rows' sequences."""
        return self.rows.column(len(self._plan.keys) + 2)

    def measure(self, index: int) -> MeasureColumn:
        """A measure's values."""
        found = self._measures.get(index)
        if found is None:
            found = self._measures[index] = measure_column(self.rows.column(len(self._plan.keys) + 3 + index))
        return found


def measure_column(column: pyarrow.Array) -> MeasureColumn:
    """An Arrow column of BIGINT, DOUBLE, BOOLEAN or VARCHAR to be aggregated."""
    import numpy
    import pyarrow
    import pyarrow.compute as pc

    present = column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None
    kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        coded = column.dictionary_encode()
        order = pc.sort_indices(coded.dictionary).to_numpy()
        ranks = numpy.empty(len(order), numpy.int64)
        ranks[order] = numpy.arange(len(order))
        places = pc.fill_null(coded.indices, 0).to_numpy(zero_copy_only=False)
        values = ranks[places] if len(ranks) else numpy.zeros(len(column), numpy.int64)
        return MeasureColumn(values, present, coded.dictionary.take(pyarrow.array(order)))
    if pyarrow.types.is_boolean(kind):
        column = column.cast(pyarrow.uint8())
    elif not (pyarrow.types.is_int64(kind) or pyarrow.types.is_float64(kind)):
        column = column.cast(pyarrow.float64())
    return MeasureColumn((pc.fill_null(column, 0) if column.null_count else column).to_numpy(), present)


def row_batches(
    connection: duckdb.DuckDBPyConnection, plan: ViewPlan, relation: str, batch: int = BATCH
) -> Iterator[RowBatch]:
    """Every row of a relation with the columns of measured rows; DuckDB sorts, and spills where it may."""
    keys = ", ".join(plan.key_columns)
    measures = "".join(f", m{index}" for index in range(len(plan.measures)))
    sql = (
        f"SELECT {keys}, event_time, available_at, coalesce(seq, {NO_SEQUENCE!r}) AS seq{measures} FROM {relation} "
        f"ORDER BY {keys}, event_time, seq, available_at"
    )
    for rows in whole_entities(connection.sql(sql).to_arrow_reader(batch), len(plan.keys)):
        yield RowBatch(rows, plan)


def whole_entities(batches: Iterable[pyarrow.RecordBatch], width: int) -> Iterator[pyarrow.RecordBatch]:
    """Batches in the order of their first ``width`` columns, cut anew so that no entity is in two of them."""
    import numpy
    import pyarrow

    waiting: list[pyarrow.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        begins = _changed(batch, width)
        if not waiting or all(
            batch.column(index)[0] == waiting[-1].column(index)[waiting[-1].num_rows - 1] for index in range(width)
        ):
            begins[0] = False
        cuts = numpy.flatnonzero(begins)
        if not len(cuts):
            waiting.append(batch)
            continue
        cut = int(cuts[-1])
        yield pyarrow.concat_batches([*waiting, batch.slice(0, cut)])
        waiting = [batch.slice(cut)]
    if waiting:
        yield pyarrow.concat_batches(waiting)


def _instants(column: pyarrow.Array) -> Array:
    """Microseconds; of no event at all a moment after every other."""
    import pyarrow.compute as pc

    found: Array = (pc.fill_null(column, 2**62) if column.null_count else column).to_numpy()
    return found


def _changed(rows: pyarrow.RecordBatch, width: int) -> Array:
    """Flags of the rows that begin another entity; true for the first row."""
    import numpy
    import pyarrow.compute as pc

    changed = numpy.ones(rows.num_rows, dtype=bool)
    if rows.num_rows > 1:
        changed[1:] = False
        for index in range(width):
            column = rows.column(index)
            different = pc.not_equal(column.slice(1), column.slice(0, rows.num_rows - 1))
            changed[1:] |= different.to_numpy(zero_copy_only=False)
    return changed
