"""Engines that have joined the catalog: each is a lease with a description, which the engine's process renews.

Invariant: an instance is listed from its first lease until it gives the lease back or has not renewed it in time, by
the catalog's clock. It is drained while another lease, of its name and ``/drain``, holds.
"""

from __future__ import annotations

import logging

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.engine.api.messages import EngineInstance

_log = logging.getLogger("antiphon.catalog")

PREFIX = "engine/"
"""Of the names of the leases."""

_DRAIN = "/drain"


def front_lease(tenant: str, engine: str) -> str:
    """The name of the lease of the process that speaks with the server that a tenant's settings name for an engine."""
    return f"front/{tenant}/{engine}/"


def drain_lease(engine: str) -> str:
    """The name of the lease under which an engine is drained; its holder is the principal, its detail the reason."""
    return f"{PREFIX}{engine}{_DRAIN}"


def engine_leases(tenant: str) -> str:
    """The beginning of the names of a tenant's engines and of their drains."""
    return f"{PREFIX}{tenant}/"


_decoder = msgspec.json.Decoder(EngineInstance)


class EngineInstances:
    """Lists the engines of one environment that have joined, under leases whose names begin so."""

    def __init__(self, leases: ProcessLeases, prefix: str = PREFIX) -> None:
        self._leases = leases
        self._prefix = prefix

    def living(self, *, within: Connection | None = None) -> tuple[EngineInstance, ...]:
        """The engines whose lease holds, by name, with the word which of them are drained."""
        found, leases = [], self._leases.living(self._prefix, within=within)
        drained = {lease.name.removesuffix(_DRAIN) for lease in leases if lease.name.endswith(_DRAIN)}
        for lease in leases:
            if lease.name.endswith(_DRAIN):
                continue
            try:
                one = _decoder.decode(lease.detail or "")
                found.append(msgspec.structs.replace(one, drained=lease.name in drained))
            except msgspec.MsgspecError as error:
                _log.warning("What %s says of itself cannot be read, and it is left out: %s", lease.name, error)
        return tuple(found)
