"""The lake: immutable files named by their content, on a disk or in a bucket, and their check by hash."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from antiphon.core.codec import Codec, PayloadContext, PlainCodec
from antiphon.core.disk import LEAST_FREE, delete_older, file_sha256, room_needed, sync_file, sync_folder
from antiphon.core.errors import CorruptionError, StorageFullError
from antiphon.core.scope import Scope
from antiphon.governance.encryption.sealed_files import SealedSink

_SCHEMA = "lake/1"
_PIECE = 2**20


class LakeDraft(SealedSink):
    """A file of the lake being written, binary. After its block it has its path, its stored size, and the SHA-256 of
    its clear content."""

    path = ""
    sha256 = ""
    size = 0

    def write(self, content: Any) -> int:
        """Write a piece; raises ``StorageFullError`` when the disk is full."""
        with room_needed("lake"):
            return super().write(content)

    def ended(self, scope: Scope, suffix: str) -> None:
        """Seal the file for the place that its hash gives, and set ``path`` and ``sha256``."""
        self.sha256 = self.digest
        self.path = path_of(scope, self.sha256, suffix)
        self.finish(lambda _: context_of(self.path))


def path_of(scope: Scope, sha256: str, suffix: str) -> str:
    """A file's place below the lake's root: ``TENANT/ENVIRONMENT/ab/abcd….parquet``."""
    return f"{scope.tenant}/{scope.environment}/{sha256[:2]}/{sha256}{suffix}"


def context_of(relative: str) -> PayloadContext:
    """The place that a file is sealed for."""
    tenant, environment, _, name = relative.split("/")
    return PayloadContext(_SCHEMA, Scope(tenant, environment), name)


def missing(relative: str) -> CorruptionError:
    """The error for a file that is gone."""
    return CorruptionError(f"The lake has no file {relative}.", where="lake", next_step="Refresh the view.")


def changed(relative: str) -> CorruptionError:
    """The error for a file that is not what its name says."""
    return CorruptionError(f"The lake's file {relative} changed.", where="lake", next_step="Refresh the view.")


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


class Lake(ABC):
    """Immutable content-addressed files of all scopes: ``TENANT/ENVIRONMENT/ab/abcd….parquet``. Files are written in
    ``scratch``, a folder on the local disk, and sealed by the codec; by default they are stored as they are."""

    def __init__(self, scratch: Path, codec: Codec | None = None) -> None:
        self._scratch = scratch
        self._codec: Codec = codec or PlainCodec()

    @abstractmethod
    def writing(self, scope: Scope, suffix: str) -> AbstractContextManager[LakeDraft]:
        """Open a new file. When the block ends the file is in place under its path; a block that raises leaves nothing.
        Raises ``StorageFullError`` when the local disk is full, ``UnavailableError`` or ``SetupError`` when the bucket
        cannot be written."""

    @abstractmethod
    def has(self, relative: str) -> bool:
        """Tells whether a file is there, without reading it."""

    @abstractmethod
    def open(self, relative: str) -> BinaryIO:
        """Open the clear content of a file, for reading at any position; raises ``CorruptionError`` when it is gone, or
        was changed or moved from another place."""

    @abstractmethod
    def key_of(self, relative: str) -> str | None:
        """Id of the data key that seals a file's own key; ``None`` for one in plaintext. Raises ``CorruptionError``
        when it is gone."""

    @abstractmethod
    def remove(self, relative: str) -> None:
        """Delete one file; deleting it again changes nothing."""

    @abstractmethod
    def scopes(self) -> list[Scope]:
        """Every scope that has files."""

    @abstractmethod
    def sizes(self, scope: Scope) -> Iterator[tuple[str, int]]:
        """Every file of a scope, as a path below the root, and its stored bytes."""

    def files(self, scope: Scope) -> Iterator[str]:
        """Every file of a scope, as paths below the root."""
        for path, _ in self.sizes(scope):
            yield path

    @abstractmethod
    def collect(self, scope: Scope, keep: Iterable[str], older_than: float) -> list[str]:
        """Delete files outside of ``keep`` that were written before ``older_than`` (seconds since 1970): the age spares
        a file whose manifest is about to be committed."""

    def erase(self, tenant: str) -> int:
        """Delete every file of a tenant, in all environments; how many there were."""
        found = [relative for scope in self.scopes() if scope.tenant == tenant for relative in self.files(scope)]
        for relative in found:
            self.remove(relative)
        return len(found)

    def close(self) -> None:  # noqa: B027
        """Close connections, if there are any."""

    @property
    def sealed(self) -> bool:
        """True when clear content that is read or written here must not reach a disk."""
        return self._codec.sealing

    def scratch(self) -> Path:
        """A new empty folder on the local disk. What is written there is not sealed, and dies with its process."""
        return Path(tempfile.mkdtemp(dir=self._scratch_folder()))

    def _scratch_file(self, suffix: str) -> Path:
        return self._scratch_folder() / f"{os.getpid()}-{secrets.token_hex(8)}{suffix}"

    def _scratch_folder(self) -> Path:
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch

    def _collect_scratch(self, older_than: float) -> None:
        for left_over in self._scratch.iterdir() if self._scratch.is_dir() else ():
            if not left_over.is_dir():
                delete_older(left_over, older_than)
            elif _changed(left_over) < older_than:
                shutil.rmtree(left_over, ignore_errors=True)

    def verify(self, relative: str, sha256: str) -> None:
        """Check a file's content against its hash; raises ``CorruptionError`` when it is gone or changed."""
        digest = hashlib.sha256()
        with self.open(relative) as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
        if digest.hexdigest() != sha256:
            raise changed(relative)

    def put(self, scope: Scope, suffix: str, source: Path) -> LakeDraft:
        """Write a file of the local disk here; raises as :meth:`writing`."""
        with source.open("rb") as stream, self.writing(scope, suffix) as draft:
            while piece := stream.read(_PIECE):
                draft.write(piece)
        return draft

    def fetch(self, relative: str, sha256: str, target: Path, what: str) -> None:
        """Put a whole, checked copy of a file, named ``what`` in errors, in a place on the local disk; one at a time
        for each place: what a killed process left there is begun anew.

        Raises:
            CorruptionError: it is gone or was changed. StorageFullError: there is no room for it.
            UnavailableError, SetupError: the lake cannot be read.
        """
        partial = target.with_name(f"{target.name}.partial")
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with self.open(relative) as stream, room_needed(what), partial.open("wb") as copy:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(0)
                if shutil.disk_usage(target.parent).free < size + LEAST_FREE:
                    raise StorageFullError(
                        f"The disk has no room for the {what} ({size / 1e6:.0f} MB).",
                        where=str(target.parent),
                        next_step="Free disk space; files of models that are served no more may be deleted there.",
                    )
                shutil.copyfileobj(stream, copy, _PIECE)
            sync_file(partial)
            if file_sha256(partial) != sha256:
                raise changed(relative)
            partial.replace(target)
            sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)

    def reseal(self, relative: str) -> None:
        """Write a file anew under the codec's current key, in the place of the old one; its content stays. Raises
        ``CorruptionError`` when it is gone, or does not open."""
        tenant, environment = relative.split("/")[:2]
        suffix = PurePosixPath(relative).suffix
        with self.open(relative) as stream, self.writing(Scope(tenant, environment), suffix) as draft:
            while piece := stream.read(_PIECE):
                draft.write(piece)
