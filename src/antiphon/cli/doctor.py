"""``antiphon doctor``: what this machine and this project lack, one line each with the next step."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show
from antiphon.core import disk, settings
from antiphon.core.clock import SystemClock
from antiphon.core.errors import AntiphonError, SetupError
from antiphon.core.settings import cache_directory

_SPACE = 1_000_000_000
_OLDEST_PYTHON = (3, 11, 0)


def doctor(project: Project = HERE, as_json: Json = False) -> None:
    """Check the machine and the project. Leaves with 7 when something is wrong."""
    found = [_checked(name, check) for name, check in _checks(project)]
    wrong = [line for line in found if line["problem"]]

    def text() -> str:
        lines = []
        for line in found:
            mark = typer.style("wrong", fg="red") if line["problem"] else typer.style("fine ", fg="green")
            lines.append(f"{mark}  {line['check']:<14} {line['problem'] or line['found']}")
            if line["next_step"]:
                lines.append(f"{'':21} next: {line['next_step']}")
        return "\n".join(lines)

    show(found, as_json, text)
    if wrong:
        raise typer.Exit(SetupError.exit_code)


def _checks(project: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "python", _python
    yield "llama.cpp", lambda: _llama_cpp(project)
    yield "disk", lambda: _disk(project)
    yield "settings", lambda: _settings(project)
    yield "rights", lambda: _rights(project)
    yield "definitions", lambda: _definitions(project)
    yield "models", lambda: _models(project)
    yield "servers", lambda: _servers(project)
    yield "catalog", lambda: _catalog(project)
    yield "stores", lambda: _stores(project)
    yield "features", lambda: _features(project)
    yield "followed", lambda: _followed(project)
    yield "lineage", lambda: _lineage(project)
    yield "encryption", lambda: _encryption(project)
    yield "engines", lambda: _engines(project)
    yield "port", lambda: _port(project)
    yield "tls", lambda: _tls(project)


def _checked(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": name, "found": check(), "problem": None, "next_step": None}
    except AntiphonError as error:
        where = f"{error.where}: " if error.where else ""
        return {
            "check": name,
            "found": None,
            "problem": where + error.what,
            "next_step": (error.next_step or "").strip(),
        }


def _python() -> str:
    running = sys.version_info[:3]
    if running < _OLDEST_PYTHON:
        raise SetupError(f"Python {running} is too old.", next_step="Use Python 3.11 or later.")
    return ".".join(map(str, running))


def _llama_cpp(project: Path) -> str:
    loaded, _ = settings.load(project)
    if loaded.engine.kind != "llamacpp":
        return f"not needed for a {loaded.engine.kind} engine"
    from antiphon.engine.backends.llamacpp.library import Library

    return str(Library.get().path)


def _disk(project: Path) -> str:
    for folder in (project, cache_directory()):
        present = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
        free = shutil.disk_usage(present).free
        if free < _SPACE:
            raise SetupError(f"{free / 1e6:.0f} MB are free.", where=str(present), next_step="Free at least 1 GB.")
    return f"{free / 1e9:.0f} GB free"


def _settings(project: Path) -> str:
    loaded, _ = settings.load(project)
    return f"{loaded.project.name}, engine {loaded.engine.kind}"


def _rights(project: Path) -> str:
    loaded, paths = settings.load(project)
    for path in disk.writable_by_others(paths.root, loaded.project.definitions):
        raise SetupError(
            "Other users may write here, and so run programs as you.", where=str(path), next_step=f"chmod go-w {path}"
        )
    if disk.open_to_others(paths.directory):
        raise SetupError(
            "Other users may look into it: catalog, logs and traces are there.",
            where=str(paths.directory),
            next_step=f"chmod -R go-rwx {paths.directory}, or `antiphon up`, which does it.",
        )
    return "yours alone to write" if disk.open_to_others(paths.root) else "yours alone"


def _definitions(project: Path) -> str:
    from antiphon.definitions import project as definitions

    loaded, paths = settings.load(project)
    declared = definitions.load(paths.root / loaded.project.definitions, loaded.project.name)
    return f"{len(declared.views)} views, {len(declared.applications)} applications"


def _models(project: Path) -> str:
    loaded, _ = settings.load(project)
    if loaded.engine.kind != "llamacpp":
        return f"none needed for a {loaded.engine.kind} engine"
    from antiphon.engine import weights

    return ", ".join(f"{model} {weights.resolve(model).sha256[:8]}" for model in loaded.engine.models)


def _servers(project: Path) -> str:
    import asyncio

    from antiphon.services.engines.sections import upstreams
    from antiphon.services.engines.servers import server_of

    loaded, paths = settings.load(project)

    async def describe(name: str) -> str:
        server = server_of(loaded, paths, name)
        try:
            return f"{name} serves {len((await server.describe()).models)} models"
        finally:
            await server.close()

    async def describe_all() -> list[str]:
        return [await describe(name) for name in upstreams(loaded)]

    return ", ".join(asyncio.run(describe_all())) or "none elsewhere"


def _catalog(project: Path) -> str:
    from antiphon.services.project.store import Store

    store = Store(*settings.load(project))
    store.required_files.require_catalog()
    if not store.required_files.place.exists():
        return "not made yet"
    try:
        found = store.database.revision()
        if found is None:
            return f"{store.database.backend.described()}, not made yet"
        store.required_files.require_secrets()
        return f"{store.database.backend.described()}, schema {found}"
    finally:
        store.database.close()


def _stores(project: Path) -> str:
    from antiphon.services.project.feature_stores import described

    return described(project)


def _features(project: Path) -> str:
    loaded, paths = settings.load(project)
    if loaded.catalog.url is None and not paths.catalog.exists():
        return "nothing published yet"
    from antiphon.services.features.health import require_whole

    return require_whole(project)


def _followed(project: Path) -> str:
    from antiphon.definitions import project as definitions
    from antiphon.services.features.following import require_readable_places

    loaded, paths = settings.load(project)
    declared = definitions.load(paths.root / loaded.project.definitions, loaded.project.name)
    return require_readable_places(declared.sources.values())


def _lineage(project: Path) -> str:
    loaded, paths = settings.load(project)
    if loaded.lineage.url is None:
        return "no receiver, events are kept here alone"
    if loaded.catalog.url is None and not paths.catalog.exists():
        return f"{loaded.lineage.url}: nothing to send yet"
    from antiphon.services.lineage.delivery import require_delivered

    return require_delivered(project)


def _encryption(project: Path) -> str:
    from antiphon.services.governance.encryption_setup import require_provider_ready

    return require_provider_ready(project)


def _engines(project: Path) -> str:
    from antiphon.operations.processes import statuses
    from antiphon.services.engines.scaling import scaling_policy

    loaded, paths = settings.load(project)
    policy = scaling_policy(loaded)
    stopped = [one for one in statuses(paths.run) if one.state == "stopped"]
    if stopped:
        return "; ".join(f"{one.name} stopped: {one.detail}" for one in stopped)
    return "run all the time" if policy is None else f"stopped when not needed for {loaded.scaling.idle}"


def _port(project: Path) -> str:
    from antiphon.operations.listening import require_free_port
    from antiphon.operations.processes import statuses

    loaded, paths = settings.load(project)
    if any(process.name == "gateway" and process.alive for process in statuses(paths.run)):
        return f"{loaded.gateway.port}, the gateway listens"
    require_free_port(loaded.gateway.host, loaded.gateway.port)
    return f"{loaded.gateway.port} is free"


def _tls(project: Path) -> str:
    from antiphon.gateway.http.transport_security import TransportSecurity, require_protection, tls_files

    loaded, paths = settings.load(project)
    require_protection(loaded)
    files = tls_files(loaded.tls, paths.root)
    if files is None:
        return f"plain HTTP on {loaded.gateway.host}"
    clock = SystemClock()
    facts = TransportSecurity(files, clock).facts
    return f"{', '.join(facts.names)}, {facts.days_left(clock.now()):.0f} days left"
