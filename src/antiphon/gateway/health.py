"""Liveness, readiness, metrics: for supervisors, load balancers and Prometheus.

The first two need no key and name the platform's own parts alone. Metrics name applications and views: who may read
them is a setting.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.errors import AntiphonError, NotFoundError
from antiphon.gateway.http import incoming
from antiphon.gateway.http.responses import JsonResponse
from antiphon.gateway.http.transport_security import TransportSecurity
from antiphon.gateway.measurements import GatewayMetrics
from antiphon.gateway.services import GatewayServices


class Health(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str = "ok"


class Readiness(msgspec.Struct, frozen=True):
    """Part to what is wrong with it, ``null`` is fine; and what ought to be seen to although it serves."""

    ready: bool
    parts: dict[str, str | None]
    notices: dict[str, str] = {}


async def healthz(request: Request) -> Response:
    """``GET /healthz``: 200 as long as the process answers."""
    return JsonResponse(Health())


async def readyz(request: Request) -> Response:
    """``GET /readyz``: 200 when questions can be answered, 503 with the reasons otherwise."""
    services: GatewayServices = request.app.state.services
    parts = dict(await services.health.ready())
    notices: dict[str, str] = {}
    with suppress(AntiphonError):  # What does not answer is told by its own part.
        notices |= await asyncio.to_thread(services.health.notices)
    transport: TransportSecurity | None = getattr(request.app.state, "transport", None)
    if transport is not None:
        parts["certificate"] = transport.part()
        if (notice := transport.notice()) is not None:
            notices["certificate"] = notice
    ready = all(wrong is None for wrong in parts.values())
    return JsonResponse(Readiness(ready, parts, notices), 200 if ready else 503)


async def metrics(request: Request) -> Response:
    """``GET /metrics``: Prometheus' text format; whom it is open to, ``[gateway] metrics`` says.

    Raises:
        NotFoundError: to nobody. UnauthenticatedError, ForbiddenError: to a key that may read the platform's state.
    """
    measurements: GatewayMetrics = request.app.state.measurements
    services: GatewayServices = request.app.state.services
    if services.settings.metrics == "off":
        raise NotFoundError("There is nothing at this path.", next_step='[gateway] metrics = "off" in antiphon.toml.')
    if services.settings.metrics == "key":
        principal = await incoming.principal(request, services)
        await run_in_threadpool(services.access.authorize, principal, "read", "platform/*")
    await look(request.app)
    return Response(measurements.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def watch_half_open(app: Starlette) -> None:
    """Take over how many connections send no complete head, of an application whose server listens itself."""
    if (connections := getattr(app.state, "connections", None)) is not None:
        app.state.measurements.half_open.set(connections.half_open)


async def look(app: Starlette) -> None:
    """Bring up to date those metrics of an application of :func:`create_app` that are only looked at now and then."""
    measurements: GatewayMetrics = app.state.measurements
    services: GatewayServices = app.state.services
    measurements.watch_connections(*services.health.connections())
    watch_half_open(app)
    measurements.watch_gate(services.generation.gate())
    scope = services.settings.scope
    measurements.watch(await asyncio.to_thread(services.features.streams.status, scope))
    measurements.watch_breakers(services.generation.breakers())
    with suppress(AntiphonError):  # What was known stays known while the catalog is away.
        found = await asyncio.to_thread(services.features.skew.latest_by_view, scope)
        measurements.watch_skew(found.values())
        counts = await asyncio.to_thread(services.work.batches.records.counts, scope)
        measurements.watch_batches(counts, await asyncio.to_thread(services.work.files.records.used, scope))
