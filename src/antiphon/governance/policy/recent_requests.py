"""Requests that were asked lately, so that a change of policies can be tried on what really happens.

Invariants: remembering costs a request no write and no wait; at most :data:`MOST_KEPT` distinct requests are kept of a
scope, the latest. They are examples, no evidence: what happened is in the audit log. Payloads are sealed.
"""

from __future__ import annotations

import builtins
import logging
import threading
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import delete, select

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.core.clock import microseconds
from antiphon.core.errors import AntiphonError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Resource

_log = logging.getLogger(__name__)

MOST_KEPT = 1_000
_MOST_WAITING = 500
_SCHEMA = "policy-request/1"


class PolicyRequest(msgspec.Struct, frozen=True):
    """One request as policy was asked about it."""

    principal: Principal
    action: str
    resource: Resource
    context: dict[str, Any]


_decoder = msgspec.json.Decoder(PolicyRequest)


class RecentRequests:
    """Keeps the latest distinct requests. A thread writes what waits after ``every`` so many seconds; with ``None``
    :meth:`flush` alone does. Close it to write what waits."""

    def __init__(self, database: Database, *, every: float | None = 5.0) -> None:
        self._database = database
        self._every = every
        self._timer: threading.Timer | None = None
        self._waiting: dict[tuple[Scope, str], PolicyRequest] = {}
        self._known: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()

    def remember(
        self, scope: Scope, principal: Principal, action: str, resource: Resource, context: Mapping[str, Any]
    ) -> None:
        """Keep a request with the next flush, unless it is known here or too many wait already."""
        keys = context.get("keys")
        seen = (scope, principal, action, resource, context.get("purpose"), tuple(keys.items()) if keys else None)
        if seen in self._known or len(self._waiting) >= _MOST_WAITING:
            return
        recent = PolicyRequest(principal, action, resource, {name: value for name, value in context.items() if value})
        with self._lock:
            if len(self._known) >= MOST_KEPT:
                self._known.clear()
            self._known.add(seen)
            self._waiting[(scope, content_hash(recent)[:32])] = recent
            if self._timer is None and self._every is not None:
                self._timer = threading.Timer(self._every, self._flush_later)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Write what waits."""
        with self._lock:
            timer, self._timer, self._every = self._timer, None, None
        if timer is not None:
            timer.cancel()
            timer.join()
        self._flush_later()

    def _flush_later(self) -> None:
        with self._lock:
            self._timer = None
        try:
            self.flush()
        except AntiphonError as error:
            # Examples only: the next ones will do.
            _log.warning("recent requests were not kept: %s", error)

    def flush(self) -> int:
        """Write what waits, and let go of what is older than the latest :data:`MOST_KEPT`; how many were written."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        if not waiting:
            return 0
        table, now = schema.policy_requests, microseconds(self._database.clock.now())
        with self._database.transaction() as connection:
            for (scope, digest), recent in waiting.items():
                row = upsert(table).values(
                    tenant=scope.tenant,
                    environment=scope.environment,
                    id=digest,
                    payload=self._database.seal(scope, _SCHEMA, digest, msgspec.json.encode(recent)),
                    at=now,
                )
                connection.execute(row.on_conflict_do_update(set_={"at": now}))
            for scope in {scope for scope, _ in waiting}:
                kept = (
                    select(table.c.id)
                    .where(schema.owned(table, scope))
                    .order_by(table.c.at.desc(), table.c.id)
                    .limit(MOST_KEPT)
                )
                connection.execute(delete(table).where(schema.owned(table, scope), table.c.id.not_in(kept)))
        return len(waiting)

    def list(self, scope: Scope, limit: int = MOST_KEPT) -> builtins.list[PolicyRequest]:
        """The latest requests of a scope, latest first."""
        table = schema.policy_requests
        statement = (
            select(table.c.id, table.c.payload)
            .where(schema.owned(table, scope))
            .order_by(table.c.at.desc(), table.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                _decoder.decode(self._database.unseal(scope, _SCHEMA, row.id, row.payload))
                for row in connection.execute(statement)
            ]
