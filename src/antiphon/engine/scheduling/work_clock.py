"""Maps clock time to predicted work, so that a simulation meets the same machine as the measured calls.

A call that was predicted to take 30 ms and took 60, because the machine had something else to do, is 30 ms of work in
60 ms of time. A simulation that runs instead of it, for example the same requests without batch work, would have met
the same machine: in those 60 ms it gets 30 ms of work done. So simulated and measured times are compared under the same
noise (common random numbers).

Where no call of the model was measured, a second is a second of work.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

_MOST_POINTS = 8192
"""A minute or more of a busy engine."""


class WorkClock:
    """A monotonic, piecewise linear map between time and work; both are seconds since the same beginning."""

    def __init__(self) -> None:
        self._times = [0.0]
        self._works = [0.0]

    def observe(self, begin: float, end: float, predicted: float) -> None:
        """A call ran from ``begin`` to ``end``. Calls come in order and do not overlap."""
        begin = max(begin, self._times[-1])
        if end <= begin:
            return
        if begin > self._times[-1]:
            self._add(begin, self._works[-1] + begin - self._times[-1])
        self._add(end, self._works[-1] + predicted)

    def work(self, time: float) -> float:
        """Seconds of work done by a moment."""
        return _mapped(self._times, self._works, time, bisect_right(self._times, time))

    def time(self, work: float) -> float:
        """The first moment at which so much work is done."""
        return _mapped(self._works, self._times, work, bisect_left(self._works, work))

    def _add(self, time: float, work: float) -> None:
        if len(self._times) >= _MOST_POINTS:
            del self._times[: _MOST_POINTS // 2], self._works[: _MOST_POINTS // 2]
        self._times.append(time)
        self._works.append(work)


def _mapped(points: list[float], images: list[float], at: float, right: int) -> float:
    """The image of a value before ``points[right]``; outside of all points a second is a second."""
    if right == len(points):
        return images[-1] + at - points[-1]
    if right == 0:
        return images[0] - (points[0] - at)
    left = right - 1
    return images[left] + (at - points[left]) / (points[right] - points[left]) * (images[right] - images[left])
