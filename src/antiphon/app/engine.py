"""``python -m antiphon.app.engine``: an engine process that listens on the network or joins the project's catalog."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from antiphon.catalog.engine_instances import PREFIX
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core import disk, logs
from antiphon.core.clock import SystemClock
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.settings_sections import EngineSettings
from antiphon.core.supervision import Supervision
from antiphon.engine import __main__ as engine_process
from antiphon.engine.api.address import joined, parse_host_port
from antiphon.engine.api.listener import NetworkListener
from antiphon.engine.api.messages import EngineInstance
from antiphon.engine.execution.local import LocalEngine
from antiphon.gateway.http.transport_security import TlsFiles, TransportSecurity
from antiphon.operations.processes import ProcessIdentity
from antiphon.orchestration.duties import Duties
from antiphon.services.engines import commands
from antiphon.services.learning.weights_files import weights_files
from antiphon.services.project.feature_stores import FeatureStores
from antiphon.services.project.store import Store

LEASE_SECONDS = 5.0
"""An instance that was killed is routed to no more after so long; its row is renewed three times in it."""

_EVERY_INTERFACE = ("", "0.0.0.0", "::")


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m antiphon.app.engine", description="Serve models to other hosts.")
    parser.add_argument("--project", type=Path, default=Path("."))
    parser.add_argument("--name", default="engine", help="unique among the engines of this machine")
    parser.add_argument("--listen", default="", metavar="HOST:PORT", help="serve there over mutual TLS")
    parser.add_argument("--advertise", default="", metavar="HOST:PORT", help="where others reach what listens")
    parser.add_argument("--join", action="store_true", help="have gateways and workers route to this engine")
    options = parser.parse_args(arguments)
    supervision = Supervision.inherited()
    disk.make_private()
    logs.configure()
    try:
        store = Store.open(options.project)
        try:
            return _run(store, options, supervision)
        finally:
            store.close()
    except AntiphonError as error:
        logging.getLogger("antiphon.engine").error("%s", error)
        return error.exit_code


def _run(store: Store, options: argparse.Namespace, supervision: Supervision) -> int:
    listener, transport = None, None
    if options.listen:
        host, port = parse_host_port(options.listen, "--listen")
        transport = TransportSecurity(
            engine_files(store.settings.engine, store.paths.root), SystemClock(), role="engine"
        )
        listener = NetworkListener(host, port, transport.context)
        transport.on_client_ca = listener.end_connections
    presence = partial(_stay, store, options, listener, transport)
    with closing(FeatureStores(store)) as stores:
        fetched = weights_files(store, stores.lake)
        return engine_process.run(
            commands.arguments(store, options.name),
            supervision,
            network=listener,
            presence=presence,
            locate=engine_process.as_declared if fetched is None else fetched.locate,
        )


def engine_files(engine: EngineSettings, root: Path) -> TlsFiles:
    """The certificate files of an engine that listens on the network, which demands certificates of clients.

    Raises:
        InvalidInputError: the settings do not name them all.
    """
    missing = [name for name in ("certificate", "key", "authority") if getattr(engine, name) is None]
    if engine.certificate is None or engine.key is None or engine.authority is None:
        raise InvalidInputError(
            f"An engine that listens on the network needs `{'`, `'.join(missing)}`.",
            where="antiphon.toml, [engine]",
            next_step="`antiphon tls init --engines` makes certificates and says what to write.",
        )
    return TlsFiles(root / engine.certificate, root / engine.key, root / engine.authority, require_client=True)


async def _stay(
    store: Store,
    options: argparse.Namespace,
    listener: NetworkListener | None,
    transport: TransportSecurity | None,
    engine: LocalEngine,
    stop: asyncio.Event,
) -> None:
    """Take over new certificates, and be listed in the catalog, until ``stop``: who is listed no more drains."""
    watching = None if transport is None else asyncio.create_task(transport.watch())
    try:
        if options.join:
            await _listing(store, options, listener, engine).run_until(stop)
        await stop.wait()
    finally:
        if watching is not None:
            watching.cancel()


def _listing(
    store: Store, options: argparse.Namespace, listener: NetworkListener | None, engine: LocalEngine
) -> Duties:
    process, host = ProcessIdentity.own(), socket.gethostname()
    name = f"{options.name}@{host}"
    address = _advertised(options.advertise, listener, host)

    def detail() -> str:
        instance = EngineInstance(
            name=name,
            process=str(process),
            host=host,
            socket=str(store.paths.engine_socket_of(options.name)),
            address=address,
            models={model.name: model.fingerprint for model in engine.models()},
            embedders={model.name: model.fingerprint for model in engine.embedders()},
            load=engine.load(),
        )
        return msgspec.json.encode(instance).decode()

    leases = ProcessLeases(store.database, store.scope.environment)
    return Duties(PREFIX + name, (), leases, str(process), process.has_ended, seconds=LEASE_SECONDS, detail=detail)


def _advertised(advertise: str, listener: NetworkListener | None, host: str) -> str:
    """The address by which other hosts reach the listener; empty without one."""
    if listener is None:
        return ""
    if advertise:
        return joined(*parse_host_port(advertise, "--advertise"))
    return joined(host if listener.host in _EVERY_INTERFACE else listener.host, listener.port)


if __name__ == "__main__":
    sys.exit(main())
