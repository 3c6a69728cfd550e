"""Applications that answer from store alone for a time: each is a lease, which ends by itself.

Invariant: an application is in the mode from the moment at which it is written until it is ended or its time is over,
by the catalog's clock.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.database import Database
from antiphon.catalog.process_leases import ProcessLease, ProcessLeases
from antiphon.core.scope import Scope


class PrecomputedMode(msgspec.Struct, frozen=True):
    """An application that answers from store alone: who ordered it, why, and when it ends by itself."""

    application: str
    principal: str
    reason: str
    until: datetime


class PrecomputedModes:
    """Repository of the modes of each scope."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, scope: Scope, mode: PrecomputedMode, *, within: Connection) -> None:
        """Write a mode, new or in the place of the same principal's."""
        name, seconds = _lease(scope, mode.application), (mode.until - self._database.clock.now()).total_seconds()
        self._leases(scope).acquire_all({name: mode.reason}, mode.principal, seconds, within=within)

    def end(self, scope: Scope, mode: PrecomputedMode, *, within: Connection) -> None:
        """End a mode now."""
        self._leases(scope).release_all([_lease(scope, mode.application)], mode.principal, within=within)

    def find(self, scope: Scope, application: str, *, within: Connection | None = None) -> PrecomputedMode | None:
        """The mode of an application, unless it answers as ever."""
        lease = self._leases(scope).find(_lease(scope, application), within=within)
        return None if lease is None or lease.until < self._database.clock.now() else _mode(lease)

    def list(self, scope: Scope) -> tuple[PrecomputedMode, ...]:
        """The applications that answer from store alone, by name."""
        return tuple(map(_mode, self._leases(scope).living(_lease(scope, ""))))

    def _leases(self, scope: Scope) -> ProcessLeases:
        return ProcessLeases(self._database, scope.environment)


def mode_leases(tenant: str) -> str:
    """The beginning of the names of a tenant's modes."""
    return f"precomputed/{tenant}/"


def _lease(scope: Scope, application: str) -> str:
    return f"{mode_leases(scope.tenant)}{application}"


def _mode(lease: ProcessLease) -> PrecomputedMode:
    return PrecomputedMode(lease.name.rpartition("/")[2], lease.holder, lease.detail or "", lease.until)
