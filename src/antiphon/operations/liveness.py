"""Liveness: for how long a process has given no sign of life although it could have."""

from __future__ import annotations

from collections.abc import Mapping


class Silence:
    """The silence of one process, measured while this one ran and that one had a processor.

    - A gap between two looks counts for two looks at most: a machine that slept, or a supervisor that was stopped, must
      not take the time that it missed for a silence of others.
    - Time for which a thread that must turn waited for a processor does not count: on a crowded machine what is starved
      is no better for being started again. Other threads may compete while that one hangs.

    Args:
        most: seconds of silence after which the process counts as hung.
        now: monotonic seconds.
    """

    def __init__(self, most: float, now: float) -> None:
        self._most = most
        self._looked = now
        self._waited: Mapping[int, float] = {}
        self._silent = 0.0

    @property
    def look_every(self) -> float:
        """Seconds between two looks."""
        return min(1.0, self._most / 4)

    def look(self, heard: bool, now: float, waited: Mapping[int, float]) -> bool:
        """Count the time since the last look, unless a sign of life came; whether the silence lasts too long.

        Args:
            waited: for how many seconds each of these threads has waited for a processor so far.
        """
        gap, self._looked = min(now - self._looked, 2 * self.look_every), now
        starved = max((so_far - self._waited.get(thread, so_far) for thread, so_far in waited.items()), default=0.0)
        self._waited = waited
        self._silent = 0.0 if heard else self._silent + max(0.0, gap - starved)
        return self._silent >= self._most
