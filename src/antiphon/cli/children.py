"""Which processes ``antiphon up`` keeps running for a project, and in which order they start and stop."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from antiphon.operations.children import ChildSpec, FileExists, HttpAnswers, SocketAnswers

if TYPE_CHECKING:
    from antiphon.app.store import Store

DRAIN_ORDER = ("gateway", "worker", "engine")
"""Who takes questions stops first; who answers them stops last."""

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def of_project(store: Store) -> tuple[ChildSpec, ...]:
    """Engine (unless it is remote), gateway and worker of one machine."""
    from antiphon.app import engines

    gateway, paths = store.settings.gateway, store.paths
    project = ("--project", str(paths.root))
    engine = ChildSpec(
        name="engine",
        command=engines.command(store),
        ready=SocketAnswers(paths.engine_socket),
        drain_seconds=35.0,
        sockets=(paths.engine_socket,),
    )
    local = store.settings.engine.kind != "remote"
    after = ("engine",) if local else ()
    host = ANY_ADDRESS.get(gateway.host, gateway.host)
    return (
        *((engine,) if local else ()),
        ChildSpec(
            name="gateway",
            command=(sys.executable, "-m", "antiphon.app.gateway", *project),
            ready=HttpAnswers(host, gateway.port),
            after=after,
            ready_seconds=60.0,
        ),
        ChildSpec(
            name="worker",
            command=(sys.executable, "-m", "antiphon.app.worker", *project),
            ready=FileExists(paths.worker_ready),
            nice=15,
            after=after,
            ready_seconds=60.0,
        ),
    )
