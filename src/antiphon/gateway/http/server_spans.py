"""A span of every request that is more than a look at whether the process lives, named by its route."""

from __future__ import annotations

import time

from opentelemetry.trace import SpanKind, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from antiphon.core import telemetry

_QUIET = frozenset(("/healthz", "/readyz", "/metrics"))
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class ServerSpans:
    """ASGI middleware, in OpenTelemetry's conventions for HTTP servers. A caller's trace goes on in the span."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not telemetry.is_recorded() or path in _QUIET or path.startswith("/static/"):
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        parent = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)
        began = time.time_ns()
        with telemetry.span(method, {"http.request.method": method}, traceparent=parent, kind=SpanKind.SERVER) as span:
            status = 500

            async def noted(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await self._app(scope, receive, noted)
            finally:
                # Only the router knows it. A path as it was sent may hold what names a person.
                route = getattr(scope.get("route"), "path", "")
                named = f"{method} {route}".rstrip()
                found = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
                if span.is_recording():
                    span.update_name(named)
                    span.set_attributes(found)
                    if status >= 500:
                        span.set_status(StatusCode.ERROR)
                elif status >= 500:
                    failed = found | {telemetry.FAILED: str(status)}
                    telemetry.record(named, began, failed, telemetry.traceparent() or parent)
