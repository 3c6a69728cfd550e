"""Settings of one project: ``antiphon.toml``, then ``ANTIPHON_SECTION__FIELD`` from the environment.

A misspelt section or field is an error that names it. Relative paths are relative to the project's folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from antiphon.core.errors import InvalidInput, NotFound
from antiphon.core.scope import Scope

FILE_NAME = "antiphon.toml"


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the sections: unknown fields are refused."""


class ProjectSettings(_Section, frozen=True):
    """Who this project belongs to, and where its definitions and its own files lie."""

    name: str = "antiphon"
    tenant: str = "default"
    environment: str = "dev"
    definitions: str = "definitions.py"
    directory: str = ".antiphon"


class CatalogSettings(_Section, frozen=True):
    """The one SQL database. ``None`` is SQLite in the project's directory."""

    url: str | None = None


class EngineSettings(_Section, frozen=True):
    """What generates.

    Attributes:
        kind: ``llamacpp`` (own process), ``remote`` (an OpenAI-compatible ``url``) or ``simulated``.
        models: names of pulled models or paths of GGUF files that the engine loads.
        slots: sequences that may run at once; ``context`` tokens each.
        threads: 0 uses the machine's cores.
        api_key_variable: name of the environment variable that holds the remote engine's key.
    """

    kind: Literal["llamacpp", "remote", "simulated"] = "llamacpp"
    models: tuple[str, ...] = ("smollm2-135m",)
    slots: int = 16
    context: int = 1024
    threads: int = 0
    url: str | None = None
    api_key_variable: str | None = None


class GatewaySettings(_Section, frozen=True):
    """Where the gateway listens and how much it accepts."""

    host: str = "127.0.0.1"
    port: int = 8700
    max_body_bytes: int = 4_000_000
    max_in_flight: int = 256
    request_timeout: str = "120s"
    batch_concurrency: int = 8


class WorkerSettings(_Section, frozen=True):
    """How the worker runs workflows, keeps streamed features fresh and trains.

    Attributes:
        training_governed: whether training is stopped while the engine serves online requests.
        training_quiet: how long there must have been none before it goes on.
        training_poll: how often the engine is asked while there is training.
    """

    lease: str = "10s"
    stream_poll: str = "50ms"
    stream_batch: int = 2_000
    refresh: bool = True
    training_governed: bool = True
    training_quiet: str = "1s"
    training_poll: str = "50ms"


class PriceSettings(_Section, frozen=True):
    """What a unit costs, in ``currency``; operations prices receipts with it."""

    currency: str = "USD"
    engine_second: float = 0.00004
    prompt_token: float = 0.0
    completion_token: float = 0.0


class Settings(_Section, frozen=True):
    """The whole of ``antiphon.toml``."""

    project: ProjectSettings = ProjectSettings()
    catalog: CatalogSettings = CatalogSettings()
    engine: EngineSettings = EngineSettings()
    gateway: GatewaySettings = GatewaySettings()
    worker: WorkerSettings = WorkerSettings()
    prices: PriceSettings = PriceSettings()

    @property
    def scope(self) -> Scope:
        """Tenant and environment of this project."""
        return Scope(self.project.tenant, self.project.environment)


class ProjectPaths(msgspec.Struct, frozen=True):
    """Where a project's files lie; nothing is created by asking."""

    root: Path
    directory: Path

    @property
    def catalog(self) -> Path:
        return self.directory / "catalog.db"

    @property
    def lake(self) -> Path:
        return self.directory / "lake"

    @property
    def online(self) -> Path:
        return self.directory / "online"

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def keys(self) -> Path:
        return self.directory / "keys"

    @property
    def engine_socket(self) -> Path:
        """In ``run``, or in the temporary folder when that path is longer than a Unix socket's may be."""
        socket = self.run / "engine.sock"
        if len(os.fsencode(socket)) < 100:
            return socket
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"antiphon-{os.getuid()}-{digest}.sock"

    @property
    def worker_ready(self) -> Path:
        """Written by the worker once it works."""
        return self.run / "worker.ready"


def load(root: Path, environment: Mapping[str, str] | None = None) -> tuple[Settings, ProjectPaths]:
    """Read a project's settings.

    Raises:
        NotFound: there is no ``antiphon.toml`` in ``root``.
        InvalidInput: it is not TOML, or a section, field or type is wrong.
    """
    file = root / FILE_NAME
    try:
        document: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(
            f"There is no {FILE_NAME} here.",
            where=str(root),
            next_step="Run `antiphon init NAME` to make a project, or pass --project DIRECTORY.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"This is not TOML: {error}.", where=str(file)) from None
    _overlay(document, os.environ if environment is None else environment)
    try:
        settings = msgspec.convert(document, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{error}.", where=str(file), next_step="See docs/settings.md for every field.") from None
    directory = Path(settings.project.directory)
    return settings, ProjectPaths(
        root=root.resolve(), directory=directory if directory.is_absolute() else root.resolve() / directory
    )


def _overlay(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if name.startswith("ANTIPHON_") and "__" in name:
            section, field = name.removeprefix("ANTIPHON_").lower().split("__", 1)
            document.setdefault(section, {})[field] = value.split(",") if field == "models" else value


def cache_directory() -> Path:
    """Where weights and data sets are kept between projects: ``$ANTIPHON_CACHE`` or ``~/.cache/antiphon``."""
    return Path(os.environ.get("ANTIPHON_CACHE") or Path.home() / ".cache" / "antiphon")
