"""The features of one view at many points, as columns: read from a timeline, finished whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from antiphon.features.offline.point_in_time.event_columns import EventColumns
from antiphon.features.offline.point_in_time.timeline import Flags, Ints, Points, Timeline, earlier, sorted_points
from antiphon.features.plan import DAY, PlannedFeature, ViewPlan
from antiphon.features.tiles import finish_columns
from antiphon.features.tiles.finish_columns import Integers, array

if TYPE_CHECKING:
    import pyarrow


class ViewColumns:
    """Aggregates are read once, however many features finish them; columns are in the order of the given points.

    Args:
        entity, moment: the points; −1 is an entity without a number.
    """

    def __init__(self, plan: ViewPlan, events: EventColumns, entity: Ints, moment: Ints) -> None:
        self._plan = plan
        self._events = events
        points, self._places = sorted_points(entity, moment)
        self._aggregates: dict[tuple[str, int, int | None, str], Integers] = {}
        self._readings = {"own": events.timeline.read(points)}
        self._midnight_of: Ints | None = None
        if plan.fitted_windows:
            self._read_midnights(points)

    def values(self, feature: PlannedFeature) -> pyarrow.Array:
        """A feature of every point."""
        return self._finished(feature).take(array(self._places))

    def event_times(self, feature: PlannedFeature) -> pyarrow.Array:
        """The event time (microseconds, UTC) of the latest event in each value."""
        import pyarrow

        times = self._events.timeline.event_time
        if feature.fitted:
            assert self._midnight_of is not None
            places, times = self._last(feature, "every")[self._midnight_of], self._every_times
        else:
            places = self._last(feature, "own")
        places = places[self._places]
        found = times[np.maximum(places, 0)] if len(times) else np.zeros(len(places), np.int64)
        return array(found, places >= 0).cast(pyarrow.timestamp("us", tz="UTC"))

    def _finished(self, feature: PlannedFeature) -> pyarrow.Array:
        scale = self._plan.measures[feature.measure].scale
        match feature.aggregation:
            case "count":
                return array(self._count(feature, "own"))
            case "sum":
                return finish_columns.sums(self._total(feature, "own"), scale)
            case "mean":
                return finish_columns.means(self._total(feature, "own"), self._count(feature, "own"), scale)
            case "std":
                count, total = self._count(feature, "own"), self._total(feature, "own")
                return finish_columns.deviations(count, total, self._total(feature, "own", 2), scale)
            case "last" | "embed":
                return self._last_value(feature)
            case "frequency":
                every = self._count(feature, "every")[self._midnight_of]
                return finish_columns.frequencies(self._count(feature, "fitted"), every)
            case "target":
                return finish_columns.targets(
                    self._count(feature, "fitted"),
                    self._total(feature, "fitted"),
                    self._count(feature, "every")[self._midnight_of],
                    self._total(feature, "every")[self._midnight_of],
                    feature.smoothing,
                    scale,
                )
        raise ValueError(f"{feature.aggregation} is read from tiles")

    def _last_value(self, feature: PlannedFeature) -> pyarrow.Array:
        measure = self._plan.measures[feature.measure]
        places = self._last(feature, "own")
        if measure.mode != "fixed":
            return self._events.picked(feature.measure, places)
        steps = self._events.steps(feature.measure)
        taken = steps[np.maximum(places, 0)] if len(steps) else np.zeros(len(places), np.int64)
        return finish_columns.scaled(taken, places >= 0, measure.scale)

    def _read_midnights(self, points: Points) -> None:
        """Encodings: each point at the midnight before it, and all entities together at each of those midnights."""
        timeline = self._events.timeline
        # Of the least instants there is no midnight before.
        fitted = earlier(points.moment, 1) // DAY * DAY
        self._readings["fitted"] = timeline.read(Points(points.entity, fitted))
        midnights, self._midnight_of = np.unique(fitted, return_inverse=True)
        one_group = np.zeros(len(timeline.event_time), np.int64)
        together = Timeline(1, one_group, timeline.event_time, timeline.visible_at)
        self._every_order = together.order
        self._every_times = together.event_time
        self._readings["every"] = together.read(Points(np.zeros(len(midnights), np.int64), midnights))

    def _count(self, feature: PlannedFeature, whose: str) -> Ints:
        key = (whose, feature.measure, feature.window, "count")
        if key not in self._aggregates:
            self._aggregates[key] = self._readings[whose].counts(feature.window, self._present(feature, whose))
        return self._aggregates[key]

    def _total(self, feature: PlannedFeature, whose: str, power: int = 1) -> Integers:
        key = (whose, feature.measure, feature.window, f"total{power}")
        if key not in self._aggregates:
            steps = self._events.steps(feature.measure)
            if whose == "every":
                steps = steps[self._every_order]
            count = self._count(feature, whose)
            self._aggregates[key] = self._readings[whose].totals(feature.window, steps, count, power)
        return self._aggregates[key]

    def _last(self, feature: PlannedFeature, whose: str) -> Ints:
        key = (whose, feature.measure, feature.window, "last")
        if key not in self._aggregates:
            self._aggregates[key] = self._readings[whose].last(feature.window, self._present(feature, whose))
        return self._aggregates[key]

    def _present(self, feature: PlannedFeature, whose: str) -> Flags | None:
        present = self._events.present(feature.measure)
        return present[self._every_order] if whose == "every" and present is not None else present
