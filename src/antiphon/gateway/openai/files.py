"""``/v1/files``: takes files in as they arrive, lists, shows, sends and deletes them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, BinaryIO, Literal, TypeVar
from urllib.parse import quote

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from antiphon.catalog.batch.files import StoredFile
from antiphon.core.errors import InvalidInputError, UnsatisfiableRangeError
from antiphon.gateway.http import incoming, multipart
from antiphon.gateway.http.responses import JsonResponse
from antiphon.gateway.operation import OperationCall, operation
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Action, Resource

P = TypeVar("P")

_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")
_PIECE = 1 << 18


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


def page_of(page: Callable[..., P], found: Sequence[Any], limit: int) -> P:
    """A page of the first ``limit`` of what was found; the rest says that there is more."""
    shown = tuple(found[:limit])
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return page(data=shown, first_id=first, last_id=last, has_more=len(found) > limit)


def file_object(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.size,
        created_at=int(file.created_at.timestamp()),
        expires_at=None if file.expires_at is None else int(file.expires_at.timestamp()),
        filename=file.filename,
        purpose=file.purpose,
    )


async def create(request: Request) -> Response:
    """``POST /v1/files``."""
    services, principal = await _permitted(request, "batch", "file/*")
    originator = incoming.originating_user(request, principal)
    begin = services.work.files.begin
    upload = await run_in_threadpool(begin, services.scope(principal), principal.id, originator)
    try:
        form = await multipart.read(request, "file", upload.write)
        if form.filename is None:
            raise InvalidInputError("There is no file.", where="file", next_step="Send it as the field 'file'.")
        incoming.refuse_unknown(form.fields, _FIELDS)
        if "purpose" not in form.fields:
            raise InvalidInputError("There is no purpose.", where="purpose", next_step="Send purpose=batch.")
        seconds = _expires_after(form.fields)
        kept = await run_in_threadpool(upload.keep, form.fields["purpose"], form.filename, seconds)
    finally:
        # Also when the client is gone and this task is being cancelled.
        await asyncio.shield(run_in_threadpool(upload.abandon))
    return JsonResponse(file_object(kept))


@operation("GET", "/v1/files", "Files, newest first.", "read")
def _file_list(call: OperationCall, query: FileQuery) -> FileList:
    if query.purpose not in (None, "batch", "batch_output"):
        return page_of(FileList, (), query.limit)
    purpose: Any = query.purpose
    found = call.services.work.files.records.list(
        call.scope, after=query.after, limit=query.limit + 1, order=query.order, purpose=purpose
    )
    return page_of(FileList, [file_object(file) for file in found], query.limit)


@operation("GET", "/v1/files/{file}", "One file.", "read")
def _file_retrieve(call: OperationCall) -> FileObject:
    return file_object(call.services.work.files.records.get(call.scope, call.path["file"]))


@operation("DELETE", "/v1/files/{file}", "Remove a file and its content.", "batch")
def _file_delete(call: OperationCall) -> FileDeletion:
    files, file, who = call.services.work.files, call.path["file"], call.principal
    author = files.records.get(call.scope, file).principal
    call.services.access.authorize(who, "batch", Resource("file", file, who.tenant, author=author))
    files.delete(call.scope, file, who.id, call.originator)
    return FileDeletion(id=file)


async def content(request: Request) -> Response:
    """``GET /v1/files/ID/content``, or one range of its bytes."""
    file = request.path_params["file"]
    services, principal = await _permitted(request, "read", f"file/{file}")
    found = await run_in_threadpool(services.work.files.records.get, services.scope(principal), file)
    await run_in_threadpool(services.access.records.require_file, services.scope(principal), principal, found)
    span = _range(request.headers.get("range"), found.size)
    first, end = span or (0, found.size)
    headers = {
        "accept-ranges": "bytes",
        "content-length": str(end - first),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(found.filename)}",
    }
    if span is not None:
        headers["content-range"] = f"bytes {first}-{end - 1}/{found.size}"
    stream = await run_in_threadpool(services.work.files.open, found)
    return StreamingResponse(
        _pieces(stream, first, end), 206 if span else 200, headers, media_type="application/octet-stream"
    )


async def _permitted(request: Request, action: Action, resource: str) -> tuple[GatewayServices, Principal]:
    """Authenticates and authorizes a request.

    Raises:
        UnauthenticatedError, ForbiddenError, UnavailableError.
    """
    services: GatewayServices = request.app.state.services
    principal = await incoming.principal(request, services)
    await run_in_threadpool(services.access.authorize, principal, action, resource)
    return services, principal


async def _pieces(stream: BinaryIO, first: int, end: int) -> AsyncIterator[bytes]:
    try:
        await run_in_threadpool(stream.seek, first)
        while first < end and (piece := await run_in_threadpool(stream.read, min(_PIECE, end - first))):
            first += len(piece)
            yield piece
    finally:
        stream.close()


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; ``None`` for the whole (RFC 9110, 14.2: what is not understood is)."""
    match = _RANGE.match(header or "")
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        first, end = max(0, size - int(match[2])), size
    else:
        first, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < int(match[1]):
            return None
    if first >= end:
        raise UnsatisfiableRangeError(
            f"The file has {size} bytes.", where="range", next_step="Ask for bytes that lie within it."
        )
    return first, end


def _expires_after(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidInputError(
            "`expires_after[anchor]` is not 'created_at'.", where="expires_after[anchor]", next_step="Send created_at."
        )
    if seconds is None or not (seconds.isascii() and seconds.isdigit() and len(seconds) < 12):
        raise InvalidInputError(
            "`expires_after[seconds]` is no whole number.", where="expires_after[seconds]", next_step="Send seconds."
        )
    return int(seconds)
