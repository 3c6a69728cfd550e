"""Settings of one project: ``antiphon.toml``, then ``ANTIPHON_SECTION__FIELD`` from the environment.

A misspelt section or field is an error that names it. Relative paths are relative to the project's folder.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core import settings_costs, settings_processes
from antiphon.core import settings_governance as governance
from antiphon.core import settings_sections as sections
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.paths import ProjectPaths as ProjectPaths
from antiphon.core.paths import cache_directory as cache_directory
from antiphon.core.scope import Scope
from antiphon.core.settings_notifications import Channel, ChannelName

FILE_NAME = "antiphon.toml"


class Settings(sections.Section, frozen=True):
    """The whole of ``antiphon.toml``."""

    project: sections.ProjectSettings = sections.ProjectSettings()
    catalog: sections.CatalogSettings = sections.CatalogSettings()
    fronts: sections.FrontsSettings = sections.FrontsSettings()
    features: sections.FeaturesSettings = sections.FeaturesSettings()
    feast: sections.FeastSettings = sections.FeastSettings()
    engine: sections.EngineSettings = sections.EngineSettings()
    engines: dict[str, sections.StandbyEngineSettings] = msgspec.field(default_factory=dict)
    notifications: dict[ChannelName, Channel] = msgspec.field(default_factory=dict)
    changes: governance.ChangesSettings = governance.ChangesSettings()
    lineage: governance.LineageSettings = governance.LineageSettings()
    gateway: sections.GatewaySettings = sections.GatewaySettings()
    batch: sections.BatchSettings = sections.BatchSettings()
    telemetry: sections.TelemetrySettings = sections.TelemetrySettings()
    worker: settings_processes.WorkerSettings = settings_processes.WorkerSettings()
    processes: settings_processes.ProcessesSettings = settings_processes.ProcessesSettings()
    scaling: settings_processes.ScalingSettings = settings_processes.ScalingSettings()
    supervision: settings_processes.SupervisionSettings = settings_processes.SupervisionSettings()
    proxies: dict[str, settings_processes.ProxySettings] = msgspec.field(default_factory=dict)
    prices: settings_costs.PriceSettings = settings_costs.PriceSettings()
    energy: settings_costs.EnergySettings = settings_costs.EnergySettings()
    budgets: settings_costs.BudgetSettings = settings_costs.BudgetSettings()
    identity: governance.IdentitySettings = governance.IdentitySettings()
    policy: governance.PolicySettings = governance.PolicySettings()
    audit: governance.AuditSettings = governance.AuditSettings()
    encryption: governance.EncryptionSettings = governance.EncryptionSettings()
    tls: governance.TlsSettings = governance.TlsSettings()

    @property
    def metrics(self) -> sections.MetricsAccess:
        """The setting that says who may read ``/metrics``."""
        return self.gateway.metrics or ("open" if self.project.environment == "dev" else "key")

    @property
    def process_metrics(self) -> bool:
        """``True`` where workers and engines serve ``/metrics`` to their own machine."""
        return (self.telemetry.metrics or self.metrics) == "open"

    @property
    def scope(self) -> Scope:
        """Tenant and environment of this project."""
        return Scope(self.project.tenant, self.project.environment)


def load(root: Path, environment: Mapping[str, str] | None = None) -> tuple[Settings, ProjectPaths]:
    """Read a project's settings.

    Raises:
        NotFoundError: there is no ``antiphon.toml`` in ``root``.
        InvalidInputError: it is not TOML, or a section, field or type is wrong.
    """
    file = root / FILE_NAME
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(
            f"There is no {FILE_NAME} here.",
            where=str(root),
            next_step="Run `antiphon init NAME` to make a project, or pass --project DIRECTORY.",
        ) from None
    settings = parse(text, file, environment)
    directory = Path(settings.project.directory)
    return settings, ProjectPaths(
        root=root.resolve(), directory=directory if directory.is_absolute() else root.resolve() / directory
    )


def parse(text: bytes, file: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Settings of a text as they count where the environment changes some; raises as :func:`load`, naming ``file``."""
    try:
        document: dict[str, Any] = tomllib.loads(text.decode())
    except RecursionError:
        raise InvalidInputError(f"{FILE_NAME} is nested too deeply.", where=str(file)) from None
    # Of TOML and of UTF-8, and of a number with more digits than Python reads.
    except ValueError as error:
        raise InvalidInputError(f"{FILE_NAME} is not TOML: {error}.", where=str(file)) from None
    _overlay(document, os.environ if environment is None else environment)
    try:
        return msgspec.convert(document, Settings, strict=False)
    except msgspec.ValidationError as error:
        why = str(error)
        for pattern, name in sections.PATTERNS.items():
            why = why.replace(f"`str` matching regex {pattern!r}", name)
        raise InvalidInputError(f"{why}.", where=str(file), next_step="See docs/settings.md for every field.") from None


def _overlay(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if name.startswith("ANTIPHON_") and "__" in name:
            section, field = name.removeprefix("ANTIPHON_").lower().split("__", 1)
            document.setdefault(section, {})[field] = value.split(",") if field in ("models", "parameters") else value
