"""Aggregates of many entities at once: the columns of :class:`Tile`, exact whatever their size.

Invariant: what an entity has here is what ``Tile.add`` makes of the same rows. Sums are int64 where none can overflow,
which the greatest magnitude and count tell beforehand, and Python integers otherwise.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from antiphon.features.plan import Part
from antiphon.features.tiles.row_batches import MeasureColumn, RowGroups
from antiphon.features.tiles.sketches import KEPT, SIGNIFICANT

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_HALF = 24
"""Bits of the lower half of a fixed-point value, whose magnitude is at most 2⁴⁷."""
_INT64 = 2**63


class Aggregates:
    """Aggregates of each entity's chosen rows, one value per entity.

    Attributes:
        count: how many rows had a value.
        first, last: places of the rows; 0 without any.
        total, squares: int64, or Python integers.
        low, high: as the measure's values.
        ordered, begins: for quantiles the values in order, entity after entity, and where each begins.
        hashes, hash_begins: for distinct values the different hashes likewise, and the number of them last.
    """

    total: Array
    squares: Array
    low: Array
    high: Array
    ordered: Array
    hashes: Array
    hash_begins: Array

    def __init__(self, batch: RowGroups, column: MeasureColumn, parts: Collection[Part], chosen: Array | None) -> None:
        """
        Args:
            chosen: which rows count; all by default.
        """
        import numpy

        self.column = column
        if column.present is not None:
            chosen = column.present if chosen is None else chosen & column.present
        rows = None
        if chosen is None or bool(chosen.all()):
            self.count: Array = numpy.diff(batch.starts)
            self.begins: Array = batch.starts[:-1]
            values, entity = column.values, batch.entity
        else:
            rows = numpy.flatnonzero(chosen)
            entity = batch.entity[rows]
            self.count = numpy.bincount(entity, minlength=batch.entities)
            self.begins = numpy.cumsum(self.count) - self.count
            values = column.values[rows]
        self.some: Array = self.count > 0
        self._whole = bool(self.some.all())
        self._starts = self.begins if self._whole else self.begins[self.some]
        self._most = int(self.count.max(initial=0))
        ends = self._starts + self.count[self.some] - 1
        self.first = self._spread(self._starts if rows is None else rows[self._starts])
        self.last = self._spread(ends if rows is None else rows[ends])
        if "total" in parts:
            self.total = self._spread(self._sums(values))
        if "squares" in parts:
            self.squares = self._spread(self._squares(values))
        if "low" in parts:
            self.low = self._spread(self._reduced(numpy.minimum, values))
        if "high" in parts:
            self.high = self._spread(self._reduced(numpy.maximum, values))
        if "buckets" in parts:
            self.ordered = values[numpy.lexsort((values, entity))]
        if "distinct" in parts:
            self._different(values, entity, batch.entities)

    def _spread(self, found: Array) -> Array:
        """Of entities with a row, to all."""
        import numpy

        if self._whole:
            return found
        every = numpy.zeros(len(self.some), dtype=found.dtype)
        every[self.some] = found
        return every

    def _reduced(self, function: Any, values: Array) -> Array:
        found: Array = function.reduceat(values, self._starts) if len(self._starts) else values[:0]
        return found

    def _sums(self, values: Array) -> Array:
        import numpy

        if _greatest(values) * self._most < _INT64:
            return self._reduced(numpy.add, values)
        high, low = values >> _HALF, values & (2**_HALF - 1)
        found: Array = self._reduced(numpy.add, high).astype(object) * 2**_HALF + self._reduced(numpy.add, low)
        return found

    def _squares(self, values: Array) -> Array:
        import numpy

        if _greatest(values) ** 2 * self._most < _INT64:
            return self._reduced(numpy.add, values * values)
        if self._most <= 2**14:
            high, low = values >> _HALF, values & (2**_HALF - 1)
            parts = [self._reduced(numpy.add, part).astype(object) for part in (high * high, high * low, low * low)]
            found: Array = parts[0] * 2 ** (2 * _HALF) + parts[1] * 2 ** (_HALF + 1) + parts[2]
            return found
        wide = values.astype(object)
        return self._reduced(numpy.add, wide * wide)

    def _different(self, values: Array, entity: Array, entities: int) -> None:
        import numpy

        order = numpy.lexsort((values, entity))
        hashes, of = values[order], entity[order]
        new = numpy.ones(len(hashes), dtype=bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (of[1:] != of[:-1])
        self.hashes = hashes[new]
        self.hash_begins = numpy.concatenate([[0], numpy.cumsum(numpy.bincount(of[new], minlength=entities))])

    def least_hashes(self) -> tuple[Array, Array]:
        """The least hashes of each entity, of which a sketch keeps no more, and where each begins."""
        import numpy

        sizes = numpy.diff(self.hash_begins)
        place = numpy.arange(len(self.hashes)) - numpy.repeat(self.hash_begins[:-1], sizes)
        return self.hashes[place < KEPT], numpy.concatenate([[0], numpy.cumsum(numpy.minimum(sizes, KEPT))])


def _greatest(values: Array) -> int:
    return max(abs(int(values.min())), abs(int(values.max()))) if len(values) else 0


def magnitudes(steps: Array) -> tuple[Array, Array]:
    """The magnitude of each value, and how many of its bits no bucket tells."""
    import numpy

    magnitude = numpy.abs(steps)
    _, length = numpy.frexp(magnitude.astype(numpy.float64))
    return magnitude, numpy.maximum(length.astype(numpy.int64) - SIGNIFICANT, 0)


def buckets_of(steps: Array) -> Array:
    """``sketches.bucket`` of each value."""
    import numpy

    magnitude, shift = magnitudes(steps)
    number = (shift << (SIGNIFICANT - 1)) + (magnitude >> shift)
    result: Array = numpy.where(steps >= 0, number, -number)
    return result


def counted_buckets(found: Aggregates) -> tuple[Array, Array, Array]:
    """Buckets in order with how many values lie in each, entity after entity, and where each entity's begin."""
    import numpy

    numbers = buckets_of(found.ordered)
    entity = numpy.repeat(numpy.arange(len(found.count)), found.count)
    new = numpy.ones(len(numbers), dtype=bool)
    new[1:] = (numbers[1:] != numbers[:-1]) | (entity[1:] != entity[:-1])
    places = numpy.flatnonzero(new)
    counts = numpy.diff(numpy.concatenate([places, [len(numbers)]]))
    each = numpy.bincount(entity[places], minlength=len(found.count))
    return numbers[places], counts, numpy.concatenate([[0], numpy.cumsum(each)])
