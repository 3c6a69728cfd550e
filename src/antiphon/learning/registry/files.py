"""Files of model versions, by their hash: put in place whole, checked before they are used.

Invariant: a file under its final name is complete and flushed to disk, and its place is named by the identity of what
it was trained from, so that putting it there twice is putting it there once.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from antiphon.catalog.learning.models import ModelFile
from antiphon.core.disk import file_lock, file_sha256, sync_file, sync_folder
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope
from antiphon.features.lake.content import Lake, path_of
from antiphon.training.order import ADAPTER, WEIGHTS, TrainedFile, TrainingResult


class StoredModelFiles(msgspec.Struct, frozen=True):
    """Paths of a training's files, relative to the ``models`` folder."""

    adapter: ModelFile
    weights: ModelFile


@dataclass(frozen=True)
class ModelFiles:
    """The files of model versions: in a folder of this machine and, where the lake is shared with other hosts, in the
    lake by their hash, from which a host that lacks one fetches it."""

    root: Path
    lake: Lake | None = None

    def keep(self, scope: Scope, place: str, trained: TrainingResult) -> StoredModelFiles:
        """Put the files of a completed training into ``root/place``, and into the lake.

        Raises:
            CorruptionError: a file is not the one that training made.
            OSError: the disk is full or cannot be written. UnavailableError, SetupError: the lake cannot.
        """
        folder = self.root / place
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = StoredModelFiles(
            adapter=_put(trained.adapter, folder, ADAPTER, place), weights=_put(trained.weights, folder, WEIGHTS, place)
        )
        for each in (folder, *folder.parents):
            sync_folder(each)
            if each == self.root:
                break
        for file in (kept.adapter, kept.weights):
            path = lake_path(scope, file)
            if self.lake is not None and not self.lake.has(path):
                self.lake.put(scope, PurePosixPath(path).suffix, self.root / file.path)
        return kept

    def locate(self, scope: Scope, file: ModelFile) -> Path:
        """The path of a file on this machine, fetched from the lake if it is not here; what is there is not checked."""
        path = self.root / file.path
        if not path.exists() and self.lake is not None:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The lake may have lost it too: then the path stays empty.
            with file_lock(self.root / ".lock"), suppress(CorruptionError):
                if not path.exists():
                    self.lake.fetch(lake_path(scope, file), file.sha256, path, f"file {file.path}")
        return path

    def verify(self, scope: Scope, file: ModelFile, version: str) -> Path:
        """Returns the path of a version's file once its hash is checked; raises ``CorruptionError`` when it is gone or
        is another."""
        path = self.locate(scope, file)
        found = sha256_or_none(path)
        if found != file.sha256:
            raise CorruptionError(
                f"The file {file.path} of {version} is "
                f"{'gone' if found is None else 'not the one that was registered'}.",
                where=str(path),
                next_step=f"Restore it from a backup, or run `antiphon models rebuild {version}`.",
            )
        return path


def lake_path(scope: Scope, file: ModelFile) -> str:
    """The place of a version's file in the lake."""
    return path_of(scope, file.sha256, PurePosixPath(file.path).suffix)


def sha256_or_none(path: Path) -> str | None:
    """A file's SHA-256 hex, ``None`` when there is no such file."""
    try:
        return file_sha256(path)
    except FileNotFoundError:
        return None


def _put(made: TrainedFile, folder: Path, name: str, place: str) -> ModelFile:
    target = folder / name
    if sha256_or_none(target) != made.sha256:
        partial = folder / f".{name}.partial"
        partial.unlink(missing_ok=True)
        try:
            _link_or_copy(Path(made.path), partial)
            if file_sha256(partial) != made.sha256:
                raise CorruptionError(
                    f"The file {Path(made.path).name} is not the one that training made.",
                    where=made.path,
                    next_step="Run the training again; it goes on from its checkpoint.",
                )
            sync_file(partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return ModelFile(path=f"{place}/{name}", sha256=made.sha256, size=made.size)


def _link_or_copy(source: Path, target: Path) -> None:
    # Training's folder is cleared afterwards and never written again, so that the two names may share the bytes.
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
