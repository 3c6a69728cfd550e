"""Actions of playbooks on engines: a process of this host is restarted, an engine that has joined is drained.

Invariant: as of :mod:`antiphon.services.playbooks.actions`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from antiphon.core.errors import ConflictError, DeadlineExceededError, NotFoundError
from antiphon.engine.routing.routed_engine import LOOK_SECONDS
from antiphon.operations.processes import ProcessRecord, is_running, read_records, signal_group
from antiphon.services.engines.drains import EngineDrain, EngineDrains, JoinedEngine
from antiphon.services.project.store import Store

_LOOK = 0.5
_ENDING_SECONDS, _STARTING_SECONDS = 60.0, 240.0
_DRAINING_SECONDS = 600.0
_ROUTED = timedelta(seconds=2 * LOOK_SECONDS)
"""Time after which every process that routes has read that an engine is drained."""


class EngineActions:
    """Restarts and drains engines of a project."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._drains = EngineDrains(store)

    def observe_process(self, name: str) -> dict[str, Any]:
        """The process that a restart is about; raises ``NotFoundError`` where it does not run on this host."""
        found = self._running(name)
        if found is None:
            raise NotFoundError(
                f"The process {name} does not run on this host.", where=name, next_step="See `antiphon status`."
            )
        return {"pid": found.pid, "ticks": found.started_ticks}

    async def restart(self, name: str, seen: Mapping[str, Any]) -> dict[str, Any]:
        """End a process and wait for its successor, unless there is one."""
        clock = self._store.database.clock
        began = clock.monotonic()
        while (before := self._running(name)) is not None and _same(before, seen):
            late = clock.monotonic() - began > _ENDING_SECONDS
            signal_group(before, signal.SIGKILL if late else signal.SIGTERM)
            await asyncio.sleep(_LOOK)
        while (after := self._running(name)) is None or _same(after, seen):
            if clock.monotonic() - began > _ENDING_SECONDS + _STARTING_SECONDS:
                raise DeadlineExceededError(f"The process {name} was ended, and its successor is not there.")
            await asyncio.sleep(_LOOK)
        return {"sentence": f"The process {name} was restarted: {seen['pid']}, now {after.pid}."}

    def observe_engine(self, name: str, principal: str, reason: str) -> dict[str, Any]:
        """The engine that a drain is about.

        Raises:
            NotFoundError: none of this name has joined. ConflictError: it is drained for another reason, or no other
                engine serves one of its models.
        """
        found = self._drains.get(name)
        if found.drain is None:
            self._drains.require_other(found)
        elif (found.drain.principal, found.drain.reason) != (principal, reason):
            raise ConflictError(
                f"{found.drain.principal} drains {found.name}: {found.drain.reason}",
                where=found.name,
                next_step=f"`antiphon engines resume {found.name} --reason TEXT` ends that.",
            )
        return {"engine": found.name, "requests": found.requests}

    async def drain(self, principal: str, reason: str, duration: str, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Drain an engine, unless that was done, and wait until nothing is in it, for ten minutes at most."""
        clock = self._store.database.clock
        held = await asyncio.to_thread(self._drains.drain, principal, str(seen["engine"]), reason, duration)
        settled, began = clock.now() + _ROUTED, clock.monotonic()
        while (left := await asyncio.to_thread(self._left, held.engine, settled)) is None or left > 0:
            if clock.monotonic() - began > _DRAINING_SECONDS:
                break
            await asyncio.sleep(_LOOK)
        rest = "nothing is in it" if left == 0 else f"{left or 'its'} requests go on in it"
        said = f"{held.engine} gets no requests until {held.until:%H:%M:%S}Z, and {rest}."
        return {"engine": held.engine, "principal": principal, "reason": reason, "sentence": said}

    def resume(self, done: Mapping[str, Any]) -> dict[str, Any]:
        """End the drain that a step began, if it still holds."""
        engine, principal, reason = str(done["engine"]), str(done["principal"]), str(done["reason"])
        drain = EngineDrain(engine, principal, reason, self._store.database.clock.now())
        self._drains.resume(principal, engine, f"undone: {reason}", of=drain)
        return {"sentence": f"{engine} gets requests again."}

    def _left(self, engine: str, settled: datetime) -> int | None:
        """Requests in an engine, as it told since the drain is known everywhere; ``None`` before. None are in one that
        has left."""
        found: JoinedEngine | None = next((one for one in self._drains.list() if one.name == engine), None)
        if found is None:
            return 0
        return found.requests if found.reported_at > settled else None

    def _running(self, name: str) -> ProcessRecord | None:
        records = read_records(self._store.paths.run)
        return next((one for one in records if one.name == name and is_running(one)), None)


def _same(record: ProcessRecord, seen: Mapping[str, Any]) -> bool:
    return (record.pid, record.started_ticks) == (seen["pid"], seen["ticks"])
