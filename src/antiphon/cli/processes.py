"""``antiphon gateway``, ``worker`` and ``engine``: one process each, for those who supervise them by other means."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show

Name = Annotated[str, typer.Option(help="Unique among the tenant's processes of its kind on this machine.")]


def gateway(
    project: Project = HERE,
    name: Name = "gateway",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Instead of the one in antiphon.toml.")] = None,
    as_json: Json = False,
) -> None:
    """Serve HTTP in this process, until it is stopped. Many may share a project's stores."""
    chosen = () if port is None else ("--port", str(port))
    arguments = ("-m", "antiphon.app.gateway", "--project", str(project), "--name", name, *chosen)
    _become(name, (sys.executable, *arguments), as_json)


def worker(project: Project = HERE, name: Name = "worker", as_json: Json = False) -> None:
    """Run durable work in this process, until it is stopped. Many share the runs; one has the schedules."""
    arguments = ("-m", "antiphon.app.worker", "--project", str(project), "--name", name)
    _become(name, (sys.executable, *arguments), as_json)


def engine(
    project: Project = HERE,
    name: Name = "engine",
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve other hosts there too, over mutual TLS.")
    ] = None,
    advertise: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where they reach it, if that is another address.")
    ] = None,
    join: Annotated[
        bool | None,
        typer.Option("--join/--no-join", help="Have gateways and workers route to it, or not."),
    ] = None,
    standby: Annotated[
        str | None, typer.Option(metavar="NAME", help="The server under [engines.NAME], instead of [engine].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve models in this process, until it is stopped: this project's own, or a server's."""
    from antiphon.definitions.degradation import MAIN, engine_process
    from antiphon.services.engines import commands, sections
    from antiphon.services.moving.following import open_following

    store = open_following(project, "engine")
    try:
        if standby is not None or sections.upstreams(store.settings)[:1] == [MAIN]:
            name = engine_process(standby or MAIN)
            command = commands.upstream_command(store, standby or MAIN)
        else:
            command = commands.command(store, name, listen=listen, advertise=advertise, join=join)
        store.paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    finally:
        store.close()
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # Threads that wait must not hold the cores of a shared machine.
    _become(name, command, as_json)


def _become(name: str, command: tuple[str, ...], as_json: bool) -> None:
    show({"process": name, "pid": os.getpid()}, as_json, lambda: f"{name} starts; Ctrl-C stops it.")
    sys.stdout.flush()
    os.execv(command[0], command)
