"""``python -m antiphon.app.gateway``: the gateway process of one project."""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    gc.disable()  # Until it serves: hardly anything that is imported is garbage, and to look takes a sixth of a start.

import msgspec

from antiphon.app.wiring import ProcessServices
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core import disk, logs, settings
from antiphon.core.clock import SystemClock
from antiphon.core.errors import AntiphonError
from antiphon.core.process_metrics import LOOPBACK, announced, describe_process
from antiphon.core.settings_sections import GatewaySettings
from antiphon.core.supervision import Supervision, inherited_listeners
from antiphon.durable.abandoned_runs import AbandonedRuns
from antiphon.gateway import health
from antiphon.gateway.application import create_app
from antiphon.gateway.http.transport_security import TransportSecurity, require_protection, tls_files
from antiphon.operations.listening import listen
from antiphon.operations.preflight import name_lock
from antiphon.operations.processes import ProcessIdentity
from antiphon.operations.settings_changes import note_settings
from antiphon.orchestration.duties import Duties, LeaseHolder
from antiphon.orchestration.worker import HousekeepingTask
from antiphon.services.gateway_shares import PREFIX, GatewayShares
from antiphon.services.incidents.stand_in import stand_in_watch
from antiphon.services.incidents.watch import ASSESS_SECONDS
from antiphon.services.moving.following import MoveWatch, engines_back, open_following

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

