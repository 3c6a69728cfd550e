"""One typed operation of ``/admin``, or of the files and batches of ``/v1``: its route, its shapes and its permission,
from which OpenAPI is made too.

:func:`operation` declares one on the function that carries it out, whose annotations are the shapes.

The runner is the same for all: authenticate, authorize, read strictly, call in a thread (stores are synchronous)
or await, keep evidence of a change, encode.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from antiphon.core.errors import ForbiddenError
from antiphon.core.scope import Scope
from antiphon.gateway.http import incoming
from antiphon.gateway.http.departure import while_connected
from antiphon.gateway.http.responses import JsonResponse
from antiphon.gateway.measurements import GatewayMetrics
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Action
from antiphon.releases.feed import MEDIA_TYPE

KINDS = {
    "assets": "platform",
    "assets-parts": "platform",
    "backfills": "view",
    "backfills-outlook": "view",
    "batch": "job",
    "batch-outlook": "job",
    "batches": "job",
    "budgets": "platform",
    "conversations": "prediction",
    "cost": "platform",
    "cost-forecast": "platform",
    "engines": "process",
    "events": "stream",
    "features": "view",
    "lineage": "platform",
    "lineage-events": "platform",
    "outcomes": "application",
    "policies": "policy",
    "precomputed": "application",
    "responses": "prediction",
    "runs-plan": "run",
    "schedules-forecast": "schedule",
    "status": "platform",
    "train": "application",
}
"""The noun of a path to the kind of resource that policy knows, where that is not the noun's singular."""


class EmptyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query and no body."""


class HtmlPage(Response):
    """A whole page that stands by itself, for nobody to frame.

    Args:
        policy: the content security policy to serve it under.
    """

    media_type = "text/html"

    def __init__(self, html: str, policy: str) -> None:
        policy = f"{policy}; frame-ancestors 'none'"
        super().__init__(html, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})


class AtomFeed(Response):
    """An Atom feed."""

    media_type = MEDIA_TYPE


@dataclass(frozen=True)
class OperationCall:
    """One call of an operation: who (and on whose behalf), and where."""

    services: GatewayServices
    measurements: GatewayMetrics
    principal: Principal
    scope: Scope
    path: dict[str, str]
    originator: str | None = None

    def may(self, action: Action, resource: str) -> bool:
        """Tells whether policy lets the principal do this to a ``kind/name``."""
        try:
            self.services.access.authorize(self.principal, action, resource)
        except ForbiddenError:
            return False
        return True


class Operation(msgspec.Struct, frozen=True):
    """One method of a path; see :func:`operation`.

    Attributes:
        answer: the type of the JSON body, :class:`HtmlPage` or :class:`AtomFeed`.
        query, body: structs; unknown fields are refused by name.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    summary: str
    action: Action | None
    run: Callable[..., Any]
    answer: Any
    query: type[msgspec.Struct] | None
    body: type[msgspec.Struct] | None
    changes: bool
    status: int

    @property
    def name(self) -> str:
        """Unique, for OpenAPI: the function's name, in ``/admin`` after its noun."""
        function = self.run.__name__.strip("_")
        return f"{self._noun.replace('-', '_')}_{function}" if self.path.startswith("/admin/") else function

    @property
    def _noun(self) -> str:
        return self.path.split("/")[2]

    def route(self) -> Route:
        return Route(self.path, self._endpoint, methods=[self.method], name=self.name)

    async def _endpoint(self, request: Request) -> Response:
        services: GatewayServices = request.app.state.services
        request.app.state.measurements.operations.inc()
        principal = await incoming.principal(request, services)
        if self.action is not None:
            await run_in_threadpool(services.access.authorize, principal, self.action, self._resource(request))
        call = OperationCall(
            services=services,
            measurements=request.app.state.measurements,
            principal=principal,
            originator=incoming.originating_user(request, principal),
            scope=services.scope(principal),
            path={name: str(value) for name, value in request.path_params.items()},
        )
        query = incoming.typed(incoming.query(request), self.query or EmptyBody, from_text=True)
        content = await incoming.body(request, services.settings.gateway.max_body_bytes)
        shapes = {} if self.query is None else {"query": query}
        if self.body is not None:
            shapes["body"] = incoming.typed(incoming.json_object(content), self.body)
        if inspect.iscoroutinefunction(self.run):
            async with while_connected(request.receive):
                answer = await self.run(call, **shapes)
        else:
            answer = await run_in_threadpool(self.run, call, **shapes)
        if self.changes:
            detail = msgspec.to_builtins(shapes.get("body", {}))
            await run_in_threadpool(
                services.access.audit, call.scope, principal.id, self.name, request.url.path, _brief(detail),
                originator=call.originator,
            )  # fmt: skip
        return answer if isinstance(answer, HtmlPage | AtomFeed) else JsonResponse(answer, self.status)

    def _resource(self, request: Request) -> str:
        kind = KINDS.get(self._noun) or self._noun.removesuffix("s")
        return f"{kind}/{next(iter(request.path_params.values()), '*')}"


def operation(
    method: Literal["GET", "POST", "DELETE"],
    path: str,
    summary: str,
    action: Action | None,
    *,
    changes: bool = False,
    status: int = 200,
) -> Callable[[Callable[..., Any]], Operation]:
    """Declares a function as an operation.

    It takes an :class:`OperationCall`, and where it has parameters of these names the ``query`` and the ``body``, read
    strictly as its annotations say; what it returns is the answer. A plain function runs in a thread, a coroutine until
    its caller leaves.

    Args:
        action: what policy is asked for; ``None``: the function asks, as it takes what the resource is to know.
        changes: the runner writes it to the audit log.
    """

    def declare(run: Callable[..., Any]) -> Operation:
        kinds = get_type_hints(run)
        query, body = kinds.get("query"), kinds.get("body")
        return Operation(method, path, summary, action, run, kinds["return"], query, body, changes, status)

    return declare


def _brief(detail: dict[str, Any]) -> dict[str, Any]:
    """Evidence of a change holds what was asked, not the rows or events themselves, nor the caller's key for it."""
    return {
        name: f"{len(value)} items" if isinstance(value, list | tuple) and len(value) > 3 else value
        for name, value in detail.items()
        if name != "key"
    }
