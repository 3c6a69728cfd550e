"""Files of model versions in the project's ``models`` folder: put in place whole, checked before they are used.

Invariant: a file under its final name is complete and flushed to disk, and its place is named by the identity of what
it was trained from, so that putting it there twice is putting it there once.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from antiphon.catalog.learning.models import ModelFile
from antiphon.core.disk import file_sha256, sync_file, sync_folder
from antiphon.core.errors import CorruptionError
from antiphon.training.order import ADAPTER, WEIGHTS, TrainedFile, TrainingResult


class StoredModelFiles(msgspec.Struct, frozen=True):
    """Paths of a training's files, relative to the ``models`` folder."""

    adapter: ModelFile
    weights: ModelFile


def keep(root: Path, place: str, trained: TrainingResult) -> StoredModelFiles:
    """Put the files of a completed training into ``root/place``.

    Raises:
        CorruptionError: a file is not the one that training made.
        OSError: the disk is full or cannot be written.
    """
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = StoredModelFiles(
        adapter=_put(trained.adapter, folder, ADAPTER, place), weights=_put(trained.weights, folder, WEIGHTS, place)
    )
    for each in (folder, *folder.parents):
        sync_folder(each)
        if each == root:
            break
    return kept


def verify(root: Path, file: ModelFile, version: str) -> Path:
    """Returns the path of a version's file once its hash is checked; raises ``CorruptionError`` when it is gone or is
    another."""
    path = root / file.path
    found = sha256_or_none(path)
    if found != file.sha256:
        raise CorruptionError(
            f"The file {file.path} of {version} is {'gone' if found is None else 'not the one that was registered'}.",
            where=str(path),
            next_step=f"Restore it from a backup, or run `antiphon models rebuild {version}`.",
        )
    return path


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
