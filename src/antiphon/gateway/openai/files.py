"""``/v1/files``: takes files in as they arrive, lists, shows, sends and deletes them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import BinaryIO
from urllib.parse import quote

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from antiphon.core.errors import InvalidInputError, UnsatisfiableRangeError
from antiphon.gateway import incoming, multipart
from antiphon.gateway.openai.file_shapes import FileDeletion, FileList, FileQuery, ends_of, file_object
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Action, Resource

_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")
_PIECE = 1 << 18


async def create(request: Request) -> Response:
    """``POST /v1/files``."""
    services, principal = await permitted(request, "batch", "file/*")
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
    return _json(file_object(kept))


async def list_files(request: Request) -> Response:
    """``GET /v1/files``."""
    services, principal = await permitted(request, "read", "file/*")
    query = incoming.typed(incoming.query(request), FileQuery, from_text=True)
    if query.purpose not in (None, "batch", "batch_output"):
        return _json(FileList(data=(), first_id=None, last_id=None, has_more=False))

    def page() -> FileList:
        found = services.work.files.records.list(
            services.scope(principal),
            after=query.after,
            limit=query.limit + 1,
            order=query.order,
            purpose=query.purpose,  # type: ignore[arg-type]
        )
        shown = tuple(file_object(file) for file in found[: query.limit])
        return FileList(data=shown, **ends_of([one.id for one in shown]), has_more=len(found) > query.limit)

    return _json(await run_in_threadpool(page))


async def retrieve(request: Request) -> Response:
    """``GET /v1/files/ID``."""
    file = request.path_params["file"]
    services, principal = await permitted(request, "read", f"file/{file}")
    return _json(file_object(await run_in_threadpool(services.work.files.records.get, services.scope(principal), file)))


async def delete(request: Request) -> Response:
    """``DELETE /v1/files/ID``."""
    file = request.path_params["file"]
    services, principal = await permitted(request, "batch", f"file/{file}")
    found = await run_in_threadpool(services.work.files.records.get, services.scope(principal), file)
    owned = Resource("file", file, principal.tenant, author=found.principal)
    await run_in_threadpool(services.access.authorize, principal, "batch", owned)
    originator = incoming.originating_user(request, principal)
    await run_in_threadpool(services.work.files.delete, services.scope(principal), file, principal.id, originator)
    return _json(FileDeletion(id=file))


async def content(request: Request) -> Response:
    """``GET /v1/files/ID/content``, or one range of its bytes."""
    file = request.path_params["file"]
    services, principal = await permitted(request, "read", f"file/{file}")
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


async def permitted(request: Request, action: Action, resource: str) -> tuple[GatewayServices, Principal]:
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


def _json(value: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
