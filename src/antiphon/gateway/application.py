"""The gateway's application: every route and every layer is assembled here, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from antiphon.core.errors import AntiphonError
from antiphon.core.loop_lateness import count_lateness
from antiphon.gateway import dashboard, feedback, health, lookup, openapi, tokenizer
from antiphon.gateway.admin import (
    assets,
    audit,
    backfills,
    budgets,
    conversations,
    cost,
    datasets,
    documents,
    engines,
    evaluations,
    feature_watch,
    grants,
    history,
    incidents,
    keys,
    lineage,
    models,
    notifications,
    objectives,
    outcomes,
    playbooks,
    policies,
    precomputed,
    predictions,
    publications,
    releases,
    rollouts,
    schedules,
    status,
    tenants,
    views,
    watches,
    work,
    workbench,
)
from antiphon.gateway.denials import Denials
from antiphon.gateway.evidence import ReadingEvidence
from antiphon.gateway.http import incoming, problem
from antiphon.gateway.http.departure import CallerLeftError
from antiphon.gateway.http.incoming import Recognition
from antiphon.gateway.http.responses import ProtectiveHeaders
from antiphon.gateway.http.server_spans import ServerSpans
from antiphon.gateway.limits import PromptSizes
from antiphon.gateway.measurements import GatewayMetrics
from antiphon.gateway.openai import batches, embeddings, endpoints, files
from antiphon.gateway.openai.asking import CLIENT_CLOSED_REQUEST
from antiphon.gateway.openai.responses import stored
from antiphon.gateway.operation import Operation
from antiphon.gateway.services import GatewayServices

OPERATIONS: tuple[Operation, ...] = tuple(
    declared
    for module in (
        status, predictions, conversations, releases, rollouts, models, evaluations, datasets, outcomes, publications,
        assets, backfills, views, feature_watch, documents, work, history, objectives, notifications, incidents,
        playbooks, engines, precomputed, schedules, cost, budgets, lineage, keys, tenants, grants, policies, audit,
        workbench, files, batches, stored, watches,
    )
    for declared in vars(module).values()
    if isinstance(declared, Operation)
)  # fmt: skip


@cache
def _openapi_document() -> bytes:
    return msgspec.json.encode(openapi.document(OPERATIONS))


def create_app(services: GatewayServices, name: str = "gateway") -> Starlette:
    """The ASGI application over these services, in a process of this name."""
    measurements = GatewayMetrics(answers=services.generation.metrics)

    def refresh() -> None:
        measurements.watch_gate(services.generation.gate())
        measurements.watch_breakers(services.generation.breakers())
        health.watch_half_open(app)

    recorder = services.metric_history.recorder(measurements.registry, name, refresh)
    denials = Denials(services)
    document = _openapi_document()

    async def openapi_json(request: Request) -> Response:
        return Response(document, media_type="application/json")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        stopped = asyncio.Event()
        probing = services.generation.answerer.probe_until_cancelled()
        background = denials.run(), count_lateness(measurements.late.inc), probing
        recording = asyncio.create_task(recorder.run_until(stopped))
        others = [asyncio.create_task(one) for one in background]
        try:
            yield
        finally:
            stopped.set()
            for one in others:
                one.cancel()
            await asyncio.gather(recording, *others, return_exceptions=True)

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", endpoints.chat_completions, methods=["POST"]),
            Route("/v1/completions", endpoints.completions, methods=["POST"]),
            Route("/v1/responses", endpoints.responses, methods=["POST"]),
            Route("/v1/embeddings", embeddings.embeddings, methods=["POST"]),
            Route("/v1/features/lookup", lookup.lookup, methods=["POST"]),
            Route("/v1/feedback", feedback.feedback, methods=["POST"]),
            Route("/v1/files", files.create, methods=["POST"]),
            Route("/v1/files/{file}/content", files.content, methods=["GET"]),
            Route("/v1/models", endpoints.models, methods=["GET"]),
            Route("/v1/models/{model:path}", endpoints.models, methods=["GET"]),
            Route("/tokenize", tokenizer.tokenize, methods=["POST"]),
            Route("/detokenize", tokenizer.detokenize, methods=["POST"]),
            Route("/tokenizer_info", tokenizer.tokenizer_info, methods=["GET"]),
            Route("/healthz", health.healthz, methods=["GET"]),
            Route("/readyz", health.readyz, methods=["GET"]),
            Route("/metrics", health.metrics, methods=["GET"]),
            Route("/openapi.json", openapi_json, methods=["GET"]),
            *(operation.route() for operation in OPERATIONS),
            *dashboard.routes(),
        ],
        exception_handlers={
            AntiphonError: _refused,
            HTTPException: _no_route,
            ClientDisconnect: _caller_left,
            CallerLeftError: _caller_left,
            Exception: problem.on_unexpected,
        },
        middleware=[
            Middleware(ServerSpans),
            Middleware(incoming.BodyRelease),
            Middleware(ProtectiveHeaders),
            Middleware(ReadingEvidence, services=services),
        ],
        lifespan=lifespan,
    )
    app.state.services = services
    app.state.measurements = measurements
    app.state.sizes = PromptSizes()
    app.state.recognition = Recognition()
    app.state.denials = denials
    app.state.pages = dashboard.Pages(services)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    denials: Denials = request.app.state.denials
    await denials.record(request, error)
    named = getattr(request.state, "request_id", None)
    return problem.response(error, None if named is None else {"x-request-id": named})


async def _no_route(request: Request, error: Any) -> Response:
    if error.status_code == HTTPStatus.NOT_FOUND:
        denials: Denials = request.app.state.denials
        denials.count_unknown(request)
    return await problem.on_http_error(request, error)


async def _caller_left(request: Request, error: Any) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)
