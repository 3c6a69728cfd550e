"""Evidence of gateways: effects committed in groups, audit records with them, by a writer and by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.simulation.audit_checks import AuditObserver, check_log
from tests.simulation.process import Crashed, Process, Violation
from tests.simulation.run_checks import read
from tests.simulation.threads import cooperative
from tests.simulation.world import World

from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.errors import InvalidInputError, OverloadedError, UnavailableError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.writer import AuditWriter

SCOPES, SECRET = (Scope(), Scope("other", "dev")), b"s" * 32


class Recorder:
    """What a gateway writes evidence with."""

    def __init__(self, process: Process) -> None:
        self.log = AuditLog(process.database, SECRET)
        self.group = GroupCommit(process.database, largest_group=4)
        self.writer = AuditWriter(self.log, largest_group=3)
        self.blobs = Blobs(process.database)


class EvidenceScenario:
    """Gateways and their clients.

    Attributes:
        acknowledged: attempts whose client was told that they are done; ``refused`` those that were undone.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.recorders: dict[Process, Recorder] = {}
        self.acknowledged: dict[str, Scope] = {}
        self.refused: set[str] = set()
        self.tried = 0

    async def play(self) -> None:
        world = self.world
        AuditObserver(world)
        for number in range(self.random.choice((1, 2, 2, 3))):
            world.keep_up(f"gateway-{number}", self.gateway)
        clients = [asyncio.ensure_future(self.client()) for _ in range(self.random.randint(3, 5))]
        await world.until(lambda: all(client.done() for client in clients), 30.0)
        world.heal()
        await asyncio.gather(*clients)
        await asyncio.sleep(20.0)  # What was accepted and not acknowledged is written, or lost with its process.
        self.check(world.boot("check"))

    async def gateway(self, process: Process) -> None:
        self.recorders[process] = Recorder(process)
        await process.stop.wait()

    async def client(self) -> None:
        acts = (self.grouped, self.grouped, self.undone, self.recorded, self.direct)
        for _ in range(self.random.randint(3, 6)):
            await asyncio.sleep(self.random.random() * 0.4)
            act, scope = self.random.choice(acts), self.random.choice(SCOPES)
            while not await self.attempt(act, scope):
                await asyncio.sleep(0.1 + self.random.random() * 0.4)

    async def attempt(self, act: Callable[..., Any], scope: Scope) -> bool:
        """Try once at one gateway; each attempt has a name of its own."""
        ready = [one for one in self.world.alive("gateway") if one in self.recorders]
        if not ready:
            return False
        self.tried += 1
        process, name = self.random.choice(ready), f"act-{self.tried}"
        try:
            await process.ask(act(self.recorders[process], scope, name))
        except InvalidInputError:
            self.refused.add(name)
            return True
        except (Crashed, UnavailableError, OverloadedError):
            return False
        self.acknowledged[name] = scope
        return True

    async def grouped(self, recorder: Recorder, scope: Scope, name: str) -> None:
        def effect(connection: Any) -> None:
            recorder.blobs.put(scope, name.encode(), within=connection)
            recorder.log.append_with_commit(recorder.log.act(scope, "client", "sim.grouped", name))

        await recorder.group.submit(effect)

    async def undone(self, recorder: Recorder, scope: Scope, name: str) -> None:
        def effect(connection: Any) -> None:
            recorder.blobs.put(scope, name.encode(), within=connection)
            recorder.log.append_with_commit(recorder.log.act(scope, "client", "sim.grouped", name))
            raise InvalidInputError("This one is refused in the end.")

        await recorder.group.submit(effect)

    async def recorded(self, recorder: Recorder, scope: Scope, name: str) -> None:
        await asyncio.to_thread(recorder.writer.record, scope, "client", "sim.recorded", name)

    async def direct(self, recorder: Recorder, scope: Scope, name: str) -> None:
        await asyncio.to_thread(recorder.log.append, scope, "client", "sim.direct", name)

    def check(self, process: Process) -> None:
        """What was acknowledged is there once, what was refused is not there, the rest at most once."""
        database = self.world.connection()
        query = "SELECT subject, action, tenant FROM audit_entries WHERE action LIKE 'sim.%'"
        rows, blobs = read(database, query), {row[0] for row in read(database, "SELECT hash FROM blobs")}
        found = [row[0] for row in rows]
        # The writer tries a group again whose commit was done and reported as failed: it says so.
        repeated = {row[0] for row in rows if row[1] == "sim.recorded" and self.world.faults.unsure}
        if twice := sorted({name for name in found if found.count(name) > 1} - repeated):
            raise Violation(f"recorded twice: {twice}")
        if lost := sorted(self.acknowledged.keys() - set(found)):
            raise Violation(f"acknowledged and lost: {lost}")
        if wrong := sorted(self.refused & set(found)):
            raise Violation(f"refused and recorded: {wrong}")
        for name, action, tenant in rows:
            if name in self.acknowledged and self.acknowledged[name].tenant != tenant:
                raise Violation(f"{name} is recorded of {tenant}")
            if (action == "sim.grouped") != (content_hash(name.encode()) in blobs):
                raise Violation(f"effect and record of {name} are not together")
        if any(content_hash(name.encode()) in blobs for name in self.refused):
            raise Violation("an effect that was refused stays")
        for scope in SCOPES:
            check_log(process, scope, SECRET)


async def play(world: World) -> None:
    """The scenario."""
    with cooperative():
        await EvidenceScenario(world).play()
