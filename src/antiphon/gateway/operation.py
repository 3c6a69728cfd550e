"""One typed operation of ``/admin``: its route, its shapes and its permission, from which OpenAPI is made too.

The runner is the same for all: authenticate, authorize, read strictly, call in a thread (stores are synchronous)
or await, keep evidence of a change, encode.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from antiphon.core.scope import Scope
from antiphon.gateway import incoming
from antiphon.gateway.departure import while_connected
from antiphon.gateway.measurements import GatewayMetrics
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Action

KINDS = {
    "audit": "audit",
    "batch": "job",
    "batch-outlook": "job",
    "datasets": "dataset",
    "evaluations": "evaluation",
    "events": "stream",
    "features": "view",
    "keys": "key",
    "models": "model",
    "outcomes": "application",
    "policies": "policy",
    "predictions": "prediction",
    "publications": "publication",
    "releases": "release",
    "rollouts": "rollout",
    "runs": "run",
    "status": "platform",
    "streams": "stream",
    "train": "application",
}
"""The noun of a path to the kind of resource that policy knows."""


class EmptyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query and no body."""


class HtmlPage(msgspec.Struct, frozen=True):
    """A whole page that stands by itself, and the content security policy to serve it under."""

    html: str
    policy: str


def page_response(page: HtmlPage) -> Response:
    """The page, for nobody to keep or to frame."""
    headers = {
        "content-security-policy": f"{page.policy}; frame-ancestors 'none'",
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return Response(page.html, headers=headers, media_type="text/html")


@dataclass(frozen=True)
class OperationCall:
    """One call of an operation: who (and on whose behalf), where, with what."""

    services: GatewayServices
    measurements: GatewayMetrics
    principal: Principal
    scope: Scope
    path: dict[str, str]
    query: Any
    body: Any
    originator: str | None = None


class Operation(msgspec.Struct, frozen=True):
    """A row of the admin interface.

    Attributes:
        action: what policy is asked for; ``None``: ``run`` asks, as it takes what the resource is to know.
        changes: the runner writes it to the audit log.
        answer: the type of the JSON body; with ``page`` it is a page of HTML under the policy that ``run`` gives
            with it (see :class:`HtmlPage`).
        query, body: structs; unknown fields are refused by name.
        run: takes a :class:`OperationCall`; a plain function runs in a thread, a coroutine until its caller leaves.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    summary: str
    action: Action | None
    answer: Any
    run: Callable[[OperationCall], Any]
    query: type[msgspec.Struct] = EmptyBody
    body: type[msgspec.Struct] | None = None
    changes: bool = False
    status: int = 200
    page: bool = False

    @property
    def name(self) -> str:
        """Unique, for OpenAPI: the function's name and its noun."""
        noun = self.path.removeprefix("/admin/").split("/")[0].replace("-", "_")
        return f"{noun}_{self.run.__name__.strip('_')}"

    def route(self) -> Route:
        return Route(self.path, self._endpoint, methods=[self.method], name=self.name)

    async def _endpoint(self, request: Request) -> Response:
        services: GatewayServices = request.app.state.services
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
            query=incoming.typed(incoming.query(request), self.query, from_text=True),
            body=await self._body(request, services),
        )
        if inspect.iscoroutinefunction(self.run):
            async with while_connected(request.receive):
                answer = await self.run(call)
        else:
            answer = await run_in_threadpool(self.run, call)
        if self.changes:
            detail = {} if call.body is None else msgspec.to_builtins(call.body)
            await run_in_threadpool(
                services.access.audit, call.scope, principal.id, self.name, request.url.path, _brief(detail),
                originator=call.originator,
            )  # fmt: skip
        if self.page:
            return page_response(answer)
        return Response(msgspec.json.encode(answer), self.status, media_type="application/json")

    def _resource(self, request: Request) -> str:
        noun = self.path.removeprefix("/admin/").split("/")[0]
        return f"{KINDS[noun]}/{next(iter(request.path_params.values()), '*')}"

    async def _body(self, request: Request, services: GatewayServices) -> Any:
        content = await incoming.body(request, services.settings.gateway.max_body_bytes)
        if self.body is None:
            return None
        return incoming.typed(incoming.json_object(content), self.body)


def _brief(detail: dict[str, Any]) -> dict[str, Any]:
    """Evidence of a change holds what was asked, not the rows or events themselves, nor the caller's key for it."""
    return {
        name: f"{len(value)} items" if isinstance(value, list | tuple) and len(value) > 3 else value
        for name, value in detail.items()
        if name != "key"
    }
