"""Finishing: the one function that turns an aggregate into a feature's value, on every path.

Of nothing: ``count``, ``distinct`` and ``sum`` are 0, everything else is ``None``. Divisions are of exact integers and
rounded once (Python's int / int is correctly rounded), so no path can differ in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from antiphon.features.plan import PlannedFeature, ViewMeasure
from antiphon.features.tiles.sketches import bucket_at, distinct_estimate, twice_middle
from antiphon.features.tiles.tile import Tile
from antiphon.features.values import MeasureValue

Finish = Callable[[Tile, Tile], MeasureValue]
"""The merged tile of a feature's window and, of an encoding, that of all entities together → the feature's value."""


def finish_of(feature: PlannedFeature, measure: ViewMeasure) -> Finish:
    """The finishing function of a feature; the second tile counts for encodings alone."""
    numerator, denominator = measure.scale
    fixed = measure.mode == "fixed"

    def scaled(value: MeasureValue) -> MeasureValue:
        if fixed and isinstance(value, int):
            return value * numerator / denominator
        return value

    def mean(tile: Tile, _: Tile) -> MeasureValue:
        return tile.total * numerator / (tile.count * denominator) if tile.count else None

    def std(tile: Tile, _: Tile) -> MeasureValue:
        n = tile.count
        if n < 2:
            return None
        spread = (n * tile.squares - tile.total * tile.total) * numerator * numerator
        return math.sqrt(spread / (n * (n - 1) * denominator * denominator))

    def quantile(tile: Tile, _: Tile) -> MeasureValue:
        number = bucket_at(tile.buckets or {}, feature.share)
        return None if number is None else twice_middle(number) * numerator / (2 * denominator)

    def target(tile: Tile, every: Tile) -> MeasureValue:
        """(Σx + m·Σ/N) / (n + m) with m = weight/per, multiplied out so that it is one division of integers."""
        weight, per = feature.smoothing
        if not every.count:
            return None
        if not tile.count and not weight:
            return every.total * numerator / (every.count * denominator)
        above = (tile.total * per * every.count + weight * every.total) * numerator
        return above / ((tile.count * per + weight) * every.count * denominator)

    match feature.aggregation:
        case "count":
            return lambda tile, _: tile.count
        case "sum":
            return lambda tile, _: tile.total * numerator / denominator
        case "mean":
            return mean
        case "std":
            return std
        case "min":
            return lambda tile, _: scaled(tile.low)
        case "max":
            return lambda tile, _: scaled(tile.high)
        case "first":
            return lambda tile, _: None if tile.first is None else scaled(tile.first[2])
        case "distinct":
            return lambda tile, _: distinct_estimate(tile.least_hashes)
        case "quantile":
            return quantile
        case "last" | "embed":
            return lambda tile, _: None if tile.last is None else scaled(tile.last[2])
        case "frequency":
            return lambda tile, every: tile.count / every.count if every.count else None
        case "target":
            return target
