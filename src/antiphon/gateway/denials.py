"""Evidence of who was not let in.

Invariant: a refusal of anybody is a record, or is counted in one. Anybody can cause refusals without end, and records
of the audit log stay for good, so in a minute one principal, or one peer that is not known, has at most :data:`IN_FULL`
refusals of a kind recorded one by one, and all unknown peers together :data:`UNKNOWN_IN_FULL`. Those beyond are
counted, and the end of the minute writes their numbers: a record for each of whom there were, at most
:data:`MOST_SUMMARIES`, and one for all others. So a flood without a key grows the log by about a record a second, and
hides neither itself nor what somebody else is refused.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from antiphon.core.errors import AntiphonError, ForbiddenError, UnauthenticatedError
from antiphon.core.logs import without_credentials
from antiphon.core.scope import Scope
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal

IN_FULL = 20
UNKNOWN_IN_FULL = 40
MOST_SUMMARIES = 20
WINDOW_SECONDS = 60
ACTION = "denied"
UNKNOWN_PATH = "unknown_path"
"""Label of paths that there are not."""
FEW_PATHS = 8
"""So many paths that there are not may be asked for within a minute by clients that are set up wrongly."""
ANONYMOUS = "anonymous"
OTHERS = "others"
SUMMARY = "refusals of a minute"
"""The subject of a record that counts."""
MOST_CHARACTERS = 400
"""Of what was refused and why."""
_MOST_COUNTED = 10_000
_SETTLE_SECONDS = 5.0
_log = logging.getLogger("antiphon.gateway")


class _Refusal(msgspec.Struct, frozen=True):
    """A kind of refusal: of a principal with its key, or of a peer that is not known; and why."""

    tenant: str
    name: str
    peer: str
    code: str
    key: str | None = None


class Denials:
    """Writes refusals to the audit log of the gateway."""

    def __init__(self, services: GatewayServices) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._minute = self._now()
        self._began = services.clock.now()
        self._written: dict[tuple[str, str, str, str], int] = {}
        self._unknown = 0
        self._beyond: dict[_Refusal, int] = {}
        self._paths: set[str] = set()
        self._paths_minute = self._minute

    def count_unknown(self, request: Request) -> None:
        """Count a path that there is not, once in a minute: a client that is set up wrongly asks for one again and
        again. Once more than :data:`FEW_PATHS` were asked for somebody scans, and each such request counts."""
        minute, path = self._now(), request.url.path[:MOST_CHARACTERS]
        if minute != self._paths_minute:
            self._paths_minute, self._paths = minute, set()
        known = path in self._paths
        if not known and len(self._paths) < _MOST_COUNTED:
            self._paths.add(path)
        if not known or len(self._paths) > FEW_PATHS:
            tenant = self._services.settings.project.tenant
            request.app.state.measurements.denials.labels(tenant, UNKNOWN_PATH).inc()

    async def record(self, request: Request, error: BaseException) -> None:
        """Keep that this request was refused, if the error says so; it is refused all the same where that fails.

        Whoever the request was found to be of is named.
        """
        if not isinstance(error, UnauthenticatedError | ForbiddenError):
            return
        who: Principal | None = getattr(request.state, "principal", None)
        peer = without_credentials(request.client.host)[:64] if request.client is not None else ""
        tenant = who.tenant if who is not None else self._services.settings.project.tenant
        request.app.state.measurements.denials.labels(tenant, error.code).inc()
        name, key = (who.id, who.credential) if who is not None else (ANONYMOUS, None)
        refused = _Refusal(tenant, name, peer, error.code, key)
        await self.settle()
        if not self._in_full(refused, known=who is not None):
            return
        # The path as it is routed: what a caller puts in a parameter's place is no evidence, and may be a secret.
        subject = getattr(request.scope.get("route"), "path", "no route")
        detail = {
            "code": error.code,
            "reason": without_credentials(error.what)[:MOST_CHARACTERS],
            "method": request.method,
            "peer": peer,
            "count": 1,
            "key": key,
        }
        await self._write(refused, subject, detail, getattr(request.state, "originator", None))

    async def run(self) -> None:
        """Write what was counted when its minute is over, until cancelled; then what is left."""
        try:
            while True:
                await asyncio.sleep(_SETTLE_SECONDS)
                await self.settle()
        finally:
            await asyncio.shield(self.settle(ended=True))

    async def settle(self, *, ended: bool = False) -> None:
        """Write the counts of the last minute if it is over, or has ``ended`` with the process."""
        for refused, count, began in self._counted(ended):
            until = began + timedelta(seconds=WINDOW_SECONDS)
            reason = f"{count} more refused from {refused.peer} between {began:%H:%M:%S} and {until:%H:%M:%S} UTC"
            detail = {"code": refused.code, "reason": reason, "peer": refused.peer, "count": count, "key": refused.key}
            await self._write(refused, SUMMARY, detail, None)

    def _counted(self, ended: bool) -> list[tuple[_Refusal, int, datetime]]:
        with self._lock:
            minute = self._now()
            if minute == self._minute and not ended:
                return []
            counted, began = self._beyond, self._began
            self._minute, self._began = minute, self._services.clock.now()
            self._written, self._unknown, self._beyond = {}, 0, {}
        most = sorted(counted.items(), key=lambda one: -one[1])
        rest: dict[_Refusal, int] = {}
        for refused, count in most[MOST_SUMMARIES:]:
            pooled = _Refusal(refused.tenant, OTHERS, OTHERS, refused.code)
            rest[pooled] = rest.get(pooled, 0) + count
        return [(refused, count, began) for refused, count in (*most[:MOST_SUMMARIES], *rest.items())]

    def _in_full(self, refused: _Refusal, *, known: bool) -> bool:
        """Tells whether this refusal gets a record of its own; otherwise it is counted here."""
        key = (refused.tenant, refused.name, "" if known else refused.peer, refused.code)
        with self._lock:
            written = self._written.get(key, 0)
            if written < IN_FULL and (known or self._unknown < UNKNOWN_IN_FULL) and len(self._written) < _MOST_COUNTED:
                self._written[key] = written + 1
                self._unknown += not known
                return True
            if refused not in self._beyond and len(self._beyond) >= _MOST_COUNTED:
                refused = _Refusal(refused.tenant, OTHERS, OTHERS, refused.code)
            self._beyond[refused] = self._beyond.get(refused, 0) + 1
            return False

    async def _write(self, refused: _Refusal, subject: str, detail: Mapping[str, Any], originator: str | None) -> None:
        trail, scope = self._services.access.trail, Scope(refused.tenant, self._services.environment)
        try:
            await run_in_threadpool(
                trail.enqueue, scope, refused.name, ACTION, subject, detail, originator=originator, outcome="denied"
            )
        except AntiphonError as failure:
            _log.error("a refusal could not be written to the audit log: %s", failure.what)

    def _now(self) -> int:
        return int(self._services.clock.monotonic() // WINDOW_SECONDS)
