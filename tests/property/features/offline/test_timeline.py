"""Running totals say what walking the events says: windows, sums, squares and the last one, at every instant."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from antiphon.features.offline.point_in_time.timeline import Timeline, sorted_points
from antiphon.features.plan import LIMIT

FAR = 2**62
LEAST, MOST = -(2**63), 2**63 - 1


class Happening(NamedTuple):
    entity: int
    event_time: int
    available_at: int
    seq: int
    value: int | None


near = st.integers(-20, 20)
# Nothing happens at the least of all: it stands for what is before every event (a timestamp of -infinity is later).
instants = st.one_of(near, near, near, st.sampled_from([FAR, -FAR, FAR + 1, LEAST + 1, MOST]))
happenings = st.builds(
    Happening,
    st.integers(0, 2),
    instants,
    st.one_of(near, near, instants),
    st.integers(0, 30),
    st.one_of(st.none(), st.integers(-5, 5), st.sampled_from([LIMIT, -LIMIT])),
)
windows = st.one_of(st.none(), st.integers(1, 25), st.sampled_from([2 * FAR - 1]))
points = st.tuples(st.integers(-1, 3), instants)


def lag(one: Happening) -> int:
    return max(one.event_time, one.available_at) - one.event_time


# Wide sums: one window holds more than 2⁶³, and running totals wrap while no window does.
@example([Happening(0, n, n, n, LIMIT) for n in range(5)] * 3, [(0, 3), (0, 9)], 3, True)
@example([Happening(n % 2, n, n + n % 3, n, -LIMIT) for n in range(40)], [(0, 39), (1, 39), (3, 0)], 7, True)
@given(st.lists(happenings, max_size=25), st.lists(points, min_size=1, max_size=8), windows, st.booleans())
@settings(max_examples=300)
def test_windows_are_what_walking_the_events_says(
    events: list[Happening], asked: list[tuple[int, int]], window: int | None, late: bool
) -> None:
    if not late:
        events = [one._replace(available_at=one.event_time) for one in events]
    # Two of one entity, instant and sequence are one event: the first of them counts.
    first: dict[tuple[int, int, int], int] = {}
    for place, one in enumerate(events):
        first.setdefault((one.entity, one.event_time, one.seq), place)
    kept = [events[place] for place in sorted(first.values())]

    def settle(tied: np.ndarray) -> np.ndarray:
        chosen = [
            place for place in tied if first[events[place].entity, events[place].event_time, events[place].seq] == place
        ]
        return np.array(
            sorted(chosen, key=lambda at: (events[at].entity, events[at].event_time, events[at].seq)), np.int64
        )

    entity, event_time, available_at, value = (
        np.array([one[place] or 0 for one in events], np.int64) for place in (0, 1, 2, 4)
    )
    timeline = Timeline(4, entity, event_time, np.maximum(event_time, available_at), settle)
    known = np.array([one.value is not None for one in events], np.bool_)
    present = None if known.all() else known[timeline.order]
    steps = value[timeline.order]
    given_points, places = sorted_points(*(np.array(column, np.int64) for column in zip(*asked, strict=True)))
    reading = timeline.read(given_points)
    counts = reading.counts(window, present)
    totals = reading.totals(window, steps, counts)
    squares = reading.totals(window, steps, counts, 2)
    lasts = reading.last(window, present)

    for (whose, t), place in zip(asked, places, strict=True):
        inside = [
            one
            for one in kept
            if one.entity == whose
            and one.value is not None
            and one.event_time <= t
            and one.available_at <= t
            and (window is None or one.event_time > max(LEAST, t - window))
        ]
        assert counts[place] == len(inside)
        total = square = 0
        for one in inside:
            assert one.value is not None
            total, square = total + one.value, square + one.value**2
        assert int(totals[place]) == total
        assert int(squares[place]) == square
        newest = max(inside, key=lambda one: (one.event_time, one.seq), default=None)
        assert (events[timeline.order[lasts[place]]] if lasts[place] >= 0 else None) == newest
