"""A doorbell without other processes, and what it rings."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from antiphon.catalog.database import Database
from antiphon.catalog.doorbell import Doorbell


class Silence:
    """A channel without other processes, which notes whether it is heard."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0

    def notify(self, connection: Any, names: Collection[str]) -> None:
        raise AssertionError

    def committed(self, names: Collection[str]) -> None: ...

    def open(self, deliver: Callable[[Collection[str] | None], None]) -> None:
        self.opened += 1

    def close(self) -> None:
        self.closed += 1


def rings_of(database: Database, *names: str) -> list[str]:
    """The rings of these names from now on, as they come; nothing else is heard any more."""
    found: list[str] = []
    database.doorbell = Doorbell(Silence())
    for name in names:
        database.doorbell.listen(partial(found.append, name), [name])
    return found
