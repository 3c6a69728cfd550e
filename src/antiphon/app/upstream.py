"""``python -m antiphon.app.upstream``: the engine process in front of one server at a URL.

It alone has the server's key. What it sees of the server's models is kept in the catalog, and where fronts listen on
the network one process of all hosts speaks with the server at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from contextlib import closing, nullcontext
from pathlib import Path

if __name__ == "__main__":
    gc.disable()  # Until everything is imported, as in the gateway.

from prometheus_client import CollectorRegistry

from antiphon.core import disk, logs
from antiphon.core.errors import AntiphonError
from antiphon.core.process_metrics import describe_process, served_metrics
from antiphon.core.supervision import Supervision
from antiphon.definitions.degradation import MAIN, engine_process
from antiphon.engine.api.server import serve
from antiphon.engine.backends.remote.front import UpstreamFront
from antiphon.gateway.http.engine_network import EngineNetwork
from antiphon.services.engines.joining import fronting
from antiphon.services.engines.remote_models import RemoteModelRecord, look_seconds
from antiphon.services.engines.servers import server_of
from antiphon.services.moving.following import MoveWatch, open_following
from antiphon.services.project.store import Store


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m antiphon.app.upstream", description="Front a server at a URL.")
    parser.add_argument("--project", type=Path, default=Path("."))
    parser.add_argument("--engine", default=MAIN, help="a name under [engines], or main")
    parser.add_argument("--listen", default="", metavar="HOST:PORT", help="serve other hosts there over mutual TLS")
    parser.add_argument("--advertise", default="", metavar="HOST:PORT", help="where they reach what listens")
    options = parser.parse_args(arguments)
    gc.enable()
    supervision = Supervision.inherited()
    disk.make_private()
    logs.configure()
    try:
        import uvloop

        with closing(open_following(options.project, "engine")) as store:
            watch = MoveWatch(store, "engine")
            uvloop.run(_serve(store, watch, options, supervision))
    except AntiphonError as error:
        logging.getLogger("antiphon.engine").error("%s", error)
        return error.exit_code
    watch.finish(supervision)
    return 0


async def _serve(store: Store, watch: MoveWatch, options: argparse.Namespace, supervision: Supervision) -> None:
    engine, paths, bounds = options.engine, store.paths, store.settings.telemetry.bounds
    name = engine_process(engine)
    logs.bound(paths.logs / f"{name}.log", bounds)
    telemetry = store.telemetry("engine", name)
    metrics = describe_process(CollectorRegistry())
    telemetry.export(metrics)
    log, stop, leaving = logging.getLogger("antiphon.engine"), asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    path, staying = paths.engine_socket_of(name), list[asyncio.Task[None]]()
    network = EngineNetwork.of(options.listen, store.settings.fronts, "fronts", paths.root) if options.listen else None
    front = UpstreamFront(
        server_of(store.settings, paths, engine),
        record=RemoteModelRecord(store, engine).record,
        look_seconds=look_seconds(store),
        strict=store.settings.engine.on_change == "refuse",
        active=lambda: duty is None or duty.held,
    )
    # Where fronts listen on the network, one process of all hosts speaks with the server.
    duty = None if network is None else fronting(store, engine, front, network.listener, options.advertise)

    async def stay() -> None:
        """Speak with the server while this process is the one that does; one that is listed no more drains."""
        log.info("The engine %s is served on %s.", engine, path)
        try:
            await (front if duty is None else duty).run_until(stop)
        finally:
            leaving.set()

    def ready() -> None:
        staying.append(asyncio.create_task(stay()))

    around = [asyncio.create_task(supervision.beat()), asyncio.create_task(watch.run_until(stop))]
    around += [] if network is None else [asyncio.create_task(network.transport.watch())]
    listener = None if network is None else network.listener
    served = served_metrics(metrics, paths.run, name) if store.settings.process_metrics else nullcontext()
    try:
        with served:
            await serve(front, path, leaving, network=listener, ready=ready)
            await asyncio.gather(*staying)
    finally:
        for task in around:
            task.cancel()
    log.info("The engine has drained and stops.")


if __name__ == "__main__":
    sys.exit(main())
