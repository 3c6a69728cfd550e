"""A client of several gateways never goes back: clocks that drift, slow catalogs, processes that stop at any moment.

The real lease runs in gateways whose time is simulated; a seed replays exactly. Each defense, switched off, is found.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from antiphon.catalog.features.publications import COMMIT, NOTICE, Publication, PublicationSchedule
from antiphon.core.errors import UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.online import publication_lease
from antiphon.features.online.publication_lease import PublicationLease

SCOPE = Scope()
START = datetime(2024, 1, 1, tzinfo=UTC)
SECONDS = 20.0


class Installation:
    """One catalog with a row every 20 to 300 ms, and its true time in seconds."""

    def __init__(self, seed: int, notice: timedelta) -> None:
        self.chance = random.Random(seed)
        self.now = 1.0
        self.away = False
        self.freezes = True
        self.rows: list[tuple[float, Publication]] = []
        at = 0.0
        while at < SECONDS:
            told = START + timedelta(seconds=at)
            visible = at + self.chance.uniform(0, COMMIT.total_seconds())
            number = len(self.rows) + 1
            self.rows.append((visible, Publication(SCOPE, number, {}, "", "", told, number - 1, told + notice)))
            at = visible + self.chance.uniform(0.02, 0.3)

    def spend(self, most: float) -> None:
        """Time passes; now and then the process is stopped for much longer."""
        self.now += self.chance.uniform(0, most)
        if self.freezes and self.chance.random() < 0.005:
            self.now += self.chance.uniform(0.05, 1.5)


class Gateway:
    """A gateway's clock and its view of the catalog."""

    def __init__(self, installation: Installation, lease: float, *, exact: bool = False) -> None:
        self._installation = installation
        self._rate = 1 + installation.chance.uniform(-5e-4, 5e-4)
        self._exact = exact
        self.lease = PublicationLease(
            SCOPE,
            self,
            self,
            seconds=lease * installation.chance.uniform(0.2, 1),
            moved=lambda before, after: None,
            wait=self._wait,
        )  # type: ignore[arg-type]

    def monotonic(self) -> float:
        return self._installation.now * self._rate

    def _wait(self, seconds: float) -> None:
        self._installation.now += seconds / self._rate

    def schedule(self, scope: Scope) -> PublicationSchedule:
        world = self._installation
        read_at = self.monotonic()
        world.spend(0.005)
        if world.away:
            raise UnavailableError("The catalog is away.")
        asked_at = self.monotonic()
        world.spend(0.002)
        now, seen_at = START + timedelta(seconds=world.now), world.now
        world.spend(0.002)
        told_at = self.monotonic()
        world.spend(0.005)
        seen = [row for visible, row in world.rows if visible <= seen_at]
        due = [row for row in seen if row.served_from <= now]
        if self._exact:  # As if the clock were known exactly.
            told_at = asked_at
        return PublicationSchedule(due[-1] if due else None, tuple(seen[len(due) :]), now, read_at, asked_at, told_at)


def went_back(seed: int, gateways: int, *, notice: timedelta = NOTICE, lease: float = 0.1, exact: bool = False) -> int:
    """Answers of a client that asks a gateway by chance which are of an older publication than the one before."""
    world = Installation(seed, notice)
    asked = [Gateway(world, lease, exact=exact) for _ in range(gateways)]
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
    assert went_back(1, 2, notice=timedelta(0)) > 0


def test_a_clock_that_is_taken_for_exact_is_found_going_back() -> None:
    assert sum(went_back(seed, 4, exact=True) for seed in range(25)) > 0


def test_a_lease_that_is_longer_than_the_notice_is_found_going_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication_lease, "LONGEST_LEASE", timedelta(seconds=5))
    assert sum(went_back(seed, 2, lease=1.0) for seed in range(25)) > 0


def test_what_was_announced_is_begun_in_time_while_the_catalog_is_away() -> None:
    world = Installation(3, NOTICE)
    world.freezes = False
    gateway = Gateway(world, 0.1)
    first = gateway.lease.current()
    assert first is not None
    coming = gateway.lease.announced()[-1]
    world.away = True
    world.now = (coming.served_from - START).total_seconds() - 0.01
    before = gateway.lease.current()
    assert before is not None
    assert first.number <= before.number < coming.number
    world.now += 0.02
    assert gateway.lease.current() == coming
    assert gateway.lease.away
    world.now += 10.0
    assert gateway.lease.current() == coming
    world.away = False
    world.now += 1.0
    later = gateway.lease.current()
    assert later is not None
    assert later.number > coming.number
    assert not gateway.lease.away
