"""A client of several gateways never goes back: slow catalogs, slow commits, clocks that drift, processes that stop.

The real lease runs in gateways whose time is simulated; a seed replays exactly. Each defense, switched off, is found.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from antiphon.catalog.features.publications import LONGEST_LEASE, NOTICE, OnlinePublications, Publication
from antiphon.core.errors import UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.online import publication_lease
from antiphon.features.online.publication_lease import PublicationLease

SCOPE = Scope()
MOMENT = datetime(2024, 1, 1, tzinfo=UTC)
SECONDS = 30.0


class Row(NamedTuple):
    """A publication, and the true times at which the commits that announce and serve it become visible."""

    publication: Publication
    announced: float
    served: float


class Installation:
    """One catalog with its publishers, and the true time in seconds. Every tenth publisher is killed in between."""

    def __init__(self, seed: int, notice: float) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.away = False
        self.stops = True
        self.rows: list[Row] = []
        at = 0.0
        while at < SECONDS:
            announced = at + self.chance.uniform(0, 0.5)  # of a process that was stopped within the commit, say
            served = announced + notice + self.chance.uniform(0, 0.5) if notice else announced
            if notice and self.chance.random() < 0.1:
                served = float("inf")
            number = len(self.rows) + 1
            self.rows.append(Row(Publication(SCOPE, number, {}, "", "", MOMENT, number - 1), announced, served))
            at = announced + self.chance.uniform(0.01, 0.3)

    def spend(self, most: float) -> None:
        """Time passes; now and then the process is stopped for much longer."""
        self.now += self.chance.uniform(0, most)
        if self.stops and self.chance.random() < 0.005:
            self.now += self.chance.uniform(0.05, 1.5)


class Gateway:
    """A gateway's clock and its view of the catalog."""

    def __init__(self, installation: Installation, lease: float, *, asks: bool = True) -> None:
        self._installation = installation
        self._rate = 1 + installation.chance.uniform(-1e-3, 1e-3)
        self._asks = asks
        self.lease = PublicationLease(
            SCOPE,
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            seconds=lease * installation.chance.uniform(0.2, 1),
            moved=lambda before, after: None,
        )

    def monotonic(self) -> float:
        return self._installation.now * self._rate

    def online(self, scope: Scope) -> OnlinePublications:
        world = self._installation
        world.spend(0.005)
        if world.away:
            raise UnavailableError("The catalog is away.")
        seen = [row for row in world.rows if row.announced <= world.now]
        number = max((row.publication.number for row in seen if row.served <= world.now), default=0)
        world.spend(0.005)
        later = tuple(row.publication for row in seen[number:]) if self._asks else ()
        return OnlinePublications(seen[number - 1].publication if number else None, later)

    def serve_known(self, announced: Publication) -> None:
        world = self._installation
        world.spend(0.005)
        place = announced.number - 1
        world.rows[place] = world.rows[place]._replace(served=min(world.rows[place].served, world.now))


def went_back(
    seed: int, gateways: int, *, notice: float = NOTICE, lease: float = LONGEST_LEASE, asks: bool = True
) -> int:
    """Answers of a client that asks a gateway by chance which are of an older publication than the one before."""
    world = Installation(seed, notice)
    asked = [Gateway(world, lease, asks=asks) for _ in range(gateways)]
    last = back = 0
    while world.now < SECONDS:
        served = world.chance.choice(asked).lease.current()
        number = 0 if served is None else served.number
        back += number < last
        last = number
        world.spend(0.003)
    assert last > 20
    return back


@pytest.mark.parametrize("gateways", [2, 4])
def test_a_client_of_several_gateways_never_goes_back(gateways: int) -> None:
    assert [went_back(seed, gateways) for seed in range(25)] == [0] * 25


def test_publications_that_are_not_announced_are_found_going_back() -> None:
    assert went_back(1, 2, notice=0) > 0


def test_a_lease_in_spite_of_an_announcement_is_found_going_back() -> None:
    assert went_back(1, 2, asks=False) > 0


def test_a_lease_that_is_longer_than_the_notice_is_found_going_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication_lease, "LONGEST_LEASE", 5.0)
    assert sum(went_back(seed, 2, lease=1.5) for seed in range(25)) > 0


def test_taking_over_too_early_is_found_going_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication_lease, "_ABANDONED", 0.001)
    assert sum(went_back(seed, 4) for seed in range(25)) > 0


def test_a_publication_whose_publisher_is_gone_is_served_by_a_reader() -> None:
    world = Installation(1, NOTICE)
    world.rows = [Row(world.rows[0].publication, 0.0, 0.0), Row(world.rows[1].publication, 0.0, float("inf"))]
    world.stops = False
    gateway = Gateway(world, LONGEST_LEASE)
    numbers = set[tuple[bool, int]]()
    while world.now < 3.0:
        served = gateway.lease.current()
        assert served is not None
        numbers.add((world.now > 2.1, served.number))
        world.now += 0.01
    assert numbers == {(False, 1), (False, 2), (True, 2)}


def test_a_catalog_that_is_away_leaves_what_was_served_and_says_so() -> None:
    world = Installation(3, NOTICE)
    world.stops, world.now = False, 5.0
    gateway = Gateway(world, LONGEST_LEASE)
    before = gateway.lease.current()
    world.away, world.now = True, 10.0
    assert gateway.lease.current() == before
    assert gateway.lease.away
    world.away, world.now = False, 11.0
    after = gateway.lease.current()
    assert after is not None
    assert before is not None
    assert after.number > before.number
    assert not gateway.lease.away
