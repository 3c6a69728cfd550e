"""Feast's names, durations and paths as ours."""

from __future__ import annotations

import os
import re
from pathlib import Path

from antiphon.definitions.entity import NAME
from antiphon.definitions.view_name import snake_case
from antiphon.features.feast.repository import FeastEntity


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


def duration(seconds: float) -> str:
    """A ttl as we write durations, empty for none; rounded up to whole milliseconds."""
    if seconds <= 0:
        return ""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        if seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{-(-int(seconds * 1_000_000) // 1000)}ms"


def reachable(path: str, target: Path) -> str:
    """A path as the project's definitions write it: relative inside its folder, else absolute."""
    return os.path.relpath(path, target) if Path(path).is_relative_to(target) else path
