"""Places of exports: files and objects, each written whole, and only where nothing is but an export's own.

Invariant: a file is at its place whole or not at all, at any instant: written beside it, synced, and put there in one
step; an object by one conditional request. What an export did not write, or somebody changed since, is neither replaced
nor removed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec

from antiphon.batch import tables
from antiphon.batch.table_files import foreign, matches, put_in_place, require_objects
from antiphon.batch.table_objects import TableObject, TableObjects, object_of
from antiphon.catalog.exported_files import ExportedFile
from antiphon.core.disk import file_sha256, sync_file, sync_folder
from antiphon.core.errors import AntiphonError, ConflictError, InvalidInputError
from antiphon.core.paths import require_nameable
from antiphon.definitions.objects import is_objects
from antiphon.services.project.store import Store

_OWNER = "an export of this project"
SUCCESS = "_SUCCESS"
"""The file that says that all others of its folder are there, as Hadoop and Spark write and heed it."""


class ExportTargets:
    """Puts files of one project's exports in place, and removes them.

    Args:
        sources: patterns of files that the project reads, by what reads them; no export writes there.
    """

    def __init__(self, store: Store, sources: Callable[[], Mapping[str, Sequence[str]]], objects: TableObjects) -> None:
        self._store = store
        self._sources = sources
        self._objects = objects

    def require(self, place: str) -> None:
        """Raises ``InvalidInputError`` for a place that the project reads or keeps its own files in, and for one that
        holds what no export wrote."""
        found = self.resolved(place)
        named = object_of(found) if is_objects(found) else Path(found)
        if any(matches(patterns, named) for patterns in self._sources().values()):
            raise InvalidInputError("The project reads this table.", where=place, next_step="Name another place.")
        if isinstance(named, TableObject):
            require_objects(self._objects, named)
            return
        require_nameable(named, "to")
        if named.is_relative_to(self._store.paths.directory.resolve()):
            raise InvalidInputError(
                "The project keeps its own files there.", where=place, next_step="Name another place."
            )
        if named.exists() and not self._store.exported_files.hashes(self._store.scope, found):
            raise foreign(named, _OWNER)

    def problem(self, place: str) -> str | None:
        """The sentence that says why nothing can be written to a place, as far as that is seen from here."""
        try:
            self.require(place)
            if is_objects(place):
                self._objects.require_credentials(object_of(place))
                return None
        except AntiphonError as error:
            return f"{error.what} {error.next_step or ''}".strip()
        folder = Path(self.resolved(place)).parent
        there = next(one for one in (folder, *folder.parents) if one.exists())
        if not there.is_dir():
            return f"{there} is no folder; name another place."
        if not os.access(there, os.W_OK | os.X_OK):
            return f"{there} cannot be written by this user; change its rights, or name another place."
        return None

    def resolved(self, place: str) -> str:
        """A path without links in its folders, by which files are known; an object's URL as orders name it."""
        if is_objects(place):
            return str(object_of(place))
        path = Path(place)
        return str(path.parent.resolve() / path.name)

    @contextmanager
    def draft(self, place: str) -> Iterator[Path]:
        """A file to write the content to before it is put in its place; removed with the block. What a killed attempt
        left is removed before.

        Raises:
            InvalidInputError: there can be no such file. StorageFullError: the disk is full.
        """
        if is_objects(place):
            with self._objects.draft(object_of(place)) as draft, tables.written_to(draft):
                yield draft
            return
        path = Path(self.resolved(place))
        with tables.written_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f".{_literally(path.name)}.*.partial"):
                left.unlink(missing_ok=True)
            draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
            try:
                yield draft
            finally:
                draft.unlink(missing_ok=True)

    def put(self, draft: Path, file: ExportedFile) -> None:
        """Put a finished file in its place, and note that it is there.

        Args:
            file: its ``path`` is the place; hash and size are those of the draft.

        Raises:
            InvalidInputError: the place holds what no export wrote. ConflictError: another process writes there.
            UnavailableError, SetupError: it cannot be written now, or at all.
        """
        store, scope = self._store, self._store.scope

        def note(digest: str) -> None:
            store.exported_files.note(scope, msgspec.structs.replace(file, sha256=digest))

        if is_objects(file.path):
            self._put_object(draft, file, note)
        else:
            path = Path(file.path)
            sync_file(draft)
            put_in_place(draft, path, note, partial(store.exported_files.hashes, scope, file.path), _OWNER)
            sync_folder(path.parent)
        store.exported_files.written(scope, file.path, file.sha256, store.database.clock.now())

    def _put_object(self, draft: Path, file: ExportedFile, note: Callable[[str], None]) -> None:
        place = object_of(file.path)
        note(file.sha256)
        for last in (False, True):
            found = self._objects.found(place)
            if found is not None and found[0] == file.sha256:
                return
            if found is not None and found[0] not in self._store.exported_files.hashes(self._store.scope, file.path):
                raise foreign(place, _OWNER)
            try:
                self._objects.put(draft, place, None if found is None else found[1])
                return
            except ConflictError:  # An earlier attempt of the same run may still have been about it.
                if last:
                    raise

    def remove(self, file: ExportedFile) -> bool:
        """Remove a file as it was written, and forget it; ``False`` where it is gone, or is another one now, which
        stays."""
        store, scope = self._store, self._store.scope
        try:
            if is_objects(file.path):
                place = object_of(file.path)
                found = self._objects.found(place)
                own = found is not None and found[0] == file.sha256
                if own:
                    self._objects.remove(place)
            else:
                path = Path(file.path)
                own = path.is_file() and not path.is_symlink() and file_sha256(path) == file.sha256
                if own:
                    path.unlink(missing_ok=True)
                    with suppress(OSError):  # Others keep files there.
                        if file.version in path.parent.name:
                            path.parent.rmdir()
        except OSError as error:
            raise InvalidInputError(
                f"{file.path} cannot be removed: {error.strerror}.", where=file.path, next_step="Remove it by hand."
            ) from error
        store.exported_files.forget(scope, file.path)
        return own


def digest_of(draft: Path) -> tuple[str, int]:
    """SHA-256 (hex) and size in bytes of a finished draft."""
    with draft.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest(), draft.stat().st_size


def _literally(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
