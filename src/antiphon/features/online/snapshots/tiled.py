"""Entities with many events: their tiles, and a value for the events of each tile, of a batch of entities by columns.

Invariant: the bytes are those that packing one event after the other gives: a tile is what ``Tile.add`` makes of its
events, and ``pack`` of it. What is kept of tiles is aggregated over all of the batch's tiles at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

from antiphon.features.online.snapshots.encoding import block_key, encode, tiles_record
from antiphon.features.plan import ViewPlan
from antiphon.features.tiles.aggregate_columns import Aggregates, counted_buckets
from antiphon.features.tiles.entity_state import Block
from antiphon.features.tiles.row_batches import MeasureColumn, RowBatch, RowGroups

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


class _Tiles(RowGroups):
    """The tiles of a batch as groups of rows."""

    def __init__(self, batch: RowBatch, plan: ViewPlan) -> None:
        import numpy

        index = batch.times // plan.tile
        new = numpy.ones(len(index), dtype=bool)
        new[1:] = (index[1:] != index[:-1]) | (batch.entity[1:] != batch.entity[:-1])
        begins = numpy.flatnonzero(new)
        super().__init__(numpy.append(begins, len(index)))
        self.indexes: Array = index[begins]
        self.newest: Array = numpy.maximum.reduceat(batch.available, begins)
        self.of: Array = numpy.searchsorted(begins, batch.starts)
        """Index of each entity's first tile, and the number of tiles last."""


def tiled_records(batch: RowBatch, plan: ViewPlan, hashes: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of entities, given their hashes: of each tile its events, and of each entity its tiles."""
    import numpy

    tiles = _Tiles(batch, plan)
    columns = [batch.measure(index) for index in range(len(plan.measures))]
    times, available = batch.times.tolist(), batch.available.tolist()
    seqs = batch.seqs.to_numpy(zero_copy_only=False).tolist()
    measures = [_values(column) for column in columns]
    # Tile after tile: lists of all of them would be looked at by every collection of garbage.
    packed = zip(*(_packed(tiles, plan, at, column, batch) for at, column in enumerate(columns)), strict=True)
    each = zip(pairwise(tiles.starts.tolist()), tiles.indexes.tolist(), tiles.newest.tolist(), packed, strict=True)
    for hashed, size in zip(hashes, numpy.diff(tiles.of).tolist(), strict=True):
        rows = {}
        for (first, end), index, newest, of_measures in islice(each, size):
            columns_of = [column[first:end] for column in measures]
            block = Block(times[first:end], available[first:end], seqs[first:end], columns_of, newest=newest)
            yield block_key(hashed, index), encode(block)
            rows[index] = (newest, of_measures)
        yield hashed, tiles_record(encode(rows))


def _values(column: MeasureColumn) -> list[Any]:
    """A measure's values as the log's events have them, ``None`` where it is null."""
    import numpy

    if column.texts is not None:
        texts = column.texts.to_numpy(zero_copy_only=False)
        values = texts[column.values] if len(texts) else numpy.full(len(column.values), None)
    else:
        values = column.values.astype(bool) if column.values.dtype == numpy.uint8 else column.values
    if column.present is not None:
        values = values.astype(object)
        values[~column.present] = None
    found: list[Any] = values.tolist()
    return found


def _packed(tiles: _Tiles, plan: ViewPlan, measure: int, column: MeasureColumn, batch: RowBatch) -> Iterator[Any]:
    """One measure of every tile, as ``pack`` gives it."""
    import pyarrow

    parts, size = plan.parts[measure], tiles.entities
    found = Aggregates(tiles, column, parts, None)
    some = None if bool(found.some.all()) else found.some
    nothing: list[Any] = [None] * size

    def extreme(of: Array) -> list[Any]:
        if of.dtype == "float64":
            # Of zeros that differ in sign the first one counts.
            of = column.values[_first_equal(found, column, of)]
        return _values(MeasureColumn(of, some, column.texts))

    def placed(at: Array) -> Iterator[Any]:
        seqs = batch.seqs.take(pyarrow.array(at)).to_pylist()
        values = _values(MeasureColumn(column.values[at], None, column.texts))
        events = zip(batch.times[at].tolist(), seqs, values, strict=True)
        return (event if there else None for event, there in zip(events, found.some.tolist(), strict=True))

    packed = zip(
        found.count.tolist(),
        _narrow(found.total) if "total" in parts else [0] * size,
        _narrow(found.squares) if "squares" in parts else [0] * size,
        extreme(found.low) if "low" in parts else nothing,
        extreme(found.high) if "high" in parts else nothing,
        placed(found.first) if "first" in parts else nothing,
        placed(found.last) if "last" in parts else nothing,
        _values(MeasureColumn(batch.times[found.last], some)),
        strict=True,
    )
    if not {"distinct", "buckets"} & set(parts):
        return packed
    hashes: Iterable[Any] = nothing
    buckets: Iterable[Any] = nothing
    if "distinct" in parts:
        hashes = _lists(*found.least_hashes())
    if "buckets" in parts:
        numbers, counts, begins = counted_buckets(found)
        buckets = zip(_lists(numbers, begins), _lists(counts, begins), strict=True)
    return (
        (*tile, *sketches) if there else tile
        for tile, *sketches, there in zip(packed, hashes, buckets, found.some.tolist(), strict=True)
    )


def _narrow(sums: Array) -> list[int | str]:
    """Integers beyond 64 bits as decimal text."""
    found: list[Any] = sums.tolist()
    if sums.dtype == "int64":
        return found
    return [value if -(2**63) <= value < 2**63 else str(value) for value in found]


def _first_equal(found: Aggregates, column: MeasureColumn, of: Array) -> Array:
    """The place of the first row of each tile that has this value; 0 for a tile without any."""
    import numpy

    rows = numpy.arange(len(column.values)) if column.present is None else numpy.flatnonzero(column.present)
    tile = numpy.repeat(numpy.arange(len(found.count)), found.count)
    same = numpy.flatnonzero(column.values[rows] == of[tile])
    places = numpy.zeros(len(found.count), dtype=numpy.int64)
    # Written from the last to the first, so that the first one stays.
    places[tile[same][::-1]] = rows[same][::-1]
    return places


def _lists(values: Array, begins: Array) -> Iterator[list[int]]:
    """The integers from each begin to the next one."""
    every = values.tolist()
    return (every[first:end] for first, end in pairwise(begins.tolist()))
