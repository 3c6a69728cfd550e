"""``python -m antiphon.app.upstream``: the engine process in front of one server at a URL.

It needs no catalog, and it alone has the server's key.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.app.engine_settings import engine_tls, require_names, section_of
from antiphon.core import disk, logs, settings, telemetry
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.paths import ProjectPaths
from antiphon.core.settings import Settings
from antiphon.core.settings_sections import EngineSettings, StandbyEngineSettings
from antiphon.core.supervision import Supervision
from antiphon.definitions.degradation import MAIN, engine_process
from antiphon.engine.api.server import serve
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.backends.remote.front import UpstreamFront

if TYPE_CHECKING:
    from antiphon.services.project.store import Store


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


def command(store: Store, engine: str) -> tuple[str, ...]:
    """The command line of the process in front of a server.

    Raises:
        InvalidInputError: the server's settings cannot be used; nothing has been connected to.
    """
    require_names(store.settings)
    server_of(store.settings, store.paths, engine)
    return (sys.executable, "-m", "antiphon.app.upstream", "--project", str(store.paths.root), "--engine", engine)


def server_of(loaded: Settings, paths: ProjectPaths, name: str) -> RemoteEngine:
    """The server behind an engine of this name.

    Raises:
        InvalidInputError: there is none, its URL or certificates cannot be used, or its key variable is not set.
    """
    where = f"antiphon.toml, [{section_of(name)}]"
    engine: EngineSettings | StandbyEngineSettings | None = loaded.engine if name == MAIN else loaded.engines.get(name)
    if engine is None:
        raise InvalidInputError(f"No engine is named {name!r}.", where=where, next_step="Add it with a url.")
    if engine.url is None or (isinstance(engine, EngineSettings) and engine.kind != "remote"):
        raise InvalidInputError("A remote engine needs a url.", where=where, next_step='Add url = "http://…/v1".')
    key = None
    if engine.api_key_variable is not None:
        key = os.environ.get(engine.api_key_variable)
        if key is None:
            raise InvalidInputError(
                f"The environment variable {engine.api_key_variable} is not set.",
                where=f"{where} api_key_variable",
                next_step=f"export {engine.api_key_variable}=…",
            )
    return RemoteEngine(
        engine.url,
        key=key,
        models=engine.models if isinstance(engine, StandbyEngineSettings) else {},
        serves=engine.serves,
        parameters=engine.parameters,
        tls=engine_tls(paths, engine),
    )


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
