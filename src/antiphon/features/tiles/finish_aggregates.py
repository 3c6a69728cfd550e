"""Finishing the aggregates of many entities at once: bit for bit what ``finish.py`` makes of each tile, by tested
property. Divisions are those of ``finish_columns``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from antiphon.features.plan import PlannedFeature, ViewMeasure
from antiphon.features.tiles import finish_columns
from antiphon.features.tiles.aggregate_columns import Aggregates, magnitudes
from antiphon.features.tiles.sketches import HASH_BITS, KEPT
from antiphon.features.tiles.tile import Tile

if TYPE_CHECKING:
    import numpy
    import pyarrow

    Array = numpy.ndarray[Any, Any]


def finished(
    feature: PlannedFeature, measure: ViewMeasure, found: Aggregates, every: Tile | None = None
) -> pyarrow.Array:
    """A feature's values, one an entity. ``every``: for an encoding, the tile of all entities together."""
    import numpy
    import pyarrow

    scale = measure.scale
    match feature.aggregation:
        case "frequency":
            return finish_columns.frequencies(found.count, numpy.full(len(found.count), every.count if every else 0))
        case "target":
            every = every or Tile()
            wide = not -(2**63) <= every.total < 2**63
            totals = numpy.full(len(found.count), every.total, object if wide else numpy.int64)
            counts = numpy.full(len(found.count), every.count)
            return finish_columns.targets(found.count, found.total, counts, totals, feature.smoothing, scale)
        case "count":
            return pyarrow.array(found.count)
        case "sum":
            return finish_columns.sums(found.total, scale)
        case "mean":
            return finish_columns.means(found.total, found.count, scale)
        case "std":
            return finish_columns.deviations(found.count, found.total, found.squares, scale)
        case "distinct":
            return pyarrow.array(_distinct(found))
        case "quantile":
            twice = _twice_middles(_at_rank(found, feature.share))
            return finish_columns.scaled(twice, found.some, (scale[0], 2 * scale[1]))
        case "min":
            places = found.low
        case "max":
            places = found.high
        case "first" | "last" | "embed":
            rows = found.first if feature.aggregation == "first" else found.last
            values = found.column.values
            places = values[rows] if len(values) else numpy.zeros(0, values.dtype)
    if measure.mode == "fixed":
        return finish_columns.scaled(places, found.some, scale)
    return found.column.arrow(places, None if bool(found.some.all()) else ~found.some)


def _distinct(found: Aggregates) -> Array:
    import numpy

    estimates: Array = numpy.diff(found.hash_begins)
    for place in numpy.flatnonzero(estimates >= KEPT).tolist():
        greatest = int(found.hashes[found.hash_begins[place] + KEPT - 1])
        estimates[place] = ((KEPT - 1) << HASH_BITS) // (greatest + 1)
    return estimates


def _at_rank(found: Aggregates, share: tuple[int, int]) -> Array:
    """The value at place ⌈q·n⌉ of each entity: buckets are ordered like values."""
    import numpy

    if share[0] * int(found.count.max(initial=0)) < 2**62 and share[1] < 2**62:
        rank = -(-share[0] * found.count // share[1])
    else:
        rank = numpy.array([-(-share[0] * n // share[1]) for n in found.count.tolist()], dtype=numpy.int64)
    places = (found.begins + numpy.maximum(rank, 1) - 1)[found.some]
    ranked: Array = numpy.zeros(len(found.count), dtype=numpy.int64)
    ranked[found.some] = found.ordered[places]
    return ranked


def _twice_middles(steps: Array) -> Array:
    import numpy

    magnitude, shift = magnitudes(steps)
    middle = 2 * ((magnitude >> shift) << shift) + (1 << shift) - 1
    result: Array = numpy.where(steps >= 0, middle, -middle)
    return result
