"""Settings with which a process was started, and their differences from those of its start before:
``run/NAME.settings``.

Numbers are kept as they are. Of any text, which may hold a password, there are sixteen bits of a digest: enough to see
that it is another one, and too few to guess it by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.disk import put_private
from antiphon.core.ids import content_hash
from antiphon.core.settings import Settings

_SUFFIX = ".settings"
_NONE = "nothing"
_NAMED = 3
_TEXT = "text "


class SettingsChange(msgspec.Struct, frozen=True):
    """The last start of a process with other settings than those before: ``said`` are the settings, by name."""

    process: str
    at: datetime
    said: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Such as ``The process gateway was started with other settings: [gateway] max_in_flight 1 (before: 48).``"""
        others = len(self.said) - _NAMED
        listed = ", ".join(self.said[:_NAMED]) + (f" and {others} others" if others > 0 else "")
        return f"The process {self.process} was started with other settings: {listed}."


class _NotedSettings(msgspec.Struct, frozen=True):
    values: Mapping[str, str]
    before: Mapping[str, str] = {}
    change: SettingsChange | None = None


def note_settings(run: Path, process: str, settings: Settings, now: datetime) -> None:
    """Note the settings with which a process has started.

    A step back to the settings before mends: it does not take the place of the change that it undoes. Nothing is noted
    on a full disk: the process is to start all the same.
    """
    noted, values = _read(run / f"{process}{_SUFFIX}"), dict(_values("", msgspec.to_builtins(settings)))
    if noted is None:
        noted = _NotedSettings(values)
    elif values == noted.values:
        return
    elif values == noted.before:
        noted = _NotedSettings(values, noted.values, noted.change)
    else:
        names = sorted(name for name in {**noted.values, **values} if noted.values.get(name) != values.get(name))
        said = tuple(_said(name, values.get(name, _NONE), noted.values.get(name, _NONE)) for name in names)
        noted = _NotedSettings(values, noted.values, SettingsChange(process, now, said))
    with suppress(OSError):
        put_private(run / f"{process}{_SUFFIX}", msgspec.json.encode(noted))


def settings_changes(run: Path) -> list[SettingsChange]:
    """The last change of each process that has been started here."""
    found = (_read(file) for file in sorted(run.glob(f"*{_SUFFIX}")))
    return [one.change for one in found if one is not None and one.change is not None]


def _read(file: Path) -> _NotedSettings | None:
    with suppress(OSError, msgspec.DecodeError):  # Another version's is as none.
        return msgspec.json.decode(file.read_bytes(), type=_NotedSettings)
    return None


def _values(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _values(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, bool | int | float | None):
        yield name, str(value)
    else:
        yield name, _TEXT + content_hash(value)[:4]


def _said(name: str, now: str, before: str) -> str:
    section, _, field = name.rpartition(".")
    written = f"[{section}] {field}"
    return written if _TEXT in (now[:5], before[:5]) else f"{written} {now} (before: {before})"
