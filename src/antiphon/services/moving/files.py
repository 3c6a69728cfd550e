"""Moves content-addressed files between stores: what is missing by hash is copied, and each is checked by its hash."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec

from antiphon.catalog.learning.models import ModelVersion
from antiphon.core.errors import CorruptionError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.features.lake.content import Lake
from antiphon.learning.registry.files import ModelFiles, lake_path, sha256_or_none
from antiphon.learning.retraining.checkpoints import SUFFIX

_THREADS = 4
_PIECE = 2**20
Tell = Callable[[int, int], object]
"""Takes the bytes done and in all."""


class MovedFiles(msgspec.Struct, frozen=True):
    """Files that are in both stores, each with the hash of its name.

    Attributes:
        files, bytes: how many there are; stored bytes of the source.
        copied, copied_bytes: how many of them were written now.
        lost: those that the source has lost, or whose content is not what the name says.
    """

    files: int
    bytes: int
    copied: int
    copied_bytes: int
    lost: tuple[str, ...] = ()


def listed(lake: Lake, scopes: Iterable[Scope] = ()) -> dict[str, int]:
    """Every file of a store and its stored bytes."""
    return {path: size for scope in sorted({*lake.scopes(), *scopes}) for path, size in lake.sizes(scope)}


def missing(source: Lake, target: Lake) -> MovedFiles:
    """Count what a copy would write, without reading a file."""
    ours, theirs = listed(source), listed(target)
    lacking = ours.keys() - theirs.keys()
    return MovedFiles(len(ours), sum(ours.values()), len(lacking), sum(ours[path] for path in lacking))


def copy_models(source: ModelFiles, target: Lake | None, models: Iterable[ModelVersion]) -> MovedFiles:
    """See that this machine has the files of model versions, and put them into a lake that other hosts share.

    Raises:
        UnavailableError, SetupError: a store is away, full or refuses access.
    """
    files = copied = copied_bytes = size = 0
    lost = []
    for version in models:
        for file in (version.adapter, version.weights):
            path, place = source.locate(version.scope, file), lake_path(version.scope, file)
            if sha256_or_none(path) != file.sha256:
                lost.append(place)
                continue
            files, size = files + 1, size + file.size
            if target is not None and not target.has(place):
                target.put(version.scope, PurePosixPath(place).suffix, path)
                copied, copied_bytes = copied + 1, copied_bytes + file.size
    return MovedFiles(files, size, copied, copied_bytes, tuple(lost))


class CheckedFiles:
    """Files of a target that an earlier copy has read against their hash, in a text file, a line each: a copy ahead of
    a move spares the move the reading. What is older than a day is forgotten."""

    KEPT_SECONDS = 86_400
    PREFIX = "moved-"

    def __init__(self, folder: Path, target: str) -> None:
        self._path = folder / f"{self.PREFIX}{content_hash(target)[:12]}"
        fresh = self._path.exists() and time.time() - self._path.stat().st_mtime < self.KEPT_SECONDS
        self.paths = set(self._path.read_text(encoding="utf-8").splitlines()) if fresh else set()
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = self._path.open("a" if fresh else "w", encoding="utf-8")

    def add(self, path: str) -> None:
        """Remember a file; a line that a kill cut off names none."""
        self._file.write(f"{path}\n")

    def close(self) -> None:
        """Close it, for a later copy."""
        self._file.close()

    @classmethod
    def forget(cls, folder: Path) -> None:
        """Remove what earlier copies have remembered."""
        for path in folder.glob(f"{cls.PREFIX}*"):
            path.unlink(missing_ok=True)


def copy_files(
    source: Lake,
    target: Lake,
    named: Iterable[str],
    tell: Tell = lambda done, total: None,
    checked: CheckedFiles | None = None,
) -> MovedFiles:
    """Copy every file that the target lacks, and read each one there against its hash. A checkpoint that is gone or
    damaged is no loss: a training goes on from the one before.

    Args:
        named: files that the catalog names; those that the source does not have are told as lost.
        checked: those that need not be read again, if they are there.

    Raises:
        CorruptionError: the target does not keep what is written to it.
        UnavailableError, SetupError: a store is away, full or refuses access.
    """
    ours = listed(source)
    theirs = set(listed(target))
    known = theirs & checked.paths if checked is not None else set[str]()
    total = sum(ours.values())
    done = copied = copied_bytes = 0
    lost = sorted(set(named) - ours.keys())
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="copy") as pool:
        outcomes = pool.map(partial(_copied, source, target, theirs, known), ours)
        try:
            for (path, size), written in zip(ours.items(), outcomes, strict=True):
                done += size
                if written is None and PurePosixPath(path).suffix != SUFFIX:
                    lost.append(path)
                elif written is not None and checked is not None:
                    checked.add(path)
                if written:
                    copied, copied_bytes = copied + 1, copied_bytes + size
                tell(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return MovedFiles(len(ours), total, copied, copied_bytes, tuple(lost))


def _copied(source: Lake, target: Lake, there: set[str], known: set[str], path: str) -> bool | None:
    """Bring one file to the target; tell whether it was written, ``None`` when the source has lost it."""
    if path in known:
        return False
    sha256 = PurePosixPath(path).name.partition(".")[0]
    if path in there:
        try:
            target.verify(path, sha256)
        except CorruptionError:
            target.remove(path)
        else:
            return False
    if not _written(source, target, path):
        return None
    target.verify(path, sha256)
    return True


def _written(source: Lake, target: Lake, path: str) -> bool:
    tenant, environment, _, name = path.split("/")
    try:
        stream = source.open(path)
    except CorruptionError:
        return False
    with stream, target.writing(Scope(tenant, environment), PurePosixPath(name).suffix) as draft:
        while piece := stream.read(_PIECE):
            draft.write(piece)
    return draft.path == path
