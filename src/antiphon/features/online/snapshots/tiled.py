"""Entities with many events: their tiles, and a value for the events of each tile, of a batch of entities by columns.

Invariant: the bytes are those that packing one event after the other gives: a tile is what ``Tile.add`` makes of its
events, and ``pack`` of it. What is kept of tiles is aggregated over all of the batch's tiles at once, and columns are
encoded at once, so that the events of a tile are slices of their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.features.online.snapshots.encoding import block_key, tiles_record
from antiphon.features.online.snapshots.msgpack_columns import (
    NIL,
    array_header,
    encoded_integers,
    encoded_measure,
    encoded_sequences,
    map_header,
)
from antiphon.features.plan import ViewPlan
from antiphon.features.tiles.aggregate_columns import Aggregates, counted_buckets
from antiphon.features.tiles.row_batches import MeasureColumn, RowBatch, RowGroups
from antiphon.features.tiles.sketches import KEPT

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_BLOCK, _NIL = array_header(6), bytes((NIL,))
"""A block is its six fields; none of its events has a place in the log."""
_encode = msgspec.msgpack.Encoder().encode


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
    headers = [array_header(rows) for rows in numpy.diff(tiles.starts).tolist()]
    each = numpy.arange(tiles.entities + 1)
    newest, indexes = encoded_integers(tiles.newest).slices(each), encoded_integers(tiles.indexes).slices(each)
    blocks = [
        b"".join((_BLOCK, head, times, head, available, head, seqs, *measures, _NIL, known))
        for head, times, available, seqs, measures, known in zip(
            headers,
            encoded_integers(batch.times).slices(tiles.starts),
            encoded_integers(batch.available).slices(tiles.starts),
            encoded_sequences(batch.seqs).slices(tiles.starts),
            _measures(columns, headers, tiles.starts),
            newest,
            strict=True,
        )
    ]
    keys: list[int] = tiles.indexes.tolist()
    of_measures = zip(*(_packed(tiles, plan, at, column, batch) for at, column in enumerate(columns)), strict=True)
    pair, outer = array_header(2), array_header(len(columns))
    rows = [
        b"".join((index, pair, known, outer, *measures))
        for index, known, measures in zip(indexes, newest, of_measures, strict=True)
    ]
    for hashed, (first, end) in zip(hashes, pairwise(tiles.of.tolist()), strict=True):
        for tile in range(first, end):
            yield block_key(hashed, keys[tile]), blocks[tile]
        yield hashed, tiles_record(map_header(end - first) + b"".join(rows[first:end]))


def _measures(columns: list[MeasureColumn], headers: list[bytes], starts: Array) -> Iterator[tuple[bytes, ...]]:
    """The bytes of every tile's measures, an array of arrays."""
    every = [encoded_measure(column).slices(starts) for column in columns]
    outer = array_header(len(columns))
    for head, *measures in zip(headers, *every, strict=True):
        yield (outer, *(part for measure in measures for part in (head, measure)))


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


def _packed(tiles: _Tiles, plan: ViewPlan, measure: int, column: MeasureColumn, batch: RowBatch) -> list[bytes]:
    """One measure of every tile, packed."""
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

    def placed(at: Array) -> list[Any]:
        seqs = batch.seqs.take(pyarrow.array(at)).to_pylist()
        values = _values(MeasureColumn(column.values[at], None, column.texts))
        events = list(zip(batch.times[at].tolist(), seqs, values, strict=True))
        return events if some is None else [event if there else None for event, there in zip(events, some, strict=True)]

    packed = [
        _encode(tile)
        for tile in zip(
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
    ]
    if not {"distinct", "buckets"} & set(parts):
        return packed
    return [
        array_header(10) + tile[1:] + sketches if there else tile
        for tile, sketches, there in zip(packed, _sketches(found, parts, size), found.some.tolist(), strict=True)
    ]


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


def _sketches(found: Aggregates, parts: Any, size: int) -> list[bytes]:
    """Sketches at a tile's end, as ``pack`` writes them: the least hashes, and buckets with their counts."""
    import numpy

    hashes, buckets = [_NIL] * size, [_NIL] * size
    if "distinct" in parts:
        # Only the least ones of each tile are kept.
        within = numpy.arange(len(found.hashes)) - numpy.repeat(found.hash_begins[:-1], numpy.diff(found.hash_begins))
        sizes = numpy.minimum(numpy.diff(found.hash_begins), KEPT)
        hashes = _arrays(found.hashes[within < KEPT], numpy.concatenate([[0], numpy.cumsum(sizes)]))
    if "buckets" in parts:
        numbers, counts, begins = counted_buckets(found)
        pair = array_header(2)
        every = zip(_arrays(numbers, begins), _arrays(counts, begins), strict=True)
        buckets = [pair + one + other for one, other in every]
    return [one + other for one, other in zip(hashes, buckets, strict=True)]


def _arrays(values: Array, begins: Array) -> list[bytes]:
    """Arrays of integers, each from where it begins to the next one."""
    import numpy

    lengths: list[int] = numpy.diff(begins).tolist()
    slices = encoded_integers(values).slices(begins)
    return [array_header(length) + content for length, content in zip(lengths, slices, strict=True)]
