"""A project as the command line opens it: its stores, its services in process, its definitions."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from antiphon.app.store import Store
from antiphon.app.wiring import Wired
from antiphon.governance.principal import TERMINAL, Principal


@contextmanager
def open_store(root: Path) -> Iterator[Store]:
    """A project's stores, closed at the end.

    Raises:
        NotFoundError: no project here. InvalidInputError: bad settings. SetupError: the directory cannot be written.
    """
    store = Store.open(root)
    try:
        yield store
    finally:
        store.close()


def at_terminal(store: Store) -> Principal:
    """Whoever can read the project's secrets is its administrator; the name is the operating system's."""
    user = re.sub(r"[^A-Za-z0-9._-]", "-", getpass.getuser()) or "somebody"
    return Principal(
        id=f"{user}{TERMINAL}", tenant=store.scope.tenant, role="admin", kind="person", clearance="restricted"
    )


def open_project(root: Path) -> Wired:
    """A project with its services wired in this process. ``await wired.close()`` at the end.

    Raises:
        As :func:`open_store`; and ``InvalidInputError`` for a remote engine that is not configured.
    """
    return Wired(Store.open(root), "cli")
