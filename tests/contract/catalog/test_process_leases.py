from __future__ import annotations

from datetime import timedelta

import pytest

from antiphon.catalog.database import Database
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.clock import ManualClock


@pytest.fixture
def leases(database: Database) -> ProcessLeases:
    return ProcessLeases(database, "dev")


def test_a_lease_has_one_holder_who_renews_it(leases: ProcessLeases, clock: ManualClock) -> None:
    assert leases.acquire("duties", "one", 10)
    assert not leases.acquire("duties", "two", 10)
    clock.advance(timedelta(seconds=8))
    assert leases.acquire("duties", "one", 10)
    clock.advance(timedelta(seconds=8))
    assert not leases.acquire("duties", "two", 10)
    found = leases.find("duties")
    assert found is not None
    assert (found.holder, found.epoch) == ("one", 1)


def test_a_lease_that_is_over_or_given_back_is_anyones(leases: ProcessLeases, clock: ManualClock) -> None:
    assert leases.acquire("duties", "one", 10)
    clock.advance(timedelta(seconds=11))
    assert leases.acquire("duties", "two", 10)
    assert not leases.acquire("duties", "one", 10)
    leases.release("duties", "one")  # It is not its own any more.
    assert not leases.acquire("duties", "three", 10)
    leases.release("duties", "two")
    assert leases.acquire("duties", "three", 10)


def test_a_holder_that_is_known_to_be_gone_is_not_waited_for(leases: ProcessLeases) -> None:
    assert leases.acquire("duties", "one", 1_000)
    assert not leases.acquire("duties", "two", 10, gone=lambda holder: holder == "three")
    assert leases.acquire("duties", "two", 10, gone=lambda holder: holder == "one")
    found = leases.find("duties")
    assert found is not None
    assert (found.holder, found.epoch) == ("two", 2)


def test_leases_of_the_dead_are_forgotten(leases: ProcessLeases, clock: ManualClock) -> None:
    assert leases.acquire("gateway/1", "one", 60)
    clock.advance(timedelta(days=1, seconds=61))
    assert leases.acquire("gateway/2", "two", 60)
    assert leases.find("gateway/1") is None


def test_names_and_environments_are_apart(leases: ProcessLeases, database: Database) -> None:
    assert leases.acquire("duties", "one", 10)
    assert leases.acquire("worker/a", "two", 10)
    assert ProcessLeases(database, "prod").acquire("duties", "two", 10)
