"""The refresh schedule: each view's declared cadence becomes durable runs, for each view one a slot, never two."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from antiphon.catalog.doorbell import Wakeup
from antiphon.core.clock import Clock, from_microseconds, microseconds
from antiphon.definitions.feature_view import FeatureViewSpec

_log = logging.getLogger("antiphon.worker")


class RefreshSlot(msgspec.Struct, frozen=True):
    """The views of one cadence (microseconds) that are due in its ``number``-th slot since 1970.

    They share a run, and so a publication. Every worker computes the same slots.

    Attributes:
        views: ``view@definition_version`` each.
    """

    cadence: int
    number: int
    views: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key of its first run."""
        return f"refresh:{self.cadence}:{self.number}"

    @property
    def begins(self) -> datetime:
        """Begin of the slot."""
        return from_microseconds(self.cadence * self.number)

    @property
    def ends(self) -> datetime:
        """End of the slot, at which the next is due."""
        return from_microseconds(self.cadence * (self.number + 1))


def due(views: Mapping[str, FeatureViewSpec], now: datetime) -> tuple[RefreshSlot, ...]:
    """The present slot of each cadence that a view declares; views are by ``view@definition_version``."""
    groups: dict[int, list[str]] = {}
    for key, view in sorted(views.items()):
        if view.refresh is not None:
            groups.setdefault(view.refresh, []).append(key)
    moment = microseconds(now)
    return tuple(RefreshSlot(cadence, moment // cadence, tuple(keys)) for cadence, keys in groups.items())


class RefreshSchedule:
    """Orders refreshes when they are due. A slot that cannot be ordered is tried again, and keeps no other waiting.

    Args:
        views: the views to keep fresh, by ``view@definition_version``.
        order: orders what of a slot was not ordered yet; called in a thread, again and again after a restart.
        look_every: seconds until what failed is tried again.
        poll: seconds between looks at the views at most; a slot is ordered when it begins.
        wakeup: rings when the views change.
    """

    def __init__(
        self,
        views: Callable[[], Mapping[str, FeatureViewSpec]],
        order: Callable[[RefreshSlot], None],
        clock: Clock,
        *,
        look_every: float = 1.0,
        poll: float = 10.0,
        wakeup: Wakeup | None = None,
    ) -> None:
        self._views = views
        self._order = order
        self._clock = clock
        self._look_every = look_every
        self._poll = poll
        self._wakeup = wakeup or Wakeup()
        self._ordered: set[RefreshSlot] = set()
        self._failed: dict[str, str] = {}

    async def run_until(self, stop: asyncio.Event) -> None:
        """Look for due views until ``stop``."""
        with self._wakeup as wakeup:
            while not stop.is_set():
                pause = await asyncio.to_thread(self._look)
                await wakeup.wait_until(stop, pause, found=False)

    def _look(self) -> float:
        """Orders what is due; returns the seconds until there may be more."""
        try:
            slots = due(self._views(), self._clock.now())
        except Exception as error:
            self._say("The refresh schedule cannot be read; it is tried again.", "", error)
            return self._look_every
        self._failed.pop("", None)
        for slot in slots:
            if slot in self._ordered:
                continue
            try:
                self._order(slot)
            except Exception as error:  # Whatever is wrong with one, the others are due as well.
                self._say(f"The refresh {slot.key} cannot be ordered; it is tried again.", slot.key, error)
            else:
                self._ordered.add(slot)
                self._failed.pop(slot.key, None)
        self._ordered &= set(slots)
        self._failed = {key: said for key, said in self._failed.items() if key in ("", *(slot.key for slot in slots))}
        if self._failed:
            return self._look_every
        now = self._clock.now()
        return min([self._poll, *(max((slot.ends - now).total_seconds(), 0.0) for slot in slots)])

    def _say(self, what: str, key: str, error: Exception) -> None:
        """Log an error, once until it is another one: it may come back every second."""
        if self._failed.get(key) != str(error):
            self._failed[key] = str(error)
            _log.error("%s", what, exc_info=error)