LONGEST_LOOK_SECONDS = 10.0
"""For which the metrics that are only looked at now and then are waited for before they are sent."""
PRESENCE_SECONDS = 60.0
"""The lease by which others know that a gateway works with the catalog; a killed one is forgotten after it."""
KEEP_ALIVE_SECONDS = 75
"""A connection that is not used is closed after it: later than clients and proxies do, who would else send a request
on one that is just being closed."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m antiphon.app.gateway", description="Serve HTTP.")
    parser.add_argument("--project", type=Path, default=Path("."))
    parser.add_argument("--name", default="gateway", help="unique among this project's processes on this machine")
    parser.add_argument("--port", type=int, help="instead of the one in antiphon.toml")
    options = parser.parse_args(arguments)
    supervision = Supervision.inherited()
    disk.make_private()
    logs.configure()
    try:
        import uvloop

        _, paths = settings.load(options.project)
        with name_lock(paths.run, options.name):
            watch = uvloop.run(_serve(options, supervision))
    except AntiphonError as error:
        logging.getLogger("antiphon.gateway").error("%s", error)
        return error.exit_code
    watch.finish(supervision)
    return 0


async def _serve(options: argparse.Namespace, supervision: Supervision) -> MoveWatch:
    store = await asyncio.to_thread(open_following, options.project, "gateway")
    logs.bound(store.paths.logs / f"{options.name}.log", store.settings.telemetry.bounds)
    telemetry = store.telemetry("gateway", options.name)
    require_protection(store.settings)
    files = tls_files(store.settings.tls, store.paths.root)
    transport = None if files is None else TransportSecurity(files, SystemClock())
    store.renewer.start()
    listening = store.settings.gateway
    if options.port is not None:
        listening = msgspec.structs.replace(listening, port=options.port)
    listeners = inherited_listeners() or listen(listening.host, listening.port)
    note_settings(store.paths.run, options.name, store.settings, store.database.clock.now())
    wired = ProcessServices(store, "gateway")
    app = create_app(wired.gateway_services(confined=True), options.name)
    loop = asyncio.get_running_loop()
    describe_process(app.state.measurements.registry)
    telemetry.export(
        app.state.measurements.registry,
        lambda: asyncio.run_coroutine_threadsafe(health.look(app), loop).result(LONGEST_LOOK_SECONDS),
    )
    server = server_of(app, listening, transport, on_exit=app.state.pages.live.close)
    watching = None if transport is None else asyncio.create_task(_watch(transport, server))
    # What there is by now stays as long as the process: the collector need not look through it beside requests.
    gc.collect()
    gc.freeze()
    gc.enable()
    beating = asyncio.create_task(supervision.beat())
    stopped = asyncio.Event()

    def leave() -> None:
        supervision.keep(listeners)
        app.state.connections.among(1)  # All gateways leave, so that new connections wait for this one.
        server.should_exit = True

    watch = MoveWatch(store, "gateway", leave)
    if store.waited:
        await engines_back(wired.engine, wired.standbys.values())
    beside = [asyncio.create_task(_presence(wired, app).run_until(stopped))]
    beside.append(asyncio.create_task(watch.run_until(stopped)))
    stand_in = stand_in_watch(store, wired.features, wired.health).look
    looks = HousekeepingTask(stand_in, every=ASSESS_SECONDS, name="Incidents that changed while no worker looked")
    beside.append(asyncio.create_task(looks.run_until(stopped)))
    # Once it has drained, uvicorn raises the signal again, whose default would end the process before what follows.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _drained)
    # Of several gateways each has a port of its own beside the one that they share.
    reached = LOOPBACK if listening.host in ("", "0.0.0.0", "::") else listening.host
    at = f"{reached}:{listeners[-1].getsockname()[1]}"
    announcing = announced(store.paths.run, options.name, at, "http" if transport is None else "https")
    try:
        with announcing if store.settings.metrics != "off" else nullcontext():
            await server.serve(listeners)
    finally:
        beating.cancel()
        stopped.set()
        await asyncio.gather(*beside, return_exceptions=True)
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await asyncio.to_thread(telemetry.close)
        await wired.close()
    return watch


def _presence(wired: ProcessServices, app: Starlette) -> Duties:
    """A lease by which others know that this process works with the catalog, and gateways share their limits.

    On a host with one worker it is the gateway that sees the worker's end.
    """
    process, store = ProcessIdentity.own(), wired.store
    leases = ProcessLeases(store.database, store.scope.environment)
    shares = GatewayShares(leases, (wired.admission.divide, wired.gated.gate.divide, app.state.connections.among))
    parts = shares, AbandonedRuns(store.database, store.scope.environment, process.sees_end_of)
    holder = LeaseHolder(leases, str(process), process.has_ended, seconds=PRESENCE_SECONDS)
    return Duties(f"{PREFIX}{process}", parts, holder)


def server_of(
    app: Starlette,
    listening: GatewaySettings,
    transport: TransportSecurity | None = None,
    *,
    on_exit: Callable[[], object] | None = None,
) -> uvicorn.Server:
    """The HTTP server of an application, not started yet; over TLS with a ``transport``.

    It takes as many connections as there are descriptors for. ``on_exit`` ends responses without an end.
    """
    import uvicorn

    from antiphon.gateway.http.connections import Connections, affordable_connections, raise_descriptor_limit
    from antiphon.gateway.http.idle_server import IdleServer
    from antiphon.gateway.http.tls_protocol import TlsAwareConnection

    app.state.transport = transport
    connections = Connections(affordable_connections(listening.max_connections, raise_descriptor_limit()))
    app.state.connections = connections
    protocol: Any = functools.partial(
        TlsAwareConnection, connections=connections, tls=None if transport is None else transport.context
    )
    server = IdleServer(
        uvicorn.Config(
            app,
            host=listening.host,
            port=listening.port,
            http=protocol,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=15,
        )
    )
    server.on_exit = on_exit
    return server


def _drained(number: int, frame: FrameType | None) -> None:
    """Ignores the signal that uvicorn raises again after it has drained."""


async def _watch(transport: TransportSecurity, server: uvicorn.Server) -> None:
    """Take over new certificates; connections that another authority vouched for end with their present answer."""
    loop = asyncio.get_running_loop()

    def end_connections() -> None:
        connections: tuple[Any, ...] = tuple(server.server_state.connections)
        for connection in connections:
            connection.end()

    transport.on_client_ca = lambda: loop.call_soon_threadsafe(end_connections)
    await transport.watch()


if __name__ == "__main__":
    sys.exit(main())
