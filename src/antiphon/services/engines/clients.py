"""Clients of the engines of a project: the main one and its standbys, each behind a socket or at an address, and those
that have joined."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from pathlib import Path

from antiphon.catalog.engine_instances import PREFIX, EngineInstances, front_lease
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.errors import InvalidInputError
from antiphon.core.settings_sections import EngineSettings, FrontsSettings, StandbyEngineSettings
from antiphon.definitions.degradation import MAIN, engine_process
from antiphon.engine.api.address import NetworkAddress, is_engine_url, parse_host_port, parse_url
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import EngineInstance
from antiphon.engine.routing.routed_engine import RoutedEngine
from antiphon.services.apply.model_pins import require_named_engines
from antiphon.services.engines.sections import engine_tls, is_scaled, require_names, section_of
from antiphon.services.project.store import Store

TAKE_OVER_SECONDS = 12.0
"""Wait of a request for another process to take a server over: a lease, a look for it, and one at who has it."""


def connect(store: Store, peer: str) -> EngineClient | RoutedEngine:
    """The engine under ``[engine]``. Connecting happens with the first request.

    Raises:
        InvalidInputError: the URL or the certificates of an engine on another host cannot be used.
    """
    engine = store.settings.engine
    if engine.kind != "remote" and engine.join:
        here = is_scaled(store.settings) and store.settings.processes.engines > 0
        reserve = (
            EngineClient(store.paths.engine_socket_of(engine_process(MAIN)), peer=peer, activator=True)
            if here
            else None
        )
        return _joined(store, peer, PREFIX, engine, reserve=reserve)
    return _client(store, MAIN, peer)


def standbys(store: Store, peer: str) -> dict[str, EngineClient | RoutedEngine]:
    """The engines under ``[engines.NAME]``, by name. Connecting happens with the first request.

    Raises:
        InvalidInputError: a name, a URL or certificates that cannot be used.
    """
    require_named_engines(store, store.settings.engine.fallback, "antiphon.toml, [engine] fallback")
    require_names(store.settings)
    return {name: _client(store, name, peer) for name in store.settings.engines}


def _client(store: Store, name: str, peer: str) -> EngineClient | RoutedEngine:
    """The client of an engine of ours on another host, or else of the process that stands for it."""
    engine: EngineSettings | StandbyEngineSettings
    engine = store.settings.engine if name == MAIN else store.settings.engines[name]
    remote = not isinstance(engine, EngineSettings) or engine.kind == "remote"
    if not remote or engine.url is None or not is_engine_url(engine.url):
        if remote and store.settings.fronts.listen is not None:
            return _joined(
                store, peer, front_lease(store.scope.tenant, name), store.settings.fronts, patience=TAKE_OVER_SECONDS
            )
        # The process in front of a server is soon back; an engine of ours has models to load.
        patience = TAKE_OVER_SECONDS if remote else 0.0
        path = store.paths.engine_socket_of(engine_process(name))
        return EngineClient(path, peer=peer, patience=patience, activator=not remote and is_scaled(store.settings))
    where = f"antiphon.toml, [{section_of(name)}]"
    host, port = parse_url(engine.url, f"{where} url")
    models = engine.models if isinstance(engine, StandbyEngineSettings) else {}
    if models or engine.parameters or engine.api_key_variable or engine.gpus:
        raise InvalidInputError(
            "`models`, `parameters`, `api_key_variable` and `gpus` are for servers of OpenAI's API.",
            where=where,
            next_step="Leave them out: an engine of ours names its own models and GPUs and knows us by certificate.",
        )
    if engine.authority is None or engine.client_certificate is None:
        raise InvalidInputError(
            "An engine over the network needs `authority`, `client_certificate` and `client_key`.",
            where=where,
            next_step="`antiphon tls init --engines` makes them on the engine's host.",
        )
    address = NetworkAddress(host, port, engine_tls(store.paths, engine))
    address.tls.context()
    return EngineClient(address, peer=peer)


def _joined(
    store: Store,
    peer: str,
    prefix: str,
    section: EngineSettings | FrontsSettings,
    *,
    patience: float = 0.0,
    reserve: EngineClient | None = None,
) -> RoutedEngine:
    """The engines that have joined the project's catalog: by their socket on this machine, over TLS from others."""
    instances = EngineInstances(ProcessLeases(store.database, store.scope.environment), prefix)
    tls, host = engine_tls(store.paths, section), socket.gethostname()

    def client(instance: EngineInstance) -> EngineClient:
        path = Path(instance.socket)
        if not instance.address or (instance.host == host and path.is_socket()):
            return EngineClient(path, peer=peer, activator=reserve is not None)
        return EngineClient(NetworkAddress(*parse_host_port(instance.address, instance.name), tls), peer=peer)

    return RoutedEngine(partial(asyncio.to_thread, instances.living), client, patience=patience, reserve=reserve)
