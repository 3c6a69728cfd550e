"""Values of a translated Feast repository: definitions to write, findings, and names in our form."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import msgspec

from antiphon.definitions.entity import NAME, snake_case
from antiphon.features.feast.repository import FeastEntity, Location


class TranslationFinding(msgspec.Struct, frozen=True):
    """Remark about one object.

    ``left_out``: it is not in the translation. ``note``: it is, and this differs.
    """

    kind: Literal["left_out", "note"]
    noun: str
    name: str
    what: str
    at: Location = Location()


class WrittenEntity(msgspec.Struct, frozen=True):
    """``Entity(name, keys)``, bound to ``variable``."""

    variable: str
    name: str
    keys: tuple[str, ...]


class WrittenSource(msgspec.Struct, frozen=True):
    """``Source.table`` or, with ``event_id``, ``Source.stream`` or, with ``view``, ``Source.feast``, bound to
    ``variable``."""

    variable: str
    name: str
    path: str = ""
    event_time: str = ""
    event_id: str = ""
    created: str = ""
    view: str = ""


class WrittenView(msgspec.Struct, frozen=True):
    """A feature view: ``features`` maps our name to the column."""

    class_name: str
    name: str
    entity: str
    source: str
    features: dict[str, str]
    owner: str = ""
    description: str = ""
    ttl: str = ""
    origin: dict[str, str] = {}
    """Our feature names to Feast's."""


class WrittenOnDemand(msgspec.Struct, frozen=True):
    """An on-demand view: ``inputs`` maps a name to its type, ``features`` our name to an expression; ``reads`` are the
    classes of the views that it reads."""

    class_name: str
    inputs: dict[str, str]
    features: dict[str, str]
    reads: tuple[str, ...]


class WrittenService(msgspec.Struct, frozen=True):
    """Views of an application, made of a Feast feature service."""

    variable: str
    name: str
    views: tuple[str, ...]


class Translation(msgspec.Struct, frozen=True):
    """Definitions and findings of a translated repository."""

    project: str
    entities: tuple[WrittenEntity, ...]
    sources: tuple[WrittenSource, ...]
    views: tuple[WrittenView, ...]
    on_demand: tuple[WrittenOnDemand, ...]
    services: tuple[WrittenService, ...]
    findings: tuple[TranslationFinding, ...]

    @property
    def left_out(self) -> tuple[TranslationFinding, ...]:
        """Findings about objects that were left out."""
        return tuple(finding for finding in self.findings if finding.kind == "left_out")


def our_name(name: str) -> str:
    """A name of ours made of Feast's; empty when there is none."""
    made = re.sub(r"[^a-z0-9]+", "_", snake_case(name)).strip("_")
    return made if NAME.match(made) else ""


def entity_name(parts: list[FeastEntity]) -> str:
    """A name of the entity that several of Feast's make together."""
    joined = "_".join(our_name(part.name) for part in parts)
    return (
        joined if NAME.match(joined) else "_".join(our_name(key) or "key" for part in parts for key in part.join_keys)
    )


def class_name(name: str) -> str:
    """The class of a view of this name."""
    return "".join(part.capitalize() for part in name.split("_"))


def project_name(name: str) -> str:
    """A project's name made of Feast's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "feast"


def reachable(path: str, target: Path) -> str:
    """A path as the project's definitions write it: relative inside its folder, else absolute."""
    return os.path.relpath(path, target) if Path(path).is_relative_to(target) else path
