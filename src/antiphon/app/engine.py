"""``python -m antiphon.app.engine``: an engine process that listens on the network or joins the project's catalog."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import socket
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    gc.disable()  # Until everything is imported, as in the gateway.

from antiphon.catalog.engine_instances import engine_leases
from antiphon.core import disk, logs
from antiphon.core.errors import AntiphonError
from antiphon.core.supervision import Supervision
from antiphon.engine import __main__ as engine_process
from antiphon.engine.api.messages import EngineLoad
from antiphon.engine.execution.local import LocalEngine
from antiphon.gateway.http.engine_network import EngineNetwork
from antiphon.services.engines import commands
from antiphon.services.engines.joining import joining
from antiphon.services.learning.weights_files import weights_files
from antiphon.services.moving.following import MoveWatch, open_following
from antiphon.services.project.feature_stores import FeatureStores
from antiphon.services.project.store import Store


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m antiphon.app.engine", description="Serve models to other hosts.")
    parser.add_argument("--project", type=Path, default=Path("."))
    parser.add_argument("--name", default="engine", help="unique among a tenant's engines on this machine")
    parser.add_argument("--listen", default="", metavar="HOST:PORT", help="serve there over mutual TLS")
    parser.add_argument("--advertise", default="", metavar="HOST:PORT", help="where others reach what listens")
    parser.add_argument("--socket", type=Path, help="make this one, instead of that which clients know")
    parser.add_argument("--join", action="store_true", help="have gateways and workers route to this engine")
    options = parser.parse_args(arguments)
    gc.enable()
    supervision = Supervision.inherited()
    disk.make_private()
    logs.configure()
    try:
        store = open_following(options.project, "engine")
        watch = MoveWatch(store, "engine")
        try:
            code = _run(store, watch, options, supervision)
        finally:
            store.close()
    except AntiphonError as error:
        logging.getLogger("antiphon.engine").error("%s", error)
        return error.exit_code
    watch.finish(supervision)
    return code


def _run(store: Store, watch: MoveWatch, options: argparse.Namespace, supervision: Supervision) -> int:
    network = (
        EngineNetwork.of(options.listen, store.settings.engine, "engine", store.paths.root) if options.listen else None
    )
    presence = partial(_stay, store, watch, options, network)
    with closing(FeatureStores(store)) as stores:
        fetched = weights_files(store, stores.lake)
        return engine_process.run(
            commands.arguments(store, options.name, options.socket),
            supervision,
            network=None if network is None else network.listener,
            presence=presence,
            locate=engine_process.as_declared if fetched is None else fetched.locate,
        )


async def _stay(
    store: Store,
    watch: MoveWatch,
    options: argparse.Namespace,
    network: EngineNetwork | None,
    engine: LocalEngine,
    stop: asyncio.Event,
) -> None:
    """Take over new certificates, and be listed in the catalog, until ``stop``: who is listed no more drains."""
    beside = [asyncio.create_task(watch.run_until(stop))]
    beside += [] if network is None else [asyncio.create_task(network.transport.watch())]

    def served() -> tuple[dict[str, str], dict[str, str], EngineLoad]:
        models = {model.name: model.fingerprint for model in engine.models()}
        return models, {model.name: model.fingerprint for model in engine.embedders()}, engine.load()

    try:
        if options.join:
            lease = f"{engine_leases(store.scope.tenant)}{options.name}@{socket.gethostname()}"
            path = store.paths.engine_socket_of(options.name)
            listener = None if network is None else network.listener
            listed = joining(store, lease, options.name, path, served, listener=listener, advertise=options.advertise)
            await listed.run_until(stop)
        await stop.wait()
    finally:
        for task in beside:
            task.cancel()


if __name__ == "__main__":
    sys.exit(main())
