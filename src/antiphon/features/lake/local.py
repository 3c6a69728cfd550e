"""The lake on the local disk. A file is named by its content, so writing it twice is writing it once.

Order that survives a crash: finish in scratch, fsync, rename into place, fsync the folder. Only then may a
manifest name it. Under a codec that seals, a file's bytes are sealed as they are written, for the place that its
name gives; name and hash are of the clear content either way, so that encryption does not change what a file is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from antiphon.core.codec import Codec
from antiphon.core.disk import delete_older, remove_folder, room_needed, sync_folder
from antiphon.core.scope import Scope
from antiphon.features.lake.content import Lake, LakeDraft, context_of, missing
from antiphon.governance.encryption.sealed_files import key_of, open_sealed


class LocalLake(Lake):
    """Content-addressed files below one root: ``TENANT/ENVIRONMENT/ab/abcd….parquet``."""

    def __init__(self, root: Path, codec: Codec | None = None) -> None:
        super().__init__(root / ".scratch", codec)
        self._root = root

    @contextmanager
    def writing(self, scope: Scope, suffix: str) -> Iterator[LakeDraft]:
        with room_needed("lake"):
            partial = self._scratch_file(suffix)
            try:
                with partial.open("xb") as stream:
                    draft = LakeDraft(stream, self._codec)
                    yield draft
                    draft.ended(scope, suffix)
                    stream.flush()
                    os.fsync(stream.fileno())
                    draft.size = stream.tell()
                target = self._root / draft.path
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(partial, target)
                sync_folder(target.parent)
            finally:
                partial.unlink(missing_ok=True)

    def has(self, relative: str) -> bool:
        return (self._root / relative).is_file()

    def open(self, relative: str) -> BinaryIO:
        stream = self.path(relative).open("rb")
        try:
            return open_sealed(stream, self._codec, context_of(relative))
        except BaseException:
            stream.close()
            raise

    def path(self, relative: str) -> Path:
        """The file's place on the disk; raises ``CorruptionError`` when it is gone."""
        path = self._root / relative
        if not path.is_file():
            raise missing(relative)
        return path

    def key_of(self, relative: str) -> str | None:
        with self.path(relative).open("rb") as stream:
            return key_of(stream)

    def remove(self, relative: str) -> None:
        (self._root / relative).unlink(missing_ok=True)

    def scopes(self) -> list[Scope]:
        folders = sorted(folder for folder in self._root.glob("[!.]*/*") if folder.is_dir())
        return [Scope(folder.parent.name, folder.name) for folder in folders]

    def sizes(self, scope: Scope) -> Iterator[tuple[str, int]]:
        for path in sorted((self._root / scope.tenant / scope.environment).glob("*/*")):
            with suppress(FileNotFoundError):  # Collected meanwhile.
                yield str(path.relative_to(self._root)), path.stat().st_size

    def erase(self, tenant: str) -> int:
        count = super().erase(tenant)
        remove_folder(self._root / tenant)
        return count

    def collect(self, scope: Scope, keep: Iterable[str], older_than: float) -> list[str]:
        kept = set(keep)
        gone = []
        for relative in list(self.files(scope)):
            if relative not in kept and delete_older(self._root / relative, older_than):
                gone.append(relative)
        self._collect_scratch(older_than)
        return gone
