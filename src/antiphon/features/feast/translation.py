"""What a Feast repository becomes, as values, and what is to be said about what has no counterpart."""

from __future__ import annotations

from typing import Literal

import msgspec

from antiphon.features.feast.repository import At


class Finding(msgspec.Struct, frozen=True):
    """What is to be said about one object.

    ``left_out``: it is not in the translation. ``note``: it is, and this differs.
    """

    kind: Literal["left_out", "note"]
    noun: str
    name: str
    what: str
    at: At = At()


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
    """What an application is given: views, and their contracts."""

    variable: str
    name: str
    views: tuple[str, ...]


class Translation(msgspec.Struct, frozen=True):
    """What a repository becomes."""

    project: str
    entities: tuple[WrittenEntity, ...]
    sources: tuple[WrittenSource, ...]
    views: tuple[WrittenView, ...]
    on_demand: tuple[WrittenOnDemand, ...]
    services: tuple[WrittenService, ...]
    findings: tuple[Finding, ...]

    @property
    def left_out(self) -> tuple[Finding, ...]:
        """What is not in it."""
        return tuple(finding for finding in self.findings if finding.kind == "left_out")
