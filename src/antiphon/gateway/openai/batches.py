"""``/v1/batches``: orders batches of requests, shows and cancels them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.batch.request_batches import BatchOrder
from antiphon.catalog.batches import Batch
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.gateway import incoming
from antiphon.gateway.openai.batch_shapes import BatchCreate, BatchObject, BatchPage, BatchQuery, batch_object
from antiphon.gateway.openai.file_shapes import ends_of
from antiphon.gateway.openai.files import permitted
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Resource


async def create(request: Request) -> Response:
    """``POST /v1/batches``."""
    services, principal = await permitted(request, "batch", "job/*")
    body = incoming.typed(
        incoming.json_object(await incoming.body(request, services.settings.gateway.max_body_bytes)), BatchCreate
    )
    order = BatchOrder(
        input_file_id=body.input_file_id,
        endpoint=body.endpoint,
        completion_window=body.completion_window,
        metadata=body.metadata,
        output_seconds=None if body.output_expires_after is None else body.output_expires_after.seconds,
        accept_late=body.accept_late,
    )
    originator = incoming.originating_user(request, principal)
    await run_in_threadpool(_require_input, services, principal, order.input_file_id)
    made = await run_in_threadpool(
        services.work.batches.create, services.scope(principal), principal, order, originator
    )
    return _json(batch_object(made))


async def list_batches(request: Request) -> Response:
    """``GET /v1/batches``."""
    services, principal = await permitted(request, "read", "job/*")
    query = incoming.typed(incoming.query(request), BatchQuery, from_text=True)

    def page() -> BatchPage:
        found = services.work.batches.records.list(services.scope(principal), after=query.after, limit=query.limit + 1)
        shown = _shown(services, services.scope(principal), found[: query.limit])
        return BatchPage(data=shown, **ends_of([one.id for one in shown]), has_more=len(found) > query.limit)

    return _json(await run_in_threadpool(page))


async def retrieve(request: Request) -> Response:
    """``GET /v1/batches/ID``."""
    batch = request.path_params["batch"]
    services, principal = await permitted(request, "read", f"job/{batch}")
    scope = services.scope(principal)
    return _json(
        await run_in_threadpool(lambda: _shown(services, scope, [services.work.batches.records.get(scope, batch)])[0])
    )


async def cancel(request: Request) -> Response:
    """``POST /v1/batches/ID/cancel``."""
    batch = request.path_params["batch"]
    services, principal = await permitted(request, "batch", f"job/{batch}")
    found = await run_in_threadpool(services.work.batches.records.get, services.scope(principal), batch)
    owned = Resource("job", batch, principal.tenant, author=found.job.principal)
    await run_in_threadpool(services.access.authorize, principal, "batch", owned)
    originator = incoming.originating_user(request, principal)
    stop = services.work.batches.cancel
    return _json(
        batch_object(await run_in_threadpool(stop, services.scope(principal), batch, principal.id, originator))
    )


def _require_input(services: GatewayServices, principal: Principal, file: str) -> None:
    """A batch shows its input in what comes of it: whoever orders one may read the file."""
    scope = services.scope(principal)
    with suppress(NotFoundError):  # which is said of the field that names it
        services.access.records.require_file(scope, principal, services.work.files.records.get(scope, file))


def _shown(services: GatewayServices, scope: Scope, found: Sequence[Batch]) -> tuple[BatchObject, ...]:
    """Batches with their estimates."""
    estimates = services.work.tables.estimates(scope, [batch.id for batch in found if not batch.ended])
    return tuple(batch_object(batch, estimates.get(batch.id)) for batch in found)


def _json(value: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
