"""Code locations of declarations, and the list that collects them at the moment.

A mistake in ``definitions.py`` must be reported with its file and line, together with every other mistake, so a
declaration remembers its place and is checked later, by ``project.load``, instead of raising where it stands.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple


class CodeLocation(NamedTuple):
    """A file and a line of it, counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


_collecting: ContextVar[list[object] | None] = ContextVar("antiphon_declarations", default=None)


def caller() -> CodeLocation:
    """The place from which the function that asks was called."""
    frame = sys._getframe(2)
    return CodeLocation(frame.f_code.co_filename, frame.f_lineno)


def declared(item: object) -> None:
    """Tell the running ``project.load``, if there is one, that something was declared."""
    items = _collecting.get()
    if items is not None:
        items.append(item)


@contextmanager
def collecting() -> Iterator[list[object]]:
    """Collect everything declared inside the block, in order, also what a later name hides."""
    items: list[object] = []
    token = _collecting.set(items)
    try:
        yield items
    finally:
        _collecting.reset(token)
