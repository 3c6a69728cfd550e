"""What a lake and its files are, wherever they lie: names, the place a file is sealed for, and its check by hash."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from antiphon.core.codec import Codec, PayloadContext, PlainCodec
from antiphon.core.disk import room_needed
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope
from antiphon.features.lake.scratch import Scratch
from antiphon.governance.sealed_files import SealedSink

_SCHEMA = "lake/1"
_PIECE = 2**20


class LakeDraft(SealedSink):
    """A file of the lake being written: a binary file for a Parquet writer, and what it is once it is kept."""

    path = ""
    sha256 = ""
    size = 0

    def write(self, content: Any) -> int:
        """Write a piece. Whoever writes piece by piece is told of a full disk here, outside the block of the file.

        Raises:
            StorageFullError: the disk is full.
        """
        with room_needed("lake"):
            return super().write(content)

    def ended(self, scope: Scope, suffix: str) -> None:
        """Seal what was written for the place that its hash gives; ``path`` and ``sha256`` are known from now on."""
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
    return CorruptionError(f"The lake has no file {relative}.", where="lake", next_step="Materialise the view again.")


def changed(relative: str) -> CorruptionError:
    """The error for a file that is not what its name says."""
    return CorruptionError(
        f"The lake's file {relative} changed.", where="lake", next_step="Materialise the view again."
    )


class ContentLake(ABC):
    """What every lake does alike, given how a file is written and opened.

    Args:
        scratch: a folder on the local disk for what is being written.
        codec: seals files; by default they are stored as they are.
    """

    def __init__(self, scratch: Path, codec: Codec | None = None) -> None:
        self._scratch = Scratch(scratch)
        self._codec: Codec = codec or PlainCodec()

    @abstractmethod
    def writing(self, scope: Scope, suffix: str) -> AbstractContextManager[LakeDraft]:
        """A new file; when the block ends it is in place, and the draft tells its path below the root, the SHA-256 of
        its clear content and its stored size. A block that raises leaves nothing.
        """

    @abstractmethod
    def open(self, relative: str) -> BinaryIO:
        """The clear content of a file, for reading at any position.

        Raises:
            CorruptionError: it is gone, or was changed or moved from another place.
        """

    @property
    def sealed(self) -> bool:
        """Whether nothing clear of what is read or written here may reach a disk."""
        return self._codec.sealing

    def scratch(self) -> Path:
        """A new empty folder on the local disk. What is written there is not sealed."""
        return self._scratch.folder()

    def verify(self, relative: str, sha256: str) -> None:
        """Check a file's content against its hash.

        Raises:
            CorruptionError: it is gone or changed.
        """
        digest = hashlib.sha256()
        with self.open(relative) as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
        if digest.hexdigest() != sha256:
            raise changed(relative)

    def reseal(self, relative: str) -> None:
        """Write a file anew under the codec's current key, in the place of the old one; its content stays.

        Raises:
            CorruptionError: it is gone, or does not open.
        """
        tenant, environment = relative.split("/")[:2]
        suffix = PurePosixPath(relative).suffix
        with self.open(relative) as stream, self.writing(Scope(tenant, environment), suffix) as draft:
            while piece := stream.read(_PIECE):
                draft.write(piece)
