"""A project as the command line opens it: its stores, its services in process, its definitions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from antiphon.app.store import Store
from antiphon.app.wiring import Wired


@contextmanager
def open_store(root: Path) -> Iterator[Store]:
    """A project's stores, closed at the end.

    Raises:
        NotFound: no project here. InvalidInput: bad settings. SetupError: the directory cannot be written.
    """
    store = Store.open(root)
    try:
        yield store
    finally:
        store.close()


def open_project(root: Path) -> Wired:
    """A project with its services wired in this process. ``await wired.close()`` at the end.

    Raises:
        As :func:`open_store`; and ``InvalidInput`` for a remote engine that is not configured.
    """
    return Wired(Store.open(root), "cli")
