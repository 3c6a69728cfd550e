"""Finishing: the one function that turns an aggregate into a feature's value, on every path.

Of nothing: ``count``, ``distinct`` and ``sum`` are 0, everything else is ``None``. Divisions are of exact integers and
rounded once (Python's int / int is correctly rounded), so no path can differ in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from antiphon.features.plan import PlannedFeature, ViewMeasure, ViewPlan
from antiphon.features.tiles.sketches import bucket_at, distinct_estimate, twice_middle
from antiphon.features.tiles.tile import Tile
from antiphon.features.values import MeasureValue

Finish = Callable[[Tile], MeasureValue]
FittedFinish = Callable[[Tile, Tile], MeasureValue]


def finish_of(feature: PlannedFeature, measure: ViewMeasure) -> Finish:
    """The finishing function of a feature: merged tile of its window → value."""
    numerator, denominator = measure.scale
    fixed = measure.mode == "fixed"

    def scaled(value: MeasureValue) -> MeasureValue:
        if fixed and isinstance(value, int):
            return value * numerator / denominator
        return value

    def mean(tile: Tile) -> MeasureValue:
        return tile.total * numerator / (tile.count * denominator) if tile.count else None

    def std(tile: Tile) -> MeasureValue:
        n = tile.count
        if n < 2:
            return None
        spread = (n * tile.squares - tile.total * tile.total) * numerator * numerator
        return math.sqrt(spread / (n * (n - 1) * denominator * denominator))

    def quantile(tile: Tile) -> MeasureValue:
        number = bucket_at(tile.buckets or {}, feature.share)
        return None if number is None else twice_middle(number) * numerator / (2 * denominator)

    match feature.aggregation:
        case "frequency" | "target":
            raise ValueError("an encoding is finished by fitted_finish_of")
        case "count":
            return lambda tile: tile.count
        case "sum":
            return lambda tile: tile.total * numerator / denominator
        case "mean":
            return mean
        case "std":
            return std
        case "min":
            return lambda tile: scaled(tile.low)
        case "max":
            return lambda tile: scaled(tile.high)
        case "first":
            return lambda tile: None if tile.first is None else scaled(tile.first[2])
        case "distinct":
            return lambda tile: distinct_estimate(tile.least_hashes)
        case "quantile":
            return quantile
        case "last" | "embed":
            return lambda tile: None if tile.last is None else scaled(tile.last[2])


def fitted_finish_of(feature: PlannedFeature, measure: ViewMeasure) -> FittedFinish:
    """The finishing function of an encoding: the category's tile and that of all together → value."""
    if feature.aggregation == "frequency":
        return lambda tile, every: tile.count / every.count if every.count else None
    numerator, denominator = measure.scale
    weight, per = feature.smoothing

    def target(tile: Tile, every: Tile) -> MeasureValue:
        """(Σx + m·Σ/N) / (n + m) with m = weight/per, multiplied out so that it is one division of integers."""
        if not every.count:
            return None
        if not tile.count and not weight:
            return every.total * numerator / (every.count * denominator)
        above = (tile.total * per * every.count + weight * every.total) * numerator
        return above / ((tile.count * per + weight) * every.count * denominator)

    return target


def finishes_of(feature: PlannedFeature, plan: ViewPlan) -> tuple[Finish | None, FittedFinish | None]:
    """The one of the two that finishes the feature."""
    measure = plan.measures[feature.measure]
    return (None, fitted_finish_of(feature, measure)) if feature.fitted else (finish_of(feature, measure), None)
