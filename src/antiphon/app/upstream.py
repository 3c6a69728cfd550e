"""``python -m antiphon.app.upstream``: the engine process in front of one server at a URL.

It needs no catalog, and it alone has the server's key.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from antiphon.core import disk, logs, settings, telemetry
from antiphon.core.errors import AntiphonError
from antiphon.core.supervision import Supervision
from antiphon.definitions.degradation import MAIN, engine_process
from antiphon.engine.api.server import serve
from antiphon.engine.backends.remote.front import UpstreamFront
from antiphon.services.engines.servers import server_of


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m antiphon.app.upstream", description="Front a server at a URL.")
    parser.add_argument("--project", type=Path, default=Path("."))
    parser.add_argument("--engine", default=MAIN, help="a name under [engines], or main")
    options = parser.parse_args(arguments)
    supervision = Supervision.inherited()
    disk.make_private()
    logs.configure()
    try:
        import uvloop

        uvloop.run(_serve(options.project, options.engine, supervision))
    except AntiphonError as error:
        logging.getLogger("antiphon.engine").error("%s", error)
        return error.exit_code
    return 0


async def _serve(root: Path, engine: str, supervision: Supervision) -> None:
    loaded, paths = settings.load(root)
    name, bounds = engine_process(engine), loaded.telemetry.bounds
    logs.bound(paths.logs / f"{name}.log", bounds)
    telemetry.configure(name, paths.logs if loaded.telemetry.traces else None, bounds)
    log, stop = logging.getLogger("antiphon.engine"), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    socket = paths.engine_socket_of(name)
    front = await UpstreamFront(server_of(loaded, paths, engine)).start()
    beating = asyncio.create_task(supervision.beat())
    try:
        await serve(front, socket, stop, ready=lambda: log.info("The engine %s is served on %s.", engine, socket))
    finally:
        beating.cancel()
    log.info("The engine has drained and stops.")


if __name__ == "__main__":
    sys.exit(main())
