"""Servers of OpenAI's API that stand in for engines."""

from __future__ import annotations

import os

from antiphon.core.errors import InvalidInputError
from antiphon.core.paths import ProjectPaths
from antiphon.core.settings import Settings
from antiphon.core.settings_sections import EngineSettings, StandbyEngineSettings
from antiphon.definitions.degradation import MAIN
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.services.engines.sections import engine_tls, section_of


def server_of(loaded: Settings, paths: ProjectPaths, name: str) -> RemoteEngine:
    """The server behind an engine of this name.

    Raises:
        InvalidInputError: there is none, its URL or certificates cannot be used, or its key variable is not set.
    """
    where = f"antiphon.toml, [{section_of(name)}]"
    engine: EngineSettings | StandbyEngineSettings | None = loaded.engine if name == MAIN else loaded.engines.get(name)
    if engine is None:
        raise InvalidInputError(f"No engine is named {name!r}.", where=where, next_step="Add it with a url.")
    if engine.url is None or (isinstance(engine, EngineSettings) and engine.kind != "remote"):
        raise InvalidInputError("A remote engine needs a url.", where=where, next_step='Add url = "http://…/v1".')
    key = None
    if engine.api_key_variable is not None:
        key = os.environ.get(engine.api_key_variable)
        if key is None:
            raise InvalidInputError(
                f"The environment variable {engine.api_key_variable} is not set.",
                where=f"{where} api_key_variable",
                next_step=f"export {engine.api_key_variable}=…",
            )
    return RemoteEngine(
        engine.url,
        key=key,
        models=engine.models if isinstance(engine, StandbyEngineSettings) else {},
        serves=engine.serves,
        parameters=engine.parameters,
        tls=engine_tls(paths, engine),
        gpus=engine.gpus,
    )
