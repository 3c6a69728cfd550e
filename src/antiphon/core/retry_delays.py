"""Exponential backoff of several things at once, each by its name."""

from __future__ import annotations


class RetryDelays:
    """Delays after failures in monotonic seconds: the first, doubled at each further failure of the same name up to the
    longest."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._delays: dict[str, tuple[float, float]] = {}

    def waiting(self, name: str, now: float) -> bool:
        """True while the delay of a name has not passed."""
        known = self._delays.get(name)
        return known is not None and known[0] > now

    @property
    def pending(self) -> bool:
        """True while anything failed last."""
        return bool(self._delays)

    def failed(self, name: str, now: float) -> float:
        """Record a failure; return the seconds until the next try."""
        known = self._delays.get(name)
        seconds = self._first if known is None else min(2 * known[1], self._longest)
        self._delays[name] = (now + seconds, seconds)
        return seconds

    def succeeded(self, name: str) -> None:
        """Forget the failures of a name."""
        self._delays.pop(name, None)
