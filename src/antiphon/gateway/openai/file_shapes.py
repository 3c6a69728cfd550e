"""Files as OpenAI's API shows and asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

import msgspec

from antiphon.catalog.files import StoredFile


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """A file. Times are seconds since 1970."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of files; ``last_id`` is the ``after`` of the next."""

    object: Literal["list"] = "list"
    data: tuple[FileObject, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeletion(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FileQuery(msgspec.Struct, frozen=True):
    """Selects files: those after a file, the latest first by default, of one purpose, so many at most."""

    after: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


class Ends(TypedDict):
    """The first and last of a page."""

    first_id: str | None
    last_id: str | None


def ends_of(ids: Sequence[str]) -> Ends:
    """Returns the first and last ids of a page of a list."""
    return {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}


def file_object(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.size,
        created_at=int(file.created_at.timestamp()),
        expires_at=None if file.expires_at is None else int(file.expires_at.timestamp()),
        filename=file.filename,
        purpose=file.purpose,
    )
