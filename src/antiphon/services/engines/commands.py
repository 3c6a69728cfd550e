"""Command lines of the processes of engines."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from antiphon.core.clock import parse_duration
from antiphon.definitions.embedding import named_model
from antiphon.services.engines.sections import require_names
from antiphon.services.project.store import Store


def upstream_command(
    store: Store, engine: str, *, listen: str | None = None, advertise: str | None = None
) -> tuple[str, ...]:
    """The command line of the process in front of a server.

    Raises:
        InvalidInputError: the server's settings cannot be used; nothing has been connected to.
    """
    from antiphon.services.engines.servers import server_of

    require_names(store.settings)
    server_of(store.settings, store.paths, engine)
    return (
        *(sys.executable, "-m", "antiphon.app.upstream", "--project", str(store.paths.root), "--engine", engine),
        *(() if listen is None else ("--listen", listen)),
        *(() if advertise is None else ("--advertise", advertise)),
    )


def command(
    store: Store,
    name: str = "engine",
    *,
    listen: str | None = None,
    advertise: str | None = None,
    join: bool | None = None,
    own: Path | None = None,
) -> tuple[str, ...]:
    """The command line of an engine process of this project; what is left out is as the settings say.

    Args:
        own: the socket that it makes, instead of the one that clients know.

    Raises:
        InvalidInputError: an embedding model that is not known.
    """
    engine = store.settings.engine
    listen, advertise = listen or engine.listen, advertise or engine.advertise
    join = engine.join if join is None else join
    if not join and listen is None:
        return (sys.executable, "-m", "antiphon.engine", *arguments(store, name, own))
    return (
        *(sys.executable, "-m", "antiphon.app.engine", "--project", str(store.paths.root), "--name", name),
        *(() if listen is None else ("--listen", listen)),
        *(() if advertise is None else ("--advertise", advertise)),
        *(("--join",) if join else ()),
        *(() if own is None else ("--socket", str(own))),
    )


def arguments(store: Store, name: str = "engine", own: Path | None = None) -> tuple[str, ...]:
    """The options of ``python -m antiphon.engine`` for an engine of this project.

    Raises:
        InvalidInputError: an embedding model that is not known.
    """
    engine = store.settings.engine
    arguments = [
        "--socket", str(own or store.paths.engine_socket_of(name)),
        "--slots", str(engine.slots),
        "--context", str(engine.context),
        "--log-file", str(store.paths.logs / f"{name}.log"),
        "--file-bytes", str(store.settings.telemetry.max_bytes),
        "--files", str(store.settings.telemetry.files),
        *(() if store.traces is None else ("--traces", str(store.traces))),
        *(("--metrics", str(store.paths.run)) if store.settings.process_metrics else ()),
        "--threads", str(engine.threads or min(os.cpu_count() or 1, 8)),
        "--gpu-layers", str(engine.gpu_layers),
        "--gpus", str(engine.gpus),
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
