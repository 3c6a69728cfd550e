"""``python -m antiphon.app.gateway``: the gateway process of one project."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from antiphon.app.store import Store
from antiphon.app.wiring import Wired
from antiphon.core import telemetry
from antiphon.core.errors import AntiphonError
from antiphon.gateway.application import create_app


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m antiphon.app.gateway", description="Serve HTTP.")
    parser.add_argument("--project", type=Path, default=Path("."))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        import uvloop

        uvloop.run(_serve(options.project))
    except AntiphonError as error:
        logging.getLogger("antiphon.gateway").error("%s", error)
        return error.exit_code
    return 0


async def _serve(root: Path) -> None:
    import uvicorn

    store = await asyncio.to_thread(Store.open, root)
    telemetry.configure("gateway", store.paths.logs)
    wired = Wired(store, "gateway")
    settings = store.settings.gateway
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(wired.gateway_services(confined=True)),
            host=settings.host,
            port=settings.port,
            http="httptools",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=15,
        )
    )
    try:
        await server.serve()
    finally:
        await wired.close()


if __name__ == "__main__":
    sys.exit(main())
