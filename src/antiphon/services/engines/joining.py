"""Engines join the catalog: the process of one holds a lease with a description of itself, by which others reach it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from antiphon.catalog.engine_instances import front_lease
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.definitions.degradation import engine_process
from antiphon.engine.api.address import joined, parse_host_port
from antiphon.engine.api.listener import NetworkListener
from antiphon.engine.api.messages import EngineInstance, EngineLoad
from antiphon.engine.backends.remote.front import UpstreamFront
from antiphon.operations.processes import ProcessIdentity
from antiphon.orchestration.duties import Duties, LeaseHolder
from antiphon.orchestration.worker import WorkerPart
from antiphon.services.project.store import Store

LEASE_SECONDS = 5.0
"""An instance that was killed is routed to no more after so long; its row is renewed three times in it."""

_EVERY_INTERFACE = ("", "0.0.0.0", "::")

Served = Callable[[], tuple[Mapping[str, str], Mapping[str, str], EngineLoad]]
"""Fingerprints of models and of embedding models by their names, and the load."""


def joining(
    store: Store,
    lease: str,
    name: str,
    path: Path,
    served: Served,
    *,
    listener: NetworkListener | None,
    advertise: str,
    parts: Sequence[WorkerPart] = (),
) -> Duties:
    """Has a process listed while it runs this; where several take one lease, the others stand by.

    Args:
        name: of the engine, unique among the tenant's on this machine; path: its socket.
        parts: run while the lease is held.
    """
    process, host = ProcessIdentity.own(), socket.gethostname()

    def detail() -> str:
        models, embedders, load = served()
        instance = EngineInstance(
            name=f"{store.scope.tenant}/{name}@{host}",
            process=str(process),
            host=host,
            socket=str(path),
            address=_advertised(advertise, listener, host),
            models=dict(models),
            embedders=dict(embedders),
            load=load,
        )
        return msgspec.json.encode(instance).decode()

    leases = ProcessLeases(store.database, store.scope.environment)
    holder = LeaseHolder(leases, str(process), process.has_ended, seconds=LEASE_SECONDS)
    return Duties(lease, parts, holder, detail=detail)


def fronting(store: Store, engine: str, front: UpstreamFront, listener: NetworkListener, advertise: str) -> Duties:
    """The duty of speaking with an engine's server, which one process of a tenant has at a time, of all hosts."""
    path = store.paths.engine_socket_of(engine_process(engine))
    return joining(
        store,
        front_lease(store.scope.tenant, engine),
        engine,
        path,
        lambda: (front.models, {}, front.load()),
        listener=listener,
        advertise=advertise,
        parts=(front,),
    )


def _advertised(advertise: str, listener: NetworkListener | None, host: str) -> str:
    """The address by which other hosts reach the listener; empty without one."""
    if listener is None:
        return ""
    if advertise:
        return joined(*parse_host_port(advertise, "--advertise"))
    return joined(host if listener.host in _EVERY_INTERFACE else listener.host, listener.port)
