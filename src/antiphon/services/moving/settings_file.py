"""The settings of a project that is moved: what they will be, and the file in the place of the one before.

Invariant: the file is replaced at once, after the catalog has been switched; a text that was edited here is read back
and differs from the one before in the fields that were asked for and in no other.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from antiphon.core.disk import replace_file
from antiphon.core.errors import InvalidInputError
from antiphon.core.settings import FILE_NAME, Settings

EMBEDDED = "embedded"
"""Stands for a store in the project's folder."""

FIELDS = {
    "catalog": ("catalog", "url"),
    "lake": ("features", "lake"),
    "online": ("features", "online"),
    "log": ("features", "log"),
    "files": ("batch", "files"),
}
"""Store to the section and field that say where it is."""

_HEADER = re.compile(r"\s*\[")


def edited(text: str, urls: Mapping[str, str]) -> str:
    """The text of a settings file with other places of stores; comments and order stay.

    Args:
        urls: store to its URL, or :data:`EMBEDDED`.

    Raises:
        InvalidInputError: the file is written in a way that only a person can change.
    """
    expected: dict[str, Any] = deepcopy(tomllib.loads(text))
    for store, url in urls.items():
        section, field = FIELDS[store]
        if url == EMBEDDED:
            expected.get(section, {}).pop(field, None)
        else:
            expected.setdefault(section, {})[field] = url
        text = _edited(text, section, field, None if url == EMBEDDED else url)
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        found = {}
    if _filled(found) != _filled(expected):
        raise InvalidInputError(
            f"The lines of {FILE_NAME} that name the stores cannot be changed by a program.",
            where=FILE_NAME,
            next_step="Copy the file, change its URLs, and name the copy: `antiphon migrate --to FILE.toml`.",
        )
    return text


def require_stores_alone(before: Settings, after: Settings) -> None:
    """Refuse settings that differ in more than where stores are and how they are reached.

    Raises:
        InvalidInputError: they do.
    """
    movable = {section for section, _ in FIELDS.values()}
    for section in Settings.__struct_fields__:
        if section not in movable and getattr(before, section) != getattr(after, section):
            raise InvalidInputError(
                f"The section [{section}] differs, and only {', '.join(sorted(movable))} may.",
                where="--to",
                next_step=f"Begin with a copy of {FILE_NAME}; change what else is to change after the move.",
            )


def replace(root: Path, text: str) -> None:
    """Put a text in the place of a project's settings file, whole or not at all; doing it again changes nothing."""
    file = root / FILE_NAME
    if file.read_text(encoding="utf-8") == text:
        return
    replace_file(file, text.encode())


def _edited(text: str, section: str, field: str, url: str | None) -> str:
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if line.split("#")[0].strip() == f"[{section}]"]
    assigned = [] if url is None else [f'{field} = "{_escaped(url)}"\n']
    if not starts:
        head = [] if not lines or lines[-1].endswith("\n") else ["\n"]
        return "".join([*lines, *head, *([f"\n[{section}]\n", *assigned] if assigned else [])])
    first = starts[0] + 1
    last = next((number for number in range(first, len(lines)) if _HEADER.match(lines[number])), len(lines))
    named = re.compile(rf"\s*{field}\s*=")
    kept = [line for line in lines[first:last] if not named.match(line)]
    if not any(line.strip() for line in [*assigned, *kept]):  # An empty section says nothing.
        return "".join([*lines[: first - 1], *lines[last:]]).rstrip("\n") + "\n"
    return "".join([*lines[:first], *assigned, *kept, *lines[last:]])


def _escaped(url: str) -> str:
    return url.replace("\\", "\\\\").replace('"', '\\"')


def _filled(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without empty sections."""
    return {name: value for name, value in document.items() if value != {}}
