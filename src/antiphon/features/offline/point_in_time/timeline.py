"""Timelines: aggregates of every point's window from running totals over sorted events, without walking rows.

Invariant: a window takes the events with ``t − w < event_time ≤ t AND available_at ≤ t``. With
``v = max(event_time, available_at)`` these are the ones with ``v ≤ t`` and ``event_time > t − w``. An event with
``v − event_time ≥ w`` is in no window; of the others, each with ``event_time ≤ t − w`` has ``v < event_time + w ≤ t``,
so the window is exactly *those visible at t, less those that happened by t − w*: two running totals, read at two
places.

``last`` keeps the running maximum of an event's place in the order of (entity, event time, sequence), taken in the
order of ``v``. Places grow from entity to entity, so the maximum never needs to start again.

Entities are numbered from 0; a point of an entity without events has the number −1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from antiphon.features.tiles.finish_columns import Integers

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Settle = Callable[[Ints], Ints]

_LEAST, _MOST = -(2**63), 2**63 - 1


class Points(NamedTuple):
    """Entities and moments (microseconds), in the order of (entity, moment), so that reads go through memory once."""

    entity: Ints
    moment: Ints


class Timeline:
    """Events of numbered entities, sorted.

    Args:
        entity: number of each event's entity, from 0 to ``entities`` − 1.
        event_time, visible_at: microseconds, ``visible_at ≥ event_time``.
        settle: given the events that share entity and instant with another, returns those that count, in the order
            of (entity, event time, sequence); without it all count, in any order.

    Attributes:
        order: the events that count, in the order of (entity, event time, sequence).
        event_time, visible_at: theirs, in that order.
        ties: whether two of the given events share entity and instant.
    """

    def __init__(
        self, entities: int, entity: Ints, event_time: Ints, visible_at: Ints, settle: Settle | None = None
    ) -> None:
        self._scale = _Scale(entities, event_time, visible_at)
        packed = self._scale.packed(entity, event_time)
        self.order: Ints = np.argsort(packed)
        self._happened = packed[self.order]
        same = self._happened[1:] == self._happened[:-1]
        self.ties = bool(same.any())
        if self.ties and settle is not None:
            self._settle(packed, same, settle)
        self.event_time = event_time[self.order]
        starts = np.zeros(entities + 1, np.int64)
        np.cumsum(np.bincount(entity[self.order], minlength=entities), out=starts[1:])
        self._starts = starts
        self.visible_at = visible_at[self.order]
        self._seen: Ints | None = None
        self._visible = self._happened
        if (self.visible_at > self.event_time).any():
            seen = self._scale.packed(entity, visible_at)[self.order]
            self._seen = np.argsort(seen)
            self._visible = seen[self._seen]
            # As unsigned the difference is right whatever their signs.
            self._lag = self.visible_at.view(np.uint64) - self.event_time.view(np.uint64)

    def _settle(self, packed: Ints, same: Flags, settle: Settle) -> None:
        tied = np.zeros(len(packed), np.bool_)
        tied[1:] |= same
        tied[:-1] |= same
        kept = settle(self.order[tied])
        groups = packed[kept]
        # Of each group of ties the kept ones take the first places.
        within = np.arange(len(kept)) - np.searchsorted(groups, groups, "left")
        places = np.searchsorted(self._happened, groups, "left") + within
        self.order[places] = kept
        tied[places] = False
        self.order = self.order[~tied]
        self._happened = self._happened[~tied]

    def read(self, points: Points) -> WindowReader:
        """A reader of windows that end at these points."""
        return WindowReader(self, points)

    def places_visible(self, points: Points) -> Ints:
        """Number of events, in the order of ``v``, before or at each point, including those of lesser entities."""
        return self._places(self._visible, points.entity, points.moment)

    def places_by_event_time(self, entity: Ints, moment: Ints) -> Ints:
        """The same in the order of event time."""
        return self._places(self._happened, entity, moment)

    def starts(self, entity: Ints) -> Ints:
        """The place of each entity's first event."""
        found: Ints = self._starts[np.maximum(entity, 0)]
        return found

    def in_order_seen(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values in :attr:`order`, put in the order of ``v``."""
        return values if self._seen is None else values[self._seen]

    def ever_inside(self, window: int | None) -> Flags | None:
        """Flags of the events that a window can hold; ``None`` when it can hold every event."""
        if self._seen is None or window is None:
            return None
        inside: Flags = self._lag < np.uint64(window)
        return None if inside.all() else inside

    @property
    def prompt(self) -> bool:
        """True when every event was available at its event time."""
        return self._seen is None

    def _places(self, sorted_keys: Ints, entity: Ints, moment: Ints) -> Ints:
        keys = self._scale.packed(np.maximum(entity, 0), moment)
        return np.searchsorted(sorted_keys, keys, "right").astype(np.int64, copy=False)


class WindowReader:
    """A timeline read at points. Arrays are in the order of the points; events are given in the timeline's order."""

    def __init__(self, timeline: Timeline, points: Points) -> None:
        self._timeline = timeline
        self._points = points
        self._known = points.entity >= 0
        self._visible = timeline.places_visible(points)
        self._starts = timeline.starts(points.entity)
        self._since: dict[int | None, Ints] = {None: self._starts}

    def counts(self, window: int | None, present: Flags | None) -> Ints:
        """Number of events in each point's window; ``present`` flags those with the measure, ``None`` is every one."""
        if present is None and self._timeline.ever_inside(window) is None:
            return self._kept(self._visible - self._before(window))
        weights = np.ones(len(self._timeline.event_time), np.int64) if present is None else present.astype(np.int64)
        return self._difference(weights, window)

    def totals(self, window: int | None, values: Ints, count: Ints, power: int = 1) -> Integers:
        """The sum of the values in each point's window, or of their squares.

        Args:
            values: 0 where an event does not have the measure.
            count: from :meth:`counts`; with the greatest magnitude it bounds every sum.
        """
        if not len(values) or not len(count):
            return np.zeros(len(count), np.int64)
        most = max(-int(values.min()), int(values.max())) ** power
        # Running totals may wrap, but a difference below 2⁶³ is right modulo 2⁶⁴.
        if most * max(int(count.max()), 1) <= _MOST:
            return self._difference(values if power == 1 else values * values, window)
        wide = values.astype(object)
        return self._difference(wide if power == 1 else wide * wide, window)

    def last(self, window: int | None, present: Flags | None) -> Ints:
        """The place of the last event in each point's window, −1 where there is none."""
        timeline = self._timeline
        if not len(timeline.event_time):
            return np.full(len(self._visible), -1, np.int64)
        place = self._visible - 1
        if not (present is None and timeline.prompt):
            places = np.arange(len(timeline.event_time))
            if present is not None:
                places = np.where(present, places, -1)
            place = np.maximum.accumulate(timeline.in_order_seen(places))[np.maximum(place, 0)]
        inside = self._known & (self._visible > 0) & (place >= self._starts)
        if window is not None:
            inside &= timeline.event_time[np.maximum(place, 0)] > earlier(self._points.moment, window)
        return np.where(inside, place, -1)

    def _difference(self, weights: NDArray[Any], window: int | None) -> NDArray[Any]:
        inside = self._timeline.ever_inside(window)
        if inside is not None:
            weights = np.where(inside, weights, 0)
        seen = _running(self._timeline.in_order_seen(weights))
        event_times = seen if self._timeline.prompt else _running(weights)
        return self._kept(seen[self._visible] - event_times[self._before(window)])

    def _before(self, window: int | None) -> Ints:
        """Places of the events that happened by ``t − w``; of all time that of the entity's first."""
        found = self._since.get(window)
        if found is None:
            assert window is not None
            moment = earlier(self._points.moment, window)
            found = self._since[window] = self._timeline.places_by_event_time(self._points.entity, moment)
        return found

    def _kept(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.where(self._known, values, 0)


class _Scale:
    """Entity and instant as one integer that sorts as the pair."""

    def __init__(self, entities: int, event_time: Ints, visible_at: Ints) -> None:
        self._ranks: Ints | None = None
        self._first = int(event_time.min()) if len(event_time) else 0
        self._last = int(visible_at.max()) if len(visible_at) else 0
        # One place more, for whatever is before the first.
        self._width = self._last - self._first + 2
        if self._first == _LEAST or self._width * (entities + 1) > _MOST:
            self._ranks = np.unique(np.concatenate((event_time, visible_at)))
            self._width = len(self._ranks) + 1

    def packed(self, entity: Ints, instant: Ints) -> Ints:
        if self._ranks is not None:
            rank = np.searchsorted(self._ranks, instant, "right")
        else:
            rank = np.clip(instant, self._first - 1, self._last) - (self._first - 1)
        return np.asarray(entity * self._width + rank, np.int64)


def earlier(moment: Ints, window: int) -> Ints:
    """``t − w``, without wrapping round below the least instant."""
    return np.asarray(np.maximum(moment, _LEAST + window) - window, np.int64)


def sorted_points(entity: Ints, moment: Ints) -> tuple[Points, Ints]:
    """Points in their order, and for each of the given ones its place among them."""
    order = np.lexsort((moment, entity))
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return Points(entity[order], moment[order]), places


def _running(weights: NDArray[Any]) -> NDArray[Any]:
    """Sums of the first 0, 1, 2 … weights."""
    totals = np.zeros(len(weights) + 1, weights.dtype)
    np.cumsum(weights, out=totals[1:])
    return totals
