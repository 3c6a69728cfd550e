"""Publications: several processes publish snapshots of views, roll back, and read what is current."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
from tests.simulation.process import START, Process, Violation
from tests.simulation.world import World
from tests.unit.catalog.examples import manifest

from antiphon.catalog.features.publications import Publication
from antiphon.core.errors import ConflictError
from antiphon.core.scope import Scope
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.publication.publish import Publisher, race

SCOPE, VIEWS = Scope(), ("congestion", "weather", "fleet")


class Order(msgspec.Struct, frozen=True):
    """Something that a client wants published; its name is the publication's reason."""

    name: str
    changes: dict[str, str] = {}
    back: int | None = None


class OnlineSnapshotsStub:
    """Online files that are always in place: they are not what is simulated."""

    def build(self, *args: Any) -> None:
        """It is there."""


class PublicationObserver:
    """Holds each new publication against the one before and the order it says it is of.

    Attributes:
        ages: moment of each snapshot, for an order must not replace a newer one by an older one.
    """

    def __init__(self, world: World, orders: dict[str, Order], ages: dict[str, int]) -> None:
        self._database = world.connection()
        self._orders, self._ages = orders, ages
        self.rows: list[tuple[int, int, dict[str, str], str]] = []
        world.observers.append(self)

    def __call__(self, process: Process) -> None:
        read = self._database.execute("SELECT number, base, snapshots, reason FROM publications ORDER BY number")
        rows = [(number, base, msgspec.json.decode(held), reason) for number, base, held, reason in read]
        before, self.rows = self.rows, rows
        if rows[: len(before)] != before:
            raise Violation("a publication changed or is gone")
        for row in rows[len(before) :]:
            self._check(row)

    def _check(self, row: tuple[int, int, dict[str, str], str]) -> None:
        number, base, held, reason = row
        if number != self.rows.index(row) + 1:
            raise Violation(f"publication {number} is the {self.rows.index(row) + 1}th")
        past: dict[str, str] = self.rows[number - 2][2] if number > 1 else {}
        order = self._orders[reason]
        if order.back is not None:
            if (base, held) != (order.back, {**past, **self.rows[order.back - 1][2]}):
                raise Violation(f"publication {number} is not publication {order.back} again")
            return
        changed = {view: snapshot for view, snapshot in held.items() if past.get(view) != snapshot}
        if base != number - 1 or past.keys() - held.keys():
            raise Violation(f"publication {number} of base {base} lost {sorted(past.keys() - held.keys())}")
        if not changed or any(order.changes.get(view) != snapshot for view, snapshot in changed.items()):
            raise Violation(f"publication {number} changed {changed}, its order was {order.changes}")
        if old := [view for view in changed if view in past and self._ages[changed[view]] < self._ages[past[view]]]:
            raise Violation(f"publication {number} replaced newer snapshots of {old} by older ones")


class PublicationsScenario:
    """Publishers and readers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.orders: dict[str, Order] = {}
        self.ages: dict[str, int] = {}
        self.acknowledged: dict[str, Publication | None] = {}
        self.moment = 0

    async def play(self) -> None:
        world = self.world
        observer = PublicationObserver(world, self.orders, self.ages)
        for number in range(self.random.choice((2, 3))):
            world.keep_up(f"publisher-{number}", self.idle)
        world.keep_up("reader", self.reader)
        clients = [asyncio.ensure_future(self.client(number)) for number in range(self.random.randint(2, 3))]
        await world.until(lambda: all(client.done() for client in clients), 40.0)
        world.heal()
        await asyncio.gather(*clients)
        self.check(observer)

    async def idle(self, process: Process) -> None:
        await process.stop.wait()

    def publisher(self, process: Process) -> Publisher:
        lake: Any = None
        online: Any = OnlineSnapshotsStub()
        return Publisher(FeatureCatalog(process.database, SCOPE, lake), online)

    async def reader(self, process: Process) -> None:
        """Sees numbers that only grow, each with the same content."""
        publications, last = self.publisher(process).catalog.publications, 0
        while True:
            current = await asyncio.to_thread(publications.current, SCOPE)
            if current is not None:
                if current.number < last:
                    self.world.violate(f"a reader saw publication {last} and then {current.number}")
                last = current.number
            await asyncio.sleep(1.0)

    async def client(self, client: int) -> None:
        for number in range(self.random.randint(2, 4)):
            await asyncio.sleep(self.random.random() * 0.3)
            name = f"order-{client}-{number}"
            done = [one for one in self.acknowledged.values() if one is not None]
            if done and self.random.random() < 0.15:
                order = Order(name, back=self.random.choice(done).number)
                self.orders[name] = order
                self.acknowledged[name] = await self.told(partial(self.roll_back, order))
            else:
                await self.publish(name)

    async def publish(self, name: str) -> None:
        self.moment += 1
        views = self.random.sample(VIEWS, self.random.choice((1, 1, 2)))
        made = []
        for view in views:
            snapshot = f"{name}-{view}"
            self.ages[snapshot] = self.moment
            made.append(manifest(snapshot, SCOPE, START + timedelta(minutes=self.moment), view=view))
        self.orders[name] = Order(name, {one.key: one.id for one in made})
        await asyncio.sleep(self.random.random() * 0.3)  # A refresh that began later may end earlier.
        given: Any = [(one, SimpleNamespace(key=one.key)) for one in made]

        async def act(process: Process) -> Any:
            publish = partial(self.publisher(process).publish, given, reason=name, principal="client")
            return await process.call(publish)

        self.acknowledged[name] = await self.told(act)

    async def roll_back(self, order: Order, process: Process) -> Any:
        catalog = self.publisher(process).catalog

        def attempt(current: Publication | None) -> Publication:
            expected = 0 if current is None else current.number
            back = order.back or 0
            return catalog.publications.rollback(SCOPE, back, expected=expected, reason=order.name, principal="client")

        return await process.call(partial(race, catalog, attempt))

    async def told(self, act: Any) -> Any:
        try:
            return await self.world.told("publisher", act)
        except ConflictError:  # Others won every race.
            return None

    def check(self, observer: PublicationObserver) -> None:
        """What was acknowledged is there as it was told, and no order is there with other content."""
        for name, told in self.acknowledged.items():
            if told is None:
                continue
            number, base, held, reason = observer.rows[told.number - 1]
            if (number, base, held, reason) != (told.number, told.base, told.snapshots, told.reason):
                raise Violation(f"{name} was told of publication {told}, which is {observer.rows[told.number - 1]}")
            order = self.orders[name]
            if told.reason != name and order.back is None:
                for view, snapshot in order.changes.items():
                    if view not in held or (
                        held[view] != snapshot and not self.replaced(observer, view, snapshot, told)
                    ):
                        raise Violation(f"{name} was told that {view} is current, publication {number} has it not")

    def replaced(self, observer: PublicationObserver, view: str, snapshot: str, told: Publication) -> bool:
        """Whether something newer, or what a rollback brought back, stands in a snapshot's place."""
        there = told.snapshots[view]
        published = any(row[2].get(view) == snapshot for row in observer.rows[: told.number])
        return published or self.ages[there] >= self.ages[snapshot]


async def play(world: World) -> None:
    """The scenario."""
    await PublicationsScenario(world).play()
