"""Files that are whole or absent: written under another name, flushed to disk, renamed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from antiphon.core.disk import sync_folder


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place in one step; a crash leaves the old one, and at most a ``.partial`` beside it."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Flush a file that another library wrote."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    """SHA-256 hex of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
