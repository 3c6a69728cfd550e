"""The engines of a project, each a process behind its socket: the one under ``[engine]`` and its standbys."""

from __future__ import annotations

import os
import re
import sys

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.core.settings import Settings
from antiphon.definitions.degradation import MAIN, engine_process
from antiphon.definitions.embedding import named_model
from antiphon.engine.api.client import EngineClient
from antiphon.services.apply.apply import require_named_engines
from antiphon.services.project.store import Store

_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")


def connect(store: Store, peer: str) -> EngineClient:
    """The engine under ``[engine]``. Connecting happens with the first request."""
    return EngineClient(store.paths.engine_socket, peer=peer)


def standbys(store: Store, peer: str) -> dict[str, EngineClient]:
    """The engines under ``[engines.NAME]``, by name. Connecting happens with the first request.

    Raises:
        InvalidInputError: a name that cannot be used.
    """
    require_named_engines(store, store.settings.engine.fallback, "antiphon.toml, [engine] fallback")
    return {
        name: EngineClient(store.paths.engine_socket_of(engine_process(name)), peer=peer)
        for name in _names(store.settings)[1:]
    }


def commands(store: Store) -> dict[str, tuple[str, ...]]:
    """The command line of every engine's process, by the engine's name.

    Raises:
        InvalidInputError: an engine's settings cannot be used; nothing has been connected to.
    """
    return {name: command(store, name) for name in _names(store.settings)}


def withheld(settings: Settings, engine: str | None = None) -> frozenset[str]:
    """Variables of the environment that hold keys of servers, but for this engine's own: no other process gets them."""
    named = {name: section.api_key_variable for name, section in settings.engines.items()}
    named[MAIN] = settings.engine.api_key_variable
    own = None if engine is None else named[engine]
    return frozenset(variable for variable in named.values() if variable is not None and variable != own)


def command(store: Store, name: str = MAIN) -> tuple[str, ...]:
    """The command line of an engine's process.

    Raises:
        InvalidInputError: an embedding model that is not known, or settings of a server that cannot be used.
    """
    if name != MAIN or store.settings.engine.kind == "remote":
        from antiphon.app.upstream import server_of

        server_of(store.settings, store.paths, name)
        return (sys.executable, "-m", "antiphon.app.upstream", "--project", str(store.paths.root), "--engine", name)
    engine = store.settings.engine
    arguments = [
        sys.executable, "-m", "antiphon.engine",
        "--socket", str(store.paths.engine_socket),
        "--slots", str(engine.slots),
        "--context", str(engine.context),
        "--log-file", str(store.paths.logs / "engine.log"),
        "--file-bytes", str(store.settings.telemetry.max_bytes),
        "--files", str(store.settings.telemetry.files),
        *(() if store.traces is None else ("--traces", str(store.traces))),
        "--threads", str(engine.threads or min(os.cpu_count() or 1, 8)),
        "--gpu-layers", str(engine.gpu_layers),
        "--models-file", str(store.paths.run / "engine.models"),
    ]  # fmt: skip
    if engine.rest_after is not None:
        arguments += ["--rest-after", str(parse_duration(engine.rest_after).total_seconds())]
    for model in engine.models:
        arguments += ["--model", model]
    for name in engine.embedding_models:
        embedder = named_model(name)
        arguments += ["--embedding-model", f"{embedder.name}:{embedder.tokens}:{embedder.dimensions}"]
    if engine.kind == "simulated":
        arguments.append("--simulated")
    return tuple(arguments)


def _names(settings: Settings) -> list[str]:
    """Names of the engines, ``main`` first; raises ``InvalidInputError`` for one that cannot be used."""
    for name in settings.engines:
        if name == MAIN or not _NAME.match(name):
            raise InvalidInputError(
                f"{name!r} is not a name for an engine.",
                where="antiphon.toml, [engines]",
                next_step=f"Use lower-case letters, digits and hyphens; {MAIN!r} is the one under [engine].",
            )
    return [MAIN, *settings.engines]
