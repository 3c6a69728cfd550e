"""Demand for entities: decayed counts of the requests about each.

A request counts 2^(-age / half-life). Sums are kept relative to a landmark in the past, so that time passing changes no
sum and their order never (Cormode, Shkapenyuk, Srivastava & Xu, "Forward Decay", ICDE 2009).
"""

from __future__ import annotations

import heapq

import msgspec

_MOST_HALVINGS = 500.0
"""From the landmark to now; a double holds 2 to the power of twice that."""


class EntityDemand(msgspec.Struct, frozen=True):
    """An entity in demand: its weight in requests at the moment it was asked for, and the newest prediction about it,
    which holds its request."""

    subject: str
    prediction: str
    weight: float


class _DemandCount(msgspec.Struct):
    weight: float
    prediction: str


class Demand:
    """Demand for the answers of one application, halved each ``half_life`` seconds; beyond ``most`` entities the least
    demanded half is forgotten."""

    def __init__(self, half_life: float, most: int = 100_000) -> None:
        self._half_life = half_life
        self._most = most
        self._landmark: float | None = None
        self._counted: dict[str, _DemandCount] = {}

    def add(self, subject: str, prediction: str, at: float) -> None:
        """Count a request at ``at`` (seconds); requests come about in their order."""
        scale = self._scale(at)
        counted = self._counted.get(subject)
        if counted is None:
            if len(self._counted) >= self._most:
                self._forget()
            self._counted[subject] = _DemandCount(scale, prediction)
            return
        counted.weight += scale
        counted.prediction = prediction

    def greatest(self, number: int, now: float) -> tuple[EntityDemand, ...]:
        """The entities with the greatest weight, the greatest first; ties by subject."""
        found = heapq.nsmallest(number, self._counted.items(), key=lambda item: (-item[1].weight, item[0]))
        scale = self._scale(now)
        return tuple(EntityDemand(subject, counted.prediction, counted.weight / scale) for subject, counted in found)

    def _scale(self, at: float) -> float:
        if self._landmark is None:
            self._landmark = at
        halvings = (at - self._landmark) / self._half_life
        if halvings > _MOST_HALVINGS:
            # What has become too small for a double is demanded no more.
            shrunk = 2.0**-halvings if halvings < 2 * _MOST_HALVINGS else 0.0
            self._landmark = at
            for counted in self._counted.values():
                counted.weight *= shrunk
            halvings = 0.0
        return float(2.0**halvings)

    def _forget(self) -> None:
        kept = heapq.nlargest(self._most // 2, self._counted.items(), key=lambda item: item[1].weight)
        self._counted = dict(kept)
