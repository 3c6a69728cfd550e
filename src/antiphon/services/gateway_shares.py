"""Shares of limits that several gateways have together: each gateway takes an equal one.

Gateways are known by the leases that they hold anyway, so that no request asks the catalog. One that comes is counted
within :data:`LOOK_SECONDS`, one that was killed until its lease ends: meanwhile the others take less than they might.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.errors import UnavailableError
from antiphon.core.pauses import wait

_log = logging.getLogger("antiphon.gateway")

PREFIX = "gateway/"
"""Of the names of gateways' leases."""

LOOK_SECONDS = 5.0


class GatewayShares:
    """Divides limits by the number of gateways of the environment, again and again.

    Args:
        divide: told the number of gateways, this one included, when it has changed.
    """

    def __init__(
        self, leases: ProcessLeases, divide: Sequence[Callable[[int], None]], *, every: float = LOOK_SECONDS
    ) -> None:
        self._leases = leases
        self._divide = divide
        self._every = every
        self._gateways = 1

    async def run_until(self, stop: asyncio.Event) -> None:
        """Follow the number of gateways until ``stop``; while the catalog is away the last one holds."""
        while not stop.is_set():
            try:
                gateways = max(len(await asyncio.to_thread(self._leases.living, PREFIX)), 1)
            except UnavailableError:
                gateways = self._gateways
            if gateways != self._gateways:
                _log.info("There are %d gateways: this one has one part in so many of their limits.", gateways)
                self._gateways = gateways
                for divide in self._divide:
                    divide(gateways)
            await wait(stop, self._every)
