"""The files that a followed folder or a store holds, and the content of one.

Invariants: an identity changes with the content. An object of a store is there whole or not at all, and what is fetched
is what was listed; a file of a folder may be under way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.definitions.following import FileDrop
from antiphon.definitions.objects import is_objects
from antiphon.definitions.source import SourceSpec, local_paths
from antiphon.features.sources.object_source import fetched
from antiphon.features.sources.stored_objects import StoredObject, present

_OPEN_END = 10
"""A text file whose last line has no end is waited for so many times longer: it may be half a line."""

_TEXTS = (".csv", ".tsv", ".jsonl", ".ndjson")

MOST_BYTES = 128 * 2**20
"""Size of an object that is followed, at most: it is held in memory while it is read, and fetched within one reading's
time."""

FileIdentity = tuple[int, int, int] | str
"""Size in bytes, inode and time of change in nanoseconds; of an object its version."""


class FollowedFiles(Protocol):
    """A place with files by their paths."""

    def present(self) -> dict[str, FileIdentity]:
        """The files that are there.

        Raises:
            SetupError: there is no such place, or it refuses access. UnavailableError: it does not answer.
        """

    def identity(self, path: str) -> FileIdentity | None:
        """The identity of what was read of a file as it is now; ``None`` of one that is gone."""

    def settles(self, path: str) -> float:
        """The time for which a file must not change before it is read, in times of what is declared."""

    def opened(self, path: str) -> AbstractContextManager[Path]:
        """A file of this machine with the content of one that is there; raises as :meth:`present`, and
        ``InvalidInputError`` where it is too large."""


def followed_files(source: SourceSpec) -> FollowedFiles:
    """The files that a stream follows."""
    assert isinstance(source.follow, FileDrop)
    return ObjectFiles(source) if is_objects(source.follow.path) else FolderFiles(source)


class FolderFiles:
    """Files of this machine."""

    def __init__(self, source: SourceSpec) -> None:
        assert isinstance(source.follow, FileDrop)
        self._source = source
        self._path = source.follow.path

    def present(self) -> dict[str, FileIdentity]:
        """The files of the folder, with what tells whether one has changed."""
        files = {
            str(path): identity
            for path in local_paths(self._path)
            if (identity := self.identity(str(path))) is not None
        }
        if not files and not Path(self._path).parent.is_dir():
            raise SetupError(
                f"There is no folder {Path(self._path).parent}.",
                where=f"source {self._source.name}",
                next_step="Make it, or correct path of the source's follow.",
            )
        return files

    def identity(self, path: str) -> FileIdentity | None:
        """The identity of a file's content; ``None`` of a folder, and of a file that is gone."""
        try:
            stat = Path(path).stat()
        except OSError:
            return None
        return (stat.st_size, stat.st_ino, stat.st_mtime_ns) if Path(path).is_file() else None

    def settles(self, path: str) -> float:
        """Once; ten times of a text that ends within a line."""
        return _OPEN_END if _has_open_end(Path(path)) else 1

    @contextmanager
    def opened(self, path: str) -> Iterator[Path]:
        """The file itself."""
        yield Path(path)


class ObjectFiles:
    """Objects of an S3-compatible store, by their URLs."""

    def __init__(self, source: SourceSpec) -> None:
        assert isinstance(source.follow, FileDrop)
        self._listed = msgspec.structs.replace(source, path=source.follow.path)
        self._objects: dict[str, StoredObject] = {}

    def present(self) -> dict[str, FileIdentity]:
        """The objects that the pattern names now."""
        self._objects = {one.url: one for one in present(self._listed)}
        return {url: one.version for url, one in self._objects.items()}

    def identity(self, path: str) -> FileIdentity | None:
        """The version of the object as it was listed, and fetched on condition of it."""
        found = self._objects.get(path)
        return None if found is None else found.version

    def settles(self, path: str) -> float:
        """Not at all: an object is there whole."""
        return 0

    @contextmanager
    def opened(self, path: str) -> Iterator[Path]:
        """Its content, which reaches no disk."""
        found = self._objects[path]
        if found.size > MOST_BYTES:
            raise InvalidInputError(
                f"An object of {found.size / 2**20:.0f} MiB is too large: {MOST_BYTES // 2**20} MiB is the most.",
                where=path,
                next_step="Write smaller ones.",
            )
        with fetched(self._listed, found) as file:
            yield file


def _has_open_end(path: Path) -> bool:
    """Tells whether a file of text ends within a line."""
    if path.suffix.lower() not in _TEXTS:
        return False
    try:
        with path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) not in (b"\n", b"\r")
    except OSError:
        return False
