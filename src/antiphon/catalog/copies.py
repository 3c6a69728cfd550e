"""Copies of a catalog, made before its schema is changed: ``catalog.db.REVISION.copy`` beside ``catalog.db``.

Invariants: a copy is whole or not there (a draft is renamed once it is on disk), and of one committed state. Copies
hold what is erased later, so erasing removes them (:func:`remove`).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from antiphon.core.disk import room_needed
from antiphon.core.errors import SetupError

KEPT = 2
"""Copies that stay; older ones go when another is made."""

_SPARE_BYTES = 64 * 2**20
"""Room that a migration itself needs, beside the copy: its log, and columns that it adds."""


def copy_of(catalog: Path, revision: str) -> Path:
    """The file of the copy at a revision."""
    return catalog.with_name(f"{catalog.name}.{revision}.copy")


def make(catalog: Path, revision: str) -> Path:
    """Copy a catalog that is locked for writing; returns the path of the copy.

    Raises:
        SetupError: there is no room for it. UnavailableError: the disk filled up meanwhile.
    """
    needed = catalog.stat().st_size + _SPARE_BYTES
    free = shutil.disk_usage(catalog.parent).free
    if free < needed:
        raise SetupError(
            f"Migrating the catalog needs {needed / 1e6:.0f} MB for a copy of it; {free / 1e6:.0f} MB are free.",
            where=str(catalog.parent),
            next_step="Free disk space and start again; the catalog is unchanged.",
        )
    target = copy_of(catalog, revision)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    try:
        with room_needed("catalog", "Free disk space and start again; the catalog is unchanged."):
            _copied(catalog, draft)
            os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    for older in sorted(_copies(catalog), key=lambda copy: copy.stat().st_mtime)[:-KEPT]:
        older.unlink(missing_ok=True)
    return target


def remove(catalog: Path) -> None:
    """Remove every copy of a catalog."""
    for copy in _copies(catalog):
        copy.unlink(missing_ok=True)


def _copies(catalog: Path) -> list[Path]:
    return list(catalog.parent.glob(f"{catalog.name}.*.copy"))


def _copied(catalog: Path, draft: Path) -> None:
    # SQLite's backup takes a state that is committed, write-ahead log included; copying the files would tear it.
    reading, writing = sqlite3.connect(f"{catalog.resolve().as_uri()}?mode=ro", uri=True), sqlite3.connect(draft)
    try:
        reading.backup(writing)
    finally:
        writing.close()
        reading.close()
    with draft.open("rb") as stream:
        os.fsync(stream.fileno())
