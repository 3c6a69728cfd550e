"""Documents of a source: the files of a folder or objects of a store, or the rows of a table, each with its id.

Invariants: nothing outside of the declared folder is read, whatever links point to; only regular files are opened, and
none larger than :data:`LARGEST`. One id is one document: two that would have the same one are both refused.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec

from antiphon.core.errors import SetupError
from antiphon.definitions.objects import ObjectPath, is_objects
from antiphon.definitions.source import SourceSpec, local_paths
from antiphon.features.documents.formats import SUFFIXES
from antiphon.features.sources.stored_objects import StoredObject, fetch, listed

LARGEST = 32 << 20
"""Most bytes of a document's file."""
MOST_DOCUMENTS = 100_000
"""Most documents of one source."""


_NAMED = 5


class RawDocument(msgspec.Struct, frozen=True):
    """A document before it is parsed: its id, and its bytes or the reason why it is not read."""

    id: str
    content: bytes = b""
    error: str | None = None

    @property
    def digest(self) -> bytes:
        """SHA-256 of id, content and reason."""
        whole = hashlib.sha256(self.content).digest()
        return hashlib.sha256(repr((self.id, self.error)).encode() + whole).digest()


def document_files(path: str) -> list[Path]:
    """The files of a folder and its subfolders, or of a pattern, that may be documents, in order; raises ``SetupError``
    when there is none."""
    files = sorted(file for file in _files(path) if file.suffix.lower() in SUFFIXES)
    if not files:
        raise SetupError(
            f"There is no document in {Path(path).name}.",
            where="documents",
            next_step=f"Put text, Markdown, HTML or PDF files into {path}, or correct the path.",
        )
    return files


def described_path(path: str) -> str:
    """A path in words, with the number of files in it that are of other formats."""
    if is_objects(path):
        return path
    others = Counter(file.suffix.lower() or "no suffix" for file in _files(path))
    for suffix in SUFFIXES:
        del others[suffix]
    if not others:
        return path
    return f"{path}, where {others.total()} file(s) are of other formats ({', '.join(sorted(others)[:_NAMED])})"


def _files(path: str) -> list[Path]:
    found: list[Path] = []
    for place in local_paths(path):
        if not place.is_dir():
            found.append(place)
            continue
        for folder, folders, names in os.walk(place):
            folders[:] = sorted(one for one in folders if not one.startswith("."))
            found += [Path(folder, name) for name in names if not name.startswith(".")]
    return found


def raw_documents(source: SourceSpec) -> Iterator[RawDocument]:
    """The documents of a path, in the order of their ids, one in memory at a time.

    Raises:
        SetupError: there is none, or the store refuses access.
        UnavailableError: the store does not answer, or an object changed while it was fetched.
    """
    assert source.path is not None
    if is_objects(source.path):
        yield from _objects(source)
        return
    files = document_files(source.path)
    root = _root(source.path)
    ids = [unicodedata.normalize("NFC", file.relative_to(root).as_posix()) for file in files]
    twice = repeated(ids)
    for id, file in sorted(zip(ids, files, strict=True)):
        if id in twice:
            yield RawDocument(id, error="two documents have this id")
            continue
        yield read_file(id, file, root)


def repeated(ids: list[str]) -> set[str]:
    """The ids that more than one document has."""
    return {id for id, count in Counter(ids).items() if count > 1}


def _root(path: str) -> Path:
    """The folder that ids are relative to, and that links may not leave: the path's part without a pattern."""
    if Path(path).is_dir():
        return Path(path)
    fixed = Path(path).parts
    for place, part in enumerate(fixed):
        if any(sign in part for sign in "*?["):
            return Path(*fixed[:place])
    return Path(path).parent


def read_file(id: str, file: Path, root: Path) -> RawDocument:
    """The bytes of a file within ``root``, or the reason why it is not read."""
    try:
        target = file.resolve(strict=True)
        if not target.is_relative_to(root.resolve(strict=True)):
            return RawDocument(id, error="it links to a file outside of the folder")
        # Not through a link that is put there meanwhile, and without waiting for a pipe's other end.
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                return RawDocument(id, error="it is no file")
            if found.st_size > LARGEST:
                return RawDocument(id, error=_too_large(found.st_size))
            content = stream.read(LARGEST + 1)
    except OSError as error:
        return RawDocument(id, error=f"it cannot be opened: {error.strerror}")
    return RawDocument(id, error=_too_large(len(content))) if len(content) > LARGEST else RawDocument(id, content)


def _objects(source: SourceSpec) -> Iterator[RawDocument]:
    path = ObjectPath.of(source.path or "")
    prefix = re.split(r"[*?[]", path.pattern)[0].rpartition("/")[0]
    objects = [one for one in listed(source) if PurePosixPath(one.key).suffix.lower() in SUFFIXES]
    if not objects:
        raise SetupError(
            "There is no document in the store.",
            where=f"source {source.name}",
            next_step=f"Put text, Markdown, HTML or PDF files at {path}, or correct the path.",
        )
    for one in objects:
        id = one.key.removeprefix(f"{prefix}/" if prefix else "")
        if one.size > LARGEST:
            yield RawDocument(id, error=_too_large(one.size))
            continue
        held = io.BytesIO()
        fetch(source, [one], partial(_into, held))
        yield RawDocument(id, held.getvalue())


def _into(held: BinaryIO, stored: StoredObject) -> AbstractContextManager[BinaryIO]:
    return nullcontext(held)


def _too_large(size: int) -> str:
    return f"it has {size / 2**20:.0f} MiB, and a document may have {LARGEST >> 20}"
