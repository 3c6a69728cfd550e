"""Engines that have joined the catalog: each is a lease with a description, which the engine's process renews.

Invariant: an instance is listed from its first lease until it gives the lease back or has not renewed it in time, by
the catalog's clock.
"""

from __future__ import annotations

import logging

import msgspec

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.engine.api.messages import EngineInstance

_log = logging.getLogger("antiphon.catalog")

PREFIX = "engine/"
"""Of the names of the leases."""


def front_lease(tenant: str, engine: str) -> str:
    """The name of the lease of the process that speaks with the server that a tenant's settings name for an engine."""
    return f"front/{tenant}/{engine}/"


_decoder = msgspec.json.Decoder(EngineInstance)


class EngineInstances:
    """Lists the engines of one environment that have joined, under leases whose names begin so."""

    def __init__(self, leases: ProcessLeases, prefix: str = PREFIX) -> None:
        self._leases = leases
        self._prefix = prefix

    def living(self) -> tuple[EngineInstance, ...]:
        """The engines whose lease holds, by name."""
        found = []
        for lease in self._leases.living(self._prefix):
            try:
                found.append(_decoder.decode(lease.detail or ""))
            except msgspec.MsgspecError as error:
                _log.warning("What %s says of itself cannot be read, and it is left out: %s", lease.name, error)
        return tuple(found)
