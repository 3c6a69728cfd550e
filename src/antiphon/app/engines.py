"""Which engine a project uses: the process behind its socket, or a URL."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from antiphon.app.store import Store
from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInput
from antiphon.core.tls import ClientTls
from antiphon.definitions.embedding import named_model
from antiphon.engine.port import ServingEngine


def connect(store: Store, peer: str) -> ServingEngine:
    """The engine as ``antiphon.toml`` declares it. Connecting happens with the first request.

    Raises:
        InvalidInput: a remote engine without a URL, or whose key variable is not set.
    """
    engine = store.settings.engine
    if engine.kind != "remote":
        from antiphon.engine.client import EngineClient

        return EngineClient(store.paths.engine_socket, peer=peer)
    if engine.url is None:
        raise InvalidInput(
            "A remote engine needs a url.", where="antiphon.toml, [engine]", next_step='Add url = "http://…/v1".'
        )
    key = None
    if engine.api_key_variable is not None:
        key = os.environ.get(engine.api_key_variable)
        if key is None:
            raise InvalidInput(
                f"The environment variable {engine.api_key_variable} is not set.",
                where="antiphon.toml, [engine] api_key_variable",
                next_step=f"export {engine.api_key_variable}=…",
            )
    from antiphon.engine.remote import RemoteEngine

    def at(file: str | None) -> Path | None:
        return None if file is None else store.paths.root / file

    tls = ClientTls(at(engine.authority), at(engine.client_certificate), at(engine.client_key))
    return RemoteEngine(engine.url, key=key, tls=tls)


def command(store: Store) -> tuple[str, ...]:
    """The command line of this project's engine process.

    Raises:
        InvalidInput: an embedding model that is not known.
    """
    engine = store.settings.engine
    arguments = [
        sys.executable, "-m", "antiphon.engine",
        "--socket", str(store.paths.engine_socket),
        "--slots", str(engine.slots),
        "--context", str(engine.context),
        "--traces", str(store.paths.logs),
        "--threads", str(engine.threads or min(os.cpu_count() or 1, 8)),
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
