"""Engines that are drained: given no new request for a time while what they generate goes on to its end.

Invariants:
- A drain ends by itself. It is a lease in the catalog (:mod:`antiphon.catalog.engine_instances`), which every process
  that routes reads with the list of the engines, each second.
- An engine is drained only while another one that is not serves each of its models.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.engine_instances import PREFIX, EngineInstances, drain_lease
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.clock import parse_duration
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.reasons import require_text
from antiphon.core.suggestions import nearest
from antiphon.engine.api.messages import EngineInstance, EngineLoad
from antiphon.services.engines.joining import LEASE_SECONDS
from antiphon.services.project.store import Store

LONGEST = timedelta(days=7)
"""A drain lasts so long at most: one that is forgotten ends."""


class EngineDrain(msgspec.Struct, frozen=True):
    """A drain that is not over: who ordered it, why, and when it ends by itself."""

    engine: str
    principal: str
    reason: str
    until: datetime


class JoinedEngine(msgspec.Struct, frozen=True):
    """An engine of the project that has joined, by its name ``NAME@HOST``.

    Attributes:
        requests: in it, running or waiting, as it told last.
        reported_at: when it did.
        drain: while it is given no new request.
    """

    name: str
    models: tuple[str, ...]
    requests: int
    reported_at: datetime
    drain: EngineDrain | None = None


class EngineDrains:
    """Drains engines of a project, and brings them back. Each change is on record in its own transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._own = f"{store.scope.tenant}/"
        self._leases = ProcessLeases(store.database, store.scope.environment)
        self._instances = EngineInstances(self._leases)

    def list(self, *, within: Connection | None = None) -> tuple[JoinedEngine, ...]:
        """The project's engines that have joined, by name."""
        found = []
        for one in self._instances.living(within=within):
            lease = self._leases.find(f"{PREFIX}{one.name}", within=within)
            if one.name.startswith(self._own) and lease is not None:
                name = one.name.removeprefix(self._own)
                drain = self._find(name, within) if one.drained else None
                reported_at = lease.until - timedelta(seconds=LEASE_SECONDS)
                found.append(JoinedEngine(name, models_of(one), requests_in(one.load), reported_at, drain))
        return tuple(found)

    def began(self, drain: EngineDrain) -> datetime | None:
        """The moment at which a drain began, by the audit log."""
        return self._store.audit.last_at(self._store.scope, "engine.drain", drain.engine)

    def get(self, engine: str, *, within: Connection | None = None) -> JoinedEngine:
        """An engine that has joined, named with its host or without.

        Raises:
            NotFoundError: none of this name has joined. InvalidInputError: several hosts have one.
        """
        joined, name = self.list(within=within), engine.removeprefix(self._own)
        found = [one for one in joined if name in (one.name, one.name.partition("@")[0])]
        if len(found) > 1:
            names = ", ".join(one.name for one in found)
            raise InvalidInputError(
                f"Several hosts have an engine {name!r}.", where="engine", next_step=f"Say {names}."
            )
        if not found:
            known = [one.name for one in joined]
            raise NotFoundError(
                f"No engine {name!r} has joined.",
                where="engine",
                next_step=nearest(name, known, "`antiphon engines list` shows those that have; see docs/engines.md."),
            )
        return found[0]

    def require_other(self, engine: JoinedEngine, *, within: Connection | None = None) -> None:
        """Raise ``ConflictError`` unless another engine that is not drained serves each model of this one."""
        own = self._own + engine.name
        others = [one for one in self._instances.living(within=within) if one.name != own and not one.drained]
        alone = set(engine.models).difference(*map(models_of, others))
        if alone or not others:
            raise ConflictError(
                f"No other engine serves {', '.join(sorted(alone)) or 'anything'}.",
                where=engine.name,
                next_step="Start one that joins, or restart this one: `antiphon restart`.",
            )

    def drain(self, principal: str, engine: str, reason: str, duration: str) -> EngineDrain:
        """Give an engine no new request for a time; whoever drains it for this reason already has their drain.

        Raises:
            NotFoundError: no engine of this name has joined. ConflictError: it is drained for another reason, or no
                other engine serves one of its models. InvalidInputError: no reason or duration, or one too long.
        """
        store = self._store
        require_text(reason)
        if (length := parse_duration(duration)) > LONGEST:
            raise InvalidInputError(
                f"A drain lasts {LONGEST.days} days at most.", where="duration", next_step="Drain it again after them."
            )
        with store.database.transaction() as connection:
            found = self.get(engine, within=connection)
            if (known := found.drain) is not None:
                if (known.principal, known.reason) == (principal, reason):
                    return known
                raise ConflictError(
                    f"{known.principal} drains {found.name}: {known.reason}",
                    where=found.name,
                    next_step=f"`antiphon engines resume {found.name} --reason TEXT` ends that.",
                )
            self.require_other(found, within=connection)
            lease = drain_lease(self._own + found.name)
            self._leases.acquire_all({lease: reason}, principal, length.total_seconds(), within=connection)
            held = self._find(found.name, connection)
            if held is None:
                raise AssertionError("A lease that was just taken holds.")
            detail = {"reason": reason, "until": held.until.isoformat()}
            store.audit.append(store.scope, principal, "engine.drain", found.name, detail, within=connection)
        return held

    def resume(self, principal: str, engine: str, reason: str, *, of: EngineDrain | None = None) -> EngineDrain | None:
        """Give a drained engine requests again; ``None`` where it was not drained.

        Args:
            engine: ``NAME@HOST``, or ``NAME`` of an engine that has joined.
            of: end this drain alone, and no other that began since.

        Raises:
            NotFoundError: no engine of this name has joined. InvalidInputError: no reason.
        """
        store = self._store
        require_text(reason)
        with store.database.transaction() as connection:
            name = engine if "@" in engine else self.get(engine, within=connection).name
            known = self._find(name, connection)
            if known is None or (of is not None and (known.principal, known.reason) != (of.principal, of.reason)):
                return None
            self._leases.release_all([drain_lease(self._own + name)], known.principal, within=connection)
            store.audit.append(store.scope, principal, "engine.resume", name, {"reason": reason}, within=connection)
        return known

    def _find(self, name: str, within: Connection | None) -> EngineDrain | None:
        lease = self._leases.find(drain_lease(self._own + name), within=within)
        if lease is None or lease.until < self._store.database.clock.now():
            return None
        return EngineDrain(name, lease.holder, lease.detail or "", lease.until)


def models_of(engine: EngineInstance) -> tuple[str, ...]:
    """Models and embedding models that an engine serves, by name."""
    return tuple(sorted({*engine.models, *engine.embedders}))


def requests_in(load: EngineLoad) -> int:
    """Requests that run or wait in an engine."""
    return load.running_online + load.running_batch + load.waiting_online + load.waiting_batch
