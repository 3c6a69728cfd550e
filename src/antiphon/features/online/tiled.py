"""Entities with many events: their tiles, and a value for the events of each tile, of a batch of entities by columns.

Invariant: the bytes are those that packing one event after the other gives: a tile is what ``Tile.add`` makes of its
events, and ``pack`` of it. What is kept of tiles is aggregated over all of the batch's tiles at once, and columns are
encoded at once, so that the events of a tile are slices of their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from antiphon.features.online.encoding import block_key, encode_packed_tiles
from antiphon.features.online.msgpack_columns import (
    NIL,
    array_header,
    encoded_integers,
    encoded_measure,
    encoded_sequences,
)
from antiphon.features.plan import Plan
from antiphon.features.tiles.aggregate_columns import Aggregates, counted_buckets
from antiphon.features.tiles.row_batches import MeasureColumn, RowBatch
from antiphon.features.tiles.sketches import KEPT

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_BLOCK, _NIL = array_header(6), bytes((NIL,))
"""A block is its six fields; none of its events has a place in the log."""
_NOTHING = [0, 0, 0, None, None, None, None, None]


class _Tiles:
    """The tiles of a batch as groups of rows, as :class:`Aggregates` sees a batch's entities.

    Attributes:
        starts: where each tile's rows begin, and the number of rows last.
        entity: the place of each row's tile.
        entities: how many tiles.
    """

    def __init__(self, batch: RowBatch, plan: Plan) -> None:
        import numpy

        index = batch.times // plan.tile
        new = numpy.ones(len(index), dtype=bool)
        new[1:] = (index[1:] != index[:-1]) | (batch.entity[1:] != batch.entity[:-1])
        begins = numpy.flatnonzero(new)
        self.starts: Array = numpy.append(begins, len(index))
        self.entities = len(begins)
        self.entity: Array = numpy.repeat(numpy.arange(self.entities), numpy.diff(self.starts))
        self.indexes: Array = index[begins]
        self.newest: Array = numpy.maximum.reduceat(batch.available, begins)
        self.of: Array = numpy.searchsorted(begins, batch.starts)
        """Where each entity's tiles begin, and the number of tiles last."""


def tiled_records(batch: RowBatch, plan: Plan, hashes: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of entities, given their hashes: of each tile its events, and of each entity its tiles."""
    import numpy

    tiles = _Tiles(batch, plan)
    columns = [batch.measure(index) for index in range(len(plan.measures))]
    of_measures = [_packed(tiles, plan, at, column, batch) for at, column in enumerate(columns)]
    packed = [list(measures) for measures in zip(*of_measures, strict=True)] if columns else [[]] * tiles.entities
    headers = [array_header(rows) for rows in numpy.diff(tiles.starts).tolist()]
    blocks = [
        b"".join((_BLOCK, head, times, head, available, head, seqs, *measures, _NIL, newest))
        for head, times, available, seqs, measures, newest in zip(
            headers,
            encoded_integers(batch.times).slices(tiles.starts),
            encoded_integers(batch.available).slices(tiles.starts),
            encoded_sequences(batch.seqs).slices(tiles.starts),
            _measures(columns, headers, tiles.starts),
            encoded_integers(tiles.newest).slices(numpy.arange(tiles.entities + 1)),
            strict=True,
        )
    ]
    indexes, newest = tiles.indexes.tolist(), tiles.newest.tolist()
    for hashed, (first, end) in zip(hashes, pairwise(tiles.of.tolist()), strict=True):
        for tile in range(first, end):
            yield block_key(hashed, indexes[tile]), blocks[tile]
        yield (
            hashed,
            encode_packed_tiles({indexes[tile]: (newest[tile], packed[tile]) for tile in range(first, end)}),
        )


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


def _packed(tiles: _Tiles, plan: Plan, measure: int, column: MeasureColumn, batch: RowBatch) -> list[list[Any]]:
    """One measure of every tile, packed."""
    import numpy
    import pyarrow

    parts, size = plan.parts[measure], tiles.entities
    found = Aggregates(tiles, column, parts, None)
    nothing: list[Any] = [None] * size

    def extreme(part: str, of: Array) -> list[Any]:
        if part not in parts:
            return nothing
        if of.dtype == numpy.float64:
            # Of zeros that differ in sign the first one counts.
            of = column.values[_first_equal(found, column, of)]
        return _values(MeasureColumn(of, None, column.texts))

    def placed(part: str, at: Array) -> list[Any]:
        if part not in parts:
            return nothing
        seqs = batch.seqs.take(pyarrow.array(at)).to_pylist()
        values = _values(MeasureColumn(column.values[at], None, column.texts))
        return list(zip(batch.times[at].tolist(), seqs, values, strict=True))

    lows = extreme("low", found.low) if "low" in parts else nothing
    highs = extreme("high", found.high) if "high" in parts else nothing
    totals = _narrow(found.total) if "total" in parts else [0] * size
    squares = _narrow(found.squares) if "squares" in parts else [0] * size
    latest = batch.times[found.last].tolist()
    each = zip(
        found.count.tolist(), totals, squares, lows, highs, placed("first", found.first), placed("last", found.last),
        latest, _sketches(found, parts, size), strict=True,
    )  # fmt: skip
    return [[*tile, *sketches] if tile[0] else _NOTHING for *tile, sketches in each]


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


def _sketches(found: Aggregates, parts: Any, size: int) -> list[tuple[Any, ...]]:
    """What ``pack`` puts at the end, a tuple a tile."""
    if not {"distinct", "buckets"} & set(parts):
        return [()] * size
    hashes: list[Any] = [None] * size
    buckets: list[Any] = [None] * size
    if "distinct" in parts:
        every = found.hashes.tolist()
        hashes = [every[begin : min(end, begin + KEPT)] for begin, end in pairwise(found.hash_begins.tolist())]
    if "buckets" in parts:
        numbers, counts, begins = counted_buckets(found)
        of_numbers, of_counts = numbers.tolist(), counts.tolist()
        buckets = [[of_numbers[begin:end], of_counts[begin:end]] for begin, end in pairwise(begins.tolist())]
    return list(zip(hashes, buckets, strict=True))
