"""Evidence of who has read what was kept.

Invariant: what somebody reads of receipts, texts, datasets, outcomes, rows or the audit log leaves the gateway only
after the record of the reading is on disk; when it cannot be written, the reading is refused.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from antiphon.core.errors import AntiphonError
from antiphon.gateway.http import problem
from antiphon.gateway.services import GatewayServices

READ = "data.read"

PAGES = frozenset({"requests", "outcomes", "audit", "skew"})
"""Pages that show what was asked, answered, learnt from or done."""

NOUNS = frozenset({"audit", "batch", "datasets", "documents", "evaluations", "outcomes", "predictions"})
"""Nouns of ``/admin`` that do."""

ROWS = frozenset({"quarantine", "skew", "lineage", "neighbors"})
"""Parts of a view that name entities or show source rows."""


class ReadingEvidence:
    """ASGI middleware inside which every route is served."""

    def __init__(self, app: ASGIApp, services: GatewayServices) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not reads_data(scope):
            await self._app(scope, receive, send)
            return
        refused = False

        async def witnessed(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start":
                try:
                    await self._witness(scope, int(message["status"]))
                except AntiphonError as error:
                    refused = True
                    await problem.response(error)(scope, receive, send)
            if not refused:
                await send(message)

        await self._app(scope, receive, witnessed)

    async def _witness(self, scope: Scope, status: int) -> None:
        state: dict[str, Any] = scope.get("state") or {}
        trail, who = self._services.access.trail, state.get("principal")
        if status < 400 and who is not None:
            # The path with its parameters' names: what stands in their place is told by the subject alone, the last
            # parameter of the path, or the path of a list.
            route = str(getattr(scope.get("route"), "path", "no route"))
            subject = str([route, *(scope.get("path_params") or {}).values()][-1])[:300] or "/"
            detail = {"route": route, "method": scope["method"], "status": status}
            work = run_in_threadpool(
                trail.record, self._services.scope(who), who.id, READ, subject, detail,
                originator=state.get("originator"),
            )  # fmt: skip
            # A reader who goes away meanwhile has asked all the same.
            await asyncio.shield(asyncio.ensure_future(work))


def reads_data(scope: Scope) -> bool:
    """Tells whether a request's response shows stored data."""
    parts: list[str] = scope["path"].strip("/").split("/")
    method: str = scope["method"]
    if parts[0] == "v1":
        stored = parts[1:2] == ["responses"] or (parts[1:2] == ["files"] and parts[-1] == "content")
        return method == "GET" and stored
    if parts[0] != "admin":
        return method == "GET" and parts[0] in PAGES
    if len(parts) == 4 and parts[1] == "features" and parts[3] in ROWS:
        return True
    if len(parts) < 2 or parts[1] not in NOUNS:
        return False
    # Other POSTs order something and show nothing; a replay shows its prediction, a search chunks.
    return method == "GET" or (method == "POST" and parts[1] in ("documents", "predictions"))
