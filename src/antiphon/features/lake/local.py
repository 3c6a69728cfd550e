"""The lake on the local disk. A file is named by its content, so writing it twice is writing it once.

Order that survives a crash: finish in scratch, fsync, rename into place, fsync the folder. Only then may a
manifest name it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from antiphon.core.errors import Corrupt
from antiphon.core.scope import Scope


class LocalLake:
    """Content-addressed files below one root: ``TENANT/ENVIRONMENT/ab/abcd….parquet``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._scratch = root / ".scratch"

    def put(self, scope: Scope, file: Path) -> tuple[str, str, int]:
        """Move a finished file in; returns its path below the root, its SHA-256 and its size in bytes."""
        with file.open("rb+") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        relative = f"{scope.tenant}/{scope.environment}/{digest[:2]}/{digest}{file.suffix}"
        target = self._root / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        size = file.stat().st_size
        os.replace(file, target)
        fsync_folder(target.parent)
        return relative, digest, size

    def path(self, relative: str) -> Path:
        """Where a file can be read.

        Raises:
            Corrupt: it is gone.
        """
        path = self._root / relative
        if not path.is_file():
            raise Corrupt(f"The lake has no file {relative}.", where="lake", next_step="Materialise the view again.")
        return path

    def verify(self, relative: str, sha256: str) -> None:
        """Check a file against its hash.

        Raises:
            Corrupt: it is gone or changed.
        """
        with self.path(relative).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                raise Corrupt(
                    f"The lake's file {relative} changed.", where="lake", next_step="Materialise the view again."
                )

    def scratch(self) -> Path:
        """A new empty folder on the same disk."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self._scratch))

    def files(self, scope: Scope) -> Iterator[str]:
        """Every file of a scope, as paths below the root."""
        for path in sorted((self._root / scope.tenant / scope.environment).glob("*/*")):
            yield str(path.relative_to(self._root))

    def collect(self, scope: Scope, keep: Iterable[str], older_than: float) -> list[str]:
        """Delete files that are not kept and were written before ``older_than`` (seconds since 1970).

        The age spares a file whose manifest is about to be committed.
        """
        kept = set(keep)
        gone = []
        for relative in list(self.files(scope)):
            path = self._root / relative
            if relative not in kept and path.stat().st_mtime < older_than:
                path.unlink()
                gone.append(relative)
        if self._scratch.is_dir():
            for folder in self._scratch.iterdir():
                if folder.stat().st_mtime < older_than:
                    shutil.rmtree(folder, ignore_errors=True)
        return gone


def fsync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
