"""Evidence of who was not let in.

Invariant: a refusal of anybody is a record. Anybody can cause refusals without end, so of one principal (or of nobody
known, together) at most :data:`MOST_A_SECOND` are records of their own; those beyond are counted, and the next record
of the same one says how many. So a flood neither fills the disk nor hides what somebody else is refused.
"""

from __future__ import annotations

import logging
import threading

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from antiphon.core.errors import AntiphonError, Forbidden, Unauthenticated
from antiphon.core.logs import without_credentials
from antiphon.core.scope import Scope
from antiphon.gateway.ports import GatewayServices
from antiphon.governance.principal import Principal

MOST_A_SECOND = 20
ACTION = "denied"
NOBODY = "anonymous"
MOST_CHARACTERS = 400
"""Of what was refused and why."""
_MOST_COUNTED = 10_000
_log = logging.getLogger("antiphon.gateway")


class Denials:
    """Writes refusals to the audit log of the gateway."""

    def __init__(self, services: GatewayServices) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, str], tuple[int, int, int]] = {}

    async def record(self, request: Request, error: BaseException, who: Principal | None = None) -> None:
        """Keep that this request was refused, if that is what the error says; it is refused all the same if that fails.

        Args:
            who: asked; by default whoever the request was found to be of.
        """
        trail = self._services.trail
        if not isinstance(error, Unauthenticated | Forbidden) or trail is None:
            return
        who = who or getattr(request.state, "principal", None)
        name = who.id if who is not None else NOBODY
        tenant = who.tenant if who is not None else self._services.default_tenant
        beyond = self._admit(tenant, name)
        if beyond is None:
            return
        # The path as it is routed: what a caller puts in a parameter's place is no evidence, and may be a secret.
        subject = getattr(request.scope.get("route"), "path", "no route")
        scope = Scope(tenant, self._services.environment)
        detail = {
            "code": error.code,
            "reason": without_credentials(error.what)[:MOST_CHARACTERS],
            "method": request.method,
            "count": 1 + beyond,
            "key": who.credential if who is not None else None,
        }
        originator = getattr(request.state, "originator", None)
        try:
            await run_in_threadpool(
                trail.enqueue, scope, name, ACTION, subject, detail, originator=originator, outcome="denied"
            )
        except AntiphonError as failure:
            _log.error("a refusal could not be written to the audit log: %s", failure.what)

    def _admit(self, tenant: str, name: str) -> int | None:
        """How many refusals this record stands for beside its own; ``None`` when it is only counted."""
        now = int(self._services.clock.monotonic())
        with self._lock:
            second, written, beyond = self._counted.get((tenant, name), (now, 0, 0))
            if second != now:
                written = 0
            if written >= MOST_A_SECOND:
                self._counted[tenant, name] = (now, written, beyond + 1)
                return None
            if len(self._counted) >= _MOST_COUNTED:
                self._counted.clear()
            self._counted[tenant, name] = (now, written + 1, 0)
            return beyond
