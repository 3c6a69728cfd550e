"""Paths of a project's own files, and of the cache that projects share."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from antiphon.core.errors import InvalidInputError

LONGEST_PART = 220
"""Bytes of a name: file systems take 255, and a file that is being written has marks beside its name."""
LONGEST_PATH = 4_000
"""Bytes of a whole path, which systems take 4,096 of."""


class ProjectPaths(msgspec.Struct, frozen=True):
    """Paths of a project's files; none is created here."""

    root: Path
    directory: Path

    @property
    def catalog(self) -> Path:
        return self.directory / "catalog.db"

    @property
    def lake(self) -> Path:
        return self.directory / "lake"

    @property
    def files(self) -> Path:
        return self.directory / "files"

    @property
    def online(self) -> Path:
        return self.directory / "online"

    @property
    def models(self) -> Path:
        return self.directory / "models"

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def keys(self) -> Path:
        return self.directory / "keys"

    def engine_socket_of(self, engine: str) -> Path:
        """The socket of the engine with this name."""
        return socket_path(self.run, engine)

    def ready(self, process: str) -> Path:
        """Written by a process that answers no probe, once it works."""
        return self.run / f"{process}.ready"


def socket_path(run: Path, name: str) -> Path:
    """The path of a project's Unix socket: in its folder ``run``, or in a folder of the temporary one when that is
    longer than the path of a socket may be."""
    socket = run / f"{name}.sock"
    if len(os.fsencode(socket)) < 100:
        return socket
    digest = hashlib.sha256(os.fsencode(run.parent)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"antiphon-{os.getuid()}-{digest}" / f"{name}.sock"


def require_nameable(path: Path, where: str) -> None:
    """Refuse a path that no file can have: a part, or the whole, is longer than file systems take.

    Raises:
        InvalidInputError: it is; the path is not repeated.
    """
    parts = [os.fsencode(part) for part in path.parts]
    if any(len(part) > LONGEST_PART for part in parts) or sum(map(len, parts)) + len(parts) > LONGEST_PATH:
        raise InvalidInputError(
            "The path is too long for a file.",
            where=where,
            next_step=f"Names of folders and files have at most {LONGEST_PART} bytes, a whole path {LONGEST_PATH}.",
        )


def cache_directory() -> Path:
    """Returns the folder of weights and data sets that projects share: ``$ANTIPHON_CACHE`` or ``~/.cache/antiphon``."""
    return Path(os.environ.get("ANTIPHON_CACHE") or Path.home() / ".cache" / "antiphon")
