"""The refresh schedule: each view's declared cadence becomes durable runs, one a slot, never two."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime

from antiphon.core.clock import Clock, microseconds
from antiphon.core.errors import AntiphonError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.orchestration.ports import Refresh
from antiphon.orchestration.streams import wait

_log = logging.getLogger("antiphon.worker")


def due(views: Mapping[str, FeatureViewSpec], now: datetime) -> dict[str, tuple[str, ...]]:
    """Run key to the views to refresh in it: views of one cadence share a run, and so a publication.

    The key names the slot (a multiple of the cadence since 1970), so every worker computes the same.
    """
    groups: dict[str, list[str]] = {}
    for _, view in sorted(views.items()):
        if view.refresh is None:
            continue
        slot = microseconds(now) // view.refresh
        groups.setdefault(f"refresh:{view.refresh}:{slot}", []).append(view.name)
    return {key: tuple(dict.fromkeys(names)) for key, names in groups.items()}


class RefreshSchedule:
    """Starts refreshes when they are due.

    Args:
        views: the views to keep fresh, by key.
        refresh: starts a durable refresh; a key that was used before starts nothing.
    """

    def __init__(
        self,
        scope: Scope,
        views: Callable[[], Mapping[str, FeatureViewSpec]],
        refresh: Refresh,
        clock: Clock,
        *,
        look_every: float = 1.0,
    ) -> None:
        self._scope = scope
        self._views = views
        self._refresh = refresh
        self._clock = clock
        self._look_every = look_every
        self._started: set[str] = set()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Look for due views until ``stop``."""
        while not stop.is_set():
            try:
                await asyncio.to_thread(self._look)
            except AntiphonError:
                _log.exception("The refresh schedule cannot be read; trying again.")
            await wait(stop, self._look_every)

    def _look(self) -> None:
        wanted = due(self._views(), self._clock.now())
        for key, names in wanted.items():
            if key not in self._started:
                self._refresh(self._scope, views=names, reason="schedule", key=key)
        self._started = set(wanted)
