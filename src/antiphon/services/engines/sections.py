"""Engines elsewhere, as the sections ``[engine]`` and ``[engines.NAME]`` name them."""

from __future__ import annotations

import re

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.core.paths import ProjectPaths
from antiphon.core.settings import Settings
from antiphon.core.settings_sections import EngineSettings, FrontsSettings, StandbyEngineSettings
from antiphon.core.tls import ClientTls, client_tls
from antiphon.definitions.degradation import MAIN
from antiphon.engine.api.address import is_engine_url

_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")


def require_names(settings: Settings) -> None:
    """Raises ``InvalidInputError`` for a name under ``[engines]`` that cannot be used."""
    for name in settings.engines:
        if name == MAIN or not _NAME.match(name):
            raise InvalidInputError(
                f"{name!r} is not a name for an engine.",
                where="antiphon.toml, [engines]",
                next_step=f"Use lower-case letters, digits and hyphens; {MAIN!r} is the one under [engine].",
            )


def upstreams(settings: Settings) -> list[str]:
    """Names of the engines that are servers of OpenAI's API: a process of this machine stands in front of each."""
    found = [MAIN] if settings.engine.kind == "remote" and not is_engine_url(settings.engine.url or "") else []
    return [*found, *(name for name, engine in settings.engines.items() if not is_engine_url(engine.url))]


def is_scaled(settings: Settings) -> bool:
    """Tells whether engines of this machine are stopped while nobody needs them."""
    return settings.scaling.idle != "off" and settings.engine.kind != "remote"


def patience_of(settings: Settings) -> float:
    """Seconds that an online request waits for an engine that is being started."""
    whole = parse_duration(settings.gateway.request_timeout).total_seconds()
    return min(parse_duration(settings.scaling.patience).total_seconds(), whole / 2)


def withheld(settings: Settings, engine: str | None = None) -> frozenset[str]:
    """Variables of the environment that hold keys of servers, but for this engine's own: no other process gets them."""
    named = {name: section.api_key_variable for name, section in settings.engines.items()}
    named[MAIN] = settings.engine.api_key_variable
    own = None if engine is None else named[engine]
    return frozenset(variable for variable in named.values() if variable is not None and variable != own)


def section_of(engine: str) -> str:
    """The section of ``antiphon.toml`` that an engine of this name has."""
    return "engine" if engine == MAIN else f"engines.{engine}"


def engine_tls(paths: ProjectPaths, engine: EngineSettings | StandbyEngineSettings | FrontsSettings) -> ClientTls:
    """Certificates by which an engine elsewhere is met."""
    return client_tls(paths.root, engine.authority, engine.client_certificate, engine.client_key)
