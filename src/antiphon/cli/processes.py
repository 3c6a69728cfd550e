"""``antiphon gateway``, ``worker`` and ``engine``: one process each, for those who supervise them by other means."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show

Name = Annotated[str, typer.Option(help="Unique among this project's processes on this machine.")]


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
    standby: Annotated[str, typer.Option(help="The one under [engines.NAME] instead of [engine].")] = "main",
    as_json: Json = False,
) -> None:
    """Serve models on an engine's socket in this process, until it is stopped: this project's own, or a server's."""
    from antiphon.app import engines
    from antiphon.definitions.degradation import engine_process
    from antiphon.services.project.store import Store

    store = Store.open(project)
    try:
        command = engines.command(store, standby)
        store.paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    finally:
        store.close()
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # Threads that wait must not hold the cores of a shared machine.
    _become(engine_process(standby), command, as_json)


def _become(name: str, command: tuple[str, ...], as_json: bool) -> None:
    show({"process": name, "pid": os.getpid()}, as_json, lambda: f"{name} starts; Ctrl-C stops it.")
    sys.stdout.flush()
    os.execv(command[0], command)
