"""``antiphon up``: the processes of one project on one machine, under supervision."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from antiphon.app import engines
from antiphon.app.store import Store
from antiphon.governance.identity import KeyRecord
from antiphon.operations.children import ChildSpec, FileExists, HttpAnswers, SocketAnswers
from antiphon.operations.supervisor import Happened, Supervisor

DRAIN_ORDER = ("gateway", "worker", "engine")
"""Nobody new is let in, then batch stops, then what generates."""


def children(store: Store) -> tuple[ChildSpec, ...]:
    """Engine (unless it is remote), gateway and worker of this project."""
    settings, paths = store.settings, store.paths
    project = ("--project", str(paths.root))
    specs: list[ChildSpec] = []
    if settings.engine.kind != "remote":
        specs.append(
            ChildSpec(
                name="engine",
                command=engines.command(store),
                ready=SocketAnswers(paths.engine_socket),
                # A small spin count: waiting threads must not hold the cores of a shared machine.
                environment={"GOMP_SPINCOUNT": "1000"},
                sockets=(paths.engine_socket,),
            )
        )
    after = tuple(spec.name for spec in specs)
    specs.append(
        ChildSpec(
            name="gateway",
            command=(sys.executable, "-m", "antiphon.app.gateway", *project),
            ready=HttpAnswers(settings.gateway.host, settings.gateway.port),
            after=after,
        )
    )
    specs.append(
        ChildSpec(
            name="worker",
            command=(sys.executable, "-m", "antiphon.app.worker", *project),
            ready=FileExists(paths.worker_ready),
            nice=15,
            after=after,
        )
    )
    return tuple(specs)


def first_key(store: Store) -> tuple[str, KeyRecord] | None:
    """The administrator's key, made at the first start and kept in ``keys/admin.key``; ``None`` when it exists."""
    file = store.paths.keys / "admin.key"
    if file.exists():
        return None
    with store.database.transaction() as connection:
        text, record = store.keys.create(store.scope.tenant, "admin", "admin", kind="person", within=connection)
        store.audit.append(
            store.scope,
            "antiphon",
            "key.create",
            record.id,
            {"name": record.name, "role": record.role},
            within=connection,
        )
    partial = file.with_suffix(".partial")
    partial.touch(mode=0o600)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(file)
    return text, record


async def up(store: Store, stop: asyncio.Event, hurry: asyncio.Event, tell: Callable[[Happened], None]) -> None:
    """Run the project's processes until ``stop``; ``hurry`` ends them without draining.

    Raises:
        SetupError: another ``up`` runs here, the port is taken, or a process never became ready.
    """
    gateway = store.settings.gateway
    supervisor = Supervisor(
        children(store),
        run=store.paths.run,
        logs=store.paths.logs,
        drain_order=DRAIN_ORDER,
        listens=((gateway.host, gateway.port),),
        tell=tell,
    )
    await supervisor.supervise(stop, hurry)
