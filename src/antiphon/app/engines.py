"""The engines of a project: the process behind its socket or a URL, those that have joined, and its standbys."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from functools import partial
from pathlib import Path

from antiphon.catalog.engine_instances import EngineInstances
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.core.settings_sections import EngineSettings, StandbyEngineSettings
from antiphon.core.tls import ClientTls, client_tls
from antiphon.definitions.degradation import MAIN
from antiphon.definitions.embedding import named_model
from antiphon.engine.api.address import NetworkAddress, is_engine_url, parse_host_port, parse_url
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import EngineInstance
from antiphon.engine.api.port import Engine
from antiphon.engine.routing.routed_engine import RoutedEngine
from antiphon.services.apply.apply import require_named_engines
from antiphon.services.project.store import Store

_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")


def connect(store: Store, peer: str) -> Engine:
    """The engine as ``antiphon.toml`` declares it. Connecting happens with the first request.

    Raises:
        InvalidInputError: a remote engine without a URL, whose key variable is not set, or whose certificates cannot be
            used.
    """
    engine = store.settings.engine
    if engine.kind != "remote":
        return _joined(store, peer) if engine.join else EngineClient(store.paths.engine_socket, peer=peer)
    if engine.url is None:
        raise InvalidInputError(
            "A remote engine needs a url.", where="antiphon.toml, [engine]", next_step='Add url = "http://…/v1".'
        )
    return _remote(store, "engine", engine, engine.url, {}, peer)


def _joined(store: Store, peer: str) -> RoutedEngine:
    """The engines that have joined the project's catalog: by their socket on this machine, over TLS from others."""
    instances = EngineInstances(ProcessLeases(store.database, store.scope.environment))
    tls, host = _engine_tls(store, store.settings.engine), socket.gethostname()

    def client(instance: EngineInstance) -> EngineClient:
        path = Path(instance.socket)
        if not instance.address or (instance.host == host and path.is_socket()):
            return EngineClient(path, peer=peer)
        return EngineClient(NetworkAddress(*parse_host_port(instance.address, instance.name), tls), peer=peer)

    return RoutedEngine(partial(asyncio.to_thread, instances.living), client)


def _engine_tls(store: Store, engine: EngineSettings | StandbyEngineSettings) -> ClientTls:
    return client_tls(store.paths.root, engine.authority, engine.client_certificate, engine.client_key)


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
        found[name] = _remote(store, f"engines.{name}", engine, engine.url, engine.models, "standby")
    return found


def _remote(
    store: Store,
    section: str,
    engine: EngineSettings | StandbyEngineSettings,
    url: str,
    models: dict[str, str],
    peer: str,
) -> Engine:
    if is_engine_url(url):
        return _ours(store, section, engine, url, models, peer)
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

    tls = _engine_tls(store, engine)
    return RemoteEngine(url, key=key, models=models, serves=engine.serves, parameters=engine.parameters, tls=tls)


def _ours(
    store: Store,
    section: str,
    engine: EngineSettings | StandbyEngineSettings,
    url: str,
    models: dict[str, str],
    peer: str,
) -> EngineClient:
    """An engine of ours on another host."""
    where = f"antiphon.toml, [{section}]"
    host, port = parse_url(url, f"{where} url")
    if models or engine.parameters or engine.api_key_variable:
        raise InvalidInputError(
            "`models`, `parameters` and `api_key_variable` are for servers of OpenAI's API.",
            where=where,
            next_step="Leave them out: an engine of ours serves models by their own names and knows us by certificate.",
        )
    if engine.authority is None or engine.client_certificate is None:
        raise InvalidInputError(
            "An engine over the network needs `authority`, `client_certificate` and `client_key`.",
            where=where,
            next_step="`antiphon tls init --engines` makes them on the engine's host.",
        )
    address = NetworkAddress(host, port, _engine_tls(store, engine))
    address.tls.context()
    return EngineClient(address, peer=peer)


def command(
    store: Store,
    name: str = "engine",
    *,
    listen: str | None = None,
    advertise: str | None = None,
    join: bool | None = None,
) -> tuple[str, ...]:
    """The command line of an engine process of this project; what is left out is as the settings say.

    Raises:
        InvalidInputError: an embedding model that is not known.
    """
    engine = store.settings.engine
    listen, advertise = listen or engine.listen, advertise or engine.advertise
    join = engine.join if join is None else join
    if not join and listen is None:
        return (sys.executable, "-m", "antiphon.engine", *arguments(store, name))
    return (
        *(sys.executable, "-m", "antiphon.app.engine", "--project", str(store.paths.root), "--name", name),
        *(() if listen is None else ("--listen", listen)),
        *(() if advertise is None else ("--advertise", advertise)),
        *(("--join",) if join else ()),
    )


def arguments(store: Store, name: str = "engine") -> tuple[str, ...]:
    """The options of ``python -m antiphon.engine`` for an engine of this project.

    Raises:
        InvalidInputError: an embedding model that is not known.
    """
    engine = store.settings.engine
    arguments = [
        "--socket", str(store.paths.engine_socket_of(name)),
        "--slots", str(engine.slots),
        "--context", str(engine.context),
        "--log-file", str(store.paths.logs / f"{name}.log"),
        "--file-bytes", str(store.settings.telemetry.max_bytes),
        "--files", str(store.settings.telemetry.files),
        *(() if store.traces is None else ("--traces", str(store.traces))),
        "--threads", str(engine.threads or min(os.cpu_count() or 1, 8)),
        "--gpu-layers", str(engine.gpu_layers),
        "--models-file", str(store.paths.run / f"{name}.models"),
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
