"""A nested value as an indented outline for people; ``--json`` gives programs all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from antiphon.cli.output import table

MOST_ROWS = 6
"""Rows of a long list that are shown; how many there are is always said."""

_WIDE = 24


def outline(value: Any, depth: int = 0) -> str:
    """Short values beside their names, long ones below them, lists of equal things as tables."""
    pad = "  " * depth
    if isinstance(value, Mapping):
        return "\n".join(_named(str(name).replace("_", " "), inner, depth) for name, inner in value.items())
    if isinstance(value, list | tuple):
        if value and all(_is_row(row) for row in value):
            return _rows(value, pad)
        return "\n".join(_item(inner, depth) for inner in value)
    return "\n".join(pad + line for line in str(value).splitlines())


def _named(name: str, value: Any, depth: int) -> str:
    pad = "  " * depth
    if _is_short(value):
        return f"{pad}{name:<{max(2, _WIDE - 2 * depth)}} {_short(value)}"
    return f"{pad}{name}\n{outline(value, depth + 1)}"


def _item(value: Any, depth: int) -> str:
    pad = "  " * depth
    if _is_short(value):
        return f"{pad}- {_short(value)}"
    if isinstance(value, Mapping) and value and _is_short(next(iter(value.values()))):
        (_, head), *rest = value.items()
        return f"{pad}- {_short(head)}\n{outline(dict(rest), depth + 1)}"
    return f"{pad}-\n{outline(value, depth + 1)}"


def _rows(rows: Sequence[Mapping[str, Any]], pad: str) -> str:
    names = list(rows[0])
    shown = [[_short(row[name]) for name in names] for row in rows[:MOST_ROWS]]
    lines = table([name.replace("_", " ") for name in names], shown).splitlines()
    if len(rows) > MOST_ROWS:
        lines.append(f"… {len(rows)} in this list")
    return "\n".join(pad + line for line in lines)


def _is_row(value: Any) -> bool:
    """Equal things in a list: a few short values, at most one of them a group of columns."""
    return (
        isinstance(value, Mapping)
        and 2 <= len(value) <= 8
        and all(
            _is_short(inner) or (isinstance(inner, Mapping) and all(_is_short(column) for column in inner.values()))
            for inner in value.values()
        )
    )


def _is_short(value: Any) -> bool:
    if isinstance(value, str):
        return "\n" not in value and len(value) <= 160
    if isinstance(value, Mapping):
        return len(value) <= 3 and all(isinstance(inner, int | float | str | None) for inner in value.values())
    if isinstance(value, list | tuple):
        return all(isinstance(inner, int | float | None) for inner in value) or not value
    return True


def _short(value: Any) -> str:
    if value is None or value in ("", [], {}, ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        shown = " ".join(_short(inner) for inner in value[:12])
        return f"{shown} … ({len(value)})" if len(value) > 12 else shown
    return str(value)
