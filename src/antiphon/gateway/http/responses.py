"""Responses in JSON, and the headers that every response leaves with: not sniffed, not framed, not kept, nothing loaded
unless a page says so."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Not "no-referrer": browsers then send "Origin: null" with a form, which could not be told from another site's.
COMMON: dict[str, str] = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
PRIVATE = ("cache-control", "no-store")
"""Also of everything but static files: answers are their reader's alone."""
ENCRYPTED = ("strict-transport-security", "max-age=31536000")
"""Also over TLS: whoever came by https once comes by https."""

_COMMON = [(name.encode(), value.encode()) for name, value in COMMON.items()]
_PRIVATE = (PRIVATE[0].encode(), PRIVATE[1].encode())
_ENCRYPTED = (ENCRYPTED[0].encode(), ENCRYPTED[1].encode())


class ProtectiveHeaders:
    """ASGI middleware; a header that the response has already stays as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"] = list(message.get("headers", ()))
                known = {name for name, _ in headers}
                added = _COMMON if scope["path"].startswith("/static/") else [*_COMMON, _PRIVATE]
                headers += [header for header in added if header[0] not in known]
                if scope.get("scheme") == "https":
                    headers.append(_ENCRYPTED)
            await send(message)

        await self._app(scope, receive, protected)


class JsonResponse(Response):
    """A value as JSON; its types say how."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)
