"""A lake's scratch folder on the local disk: what is being written, and space for computations."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from antiphon.core.disk import delete_older


class Scratch:
    """Files and folders that nobody needs once their process is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, suffix: str) -> Path:
        """A name for a file to be written here; nothing is there yet."""
        self.made()
        return self._folder / f"{os.getpid()}-{secrets.token_hex(8)}{suffix}"

    def folder(self) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(dir=self.made()))

    def collect(self, older_than: float) -> None:
        """Remove what was last changed before ``older_than`` (seconds since 1970)."""
        for left_over in self._folder.iterdir() if self._folder.is_dir() else ():
            if not left_over.is_dir():
                delete_older(left_over, older_than)
            elif _changed(left_over) < older_than:
                shutil.rmtree(left_over, ignore_errors=True)

    def made(self) -> Path:
        """The folder, made if it was not there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
