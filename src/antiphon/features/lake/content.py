"""What a file of a lake is, wherever it lies: its name, the place it is sealed for, and the check against its hash."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from antiphon.core.codec import PayloadContext
from antiphon.core.errors import Corrupt
from antiphon.core.scope import Scope
from antiphon.governance.sealed_files import SealedSink

_SCHEMA = "lake/1"
_PIECE = 2**20


class LakeDraft(SealedSink):
    """A file of the lake being written: a binary file for a Parquet writer, and what it is once it is kept."""

    path = ""
    sha256 = ""
    size = 0

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


def missing(relative: str) -> Corrupt:
    """The error for a file that is gone."""
    return Corrupt(f"The lake has no file {relative}.", where="lake", next_step="Materialise the view again.")


def changed(relative: str) -> Corrupt:
    """The error for a file that is not what its name says."""
    return Corrupt(f"The lake's file {relative} changed.", where="lake", next_step="Materialise the view again.")


def require_content(stream: BinaryIO, relative: str, sha256: str) -> None:
    """Read a file to its end and compare.

    Raises:
        Corrupt: it changed.
    """
    digest = hashlib.sha256()
    while piece := stream.read(_PIECE):
        digest.update(piece)
    if digest.hexdigest() != sha256:
        raise changed(relative)
