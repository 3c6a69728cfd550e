"""The engines of a project: the process behind its socket or a URL, and its standbys."""

from __future__ import annotations

import os
import re
import sys

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.core.settings_sections import EngineSettings, StandbyEngineSettings
from antiphon.core.tls import client_tls
from antiphon.definitions.degradation import MAIN
from antiphon.definitions.embedding import named_model
from antiphon.engine.api.port import Engine
from antiphon.services.apply.apply import require_named_engines
from antiphon.services.project.store import Store

_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")


def connect(store: Store, peer: str) -> Engine:
    """The engine as ``antiphon.toml`` declares it. Connecting happens with the first request.

    Raises:
        InvalidInputError: a remote engine without a URL, or whose key variable is not set.
    """
    engine = store.settings.engine
    if engine.kind != "remote":
        from antiphon.engine.api.client import EngineClient

        return EngineClient(store.paths.engine_socket, peer=peer)
    if engine.url is None:
        raise InvalidInputError(
            "A remote engine needs a url.", where="antiphon.toml, [engine]", next_step='Add url = "http://…/v1".'
        )
    return _remote(store, "engine", engine, engine.url, {})


def standbys(store: Store) -> dict[str, Engine]:
    """The engines under ``[engines.NAME]``, by name. Connecting happens with the first request.

    Raises:
        InvalidInputError: a name or a URL that cannot be used, or a key variable that is not set.
    """
    require_named_engines(store, store.settings.engine.fallback, "antiphon.toml, [engine] fallback")
    found: dict[str, Engine] = {}
    for name, engine in store.settings.engines.items():
        if name == MAIN or not _NAME.match(name):
            raise InvalidInputError(
                f"{name!r} is not a name for an engine.",
                where="antiphon.toml, [engines]",
                next_step=f"Use lower-case letters, digits and hyphens; {MAIN!r} is the one under [engine].",
            )
        found[name] = _remote(store, f"engines.{name}", engine, engine.url, engine.models)
    return found


def _remote(
    store: Store, section: str, engine: EngineSettings | StandbyEngineSettings, url: str, models: dict[str, str]
) -> Engine:
    key = None
    if engine.api_key_variable is not None:
        key = os.environ.get(engine.api_key_variable)
        if key is None:
            raise InvalidInputError(
                f"The environment variable {engine.api_key_variable} is not set.",
                where=f"antiphon.toml, [{section}] api_key_variable",
                next_step=f"export {engine.api_key_variable}=…",
            )
    from antiphon.engine.backends.remote.engine import RemoteEngine

    tls = client_tls(store.paths.root, engine.authority, engine.client_certificate, engine.client_key)
    return RemoteEngine(url, key=key, models=models, serves=engine.serves, parameters=engine.parameters, tls=tls)


def command(store: Store) -> tuple[str, ...]:
    """The command line of this project's engine process.

    Raises:
        InvalidInputError: an embedding model that is not known.
    """
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
