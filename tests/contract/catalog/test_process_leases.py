from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from antiphon.catalog.database import Database
from antiphon.catalog.engine_instances import EngineInstances
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.clock import ManualClock
from antiphon.engine.api.messages import EngineInstance, EngineLoad


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


def test_living_leases_are_listed_by_the_beginning_of_their_name(leases: ProcessLeases, clock: ManualClock) -> None:
    assert leases.acquire("engine/a_b", "one", 5, detail="first")
    assert leases.acquire("engine/b", "two", 60, detail="second")
    assert leases.acquire("gateway/1", "three", 60)
    assert leases.acquire("engine/a_b", "one", 5, detail="renewed")
    listed = [(lease.name, lease.holder, lease.detail) for lease in leases.living("engine/")]
    assert listed == [("engine/a_b", "one", "renewed"), ("engine/b", "two", "second")]
    assert [lease.name for lease in leases.living("engine/a%")] == [], "a sign of the query's own"
    clock.advance(timedelta(seconds=6))
    assert [lease.name for lease in leases.living("engine/")] == ["engine/b"]
    leases.release("engine/b", "two")
    assert leases.living("engine/") == ()
    assert leases.find("gateway/1") is not None


def test_an_engine_that_says_nonsense_of_itself_is_left_out(
    leases: ProcessLeases, caplog: pytest.LogCaptureFixture
) -> None:
    known = EngineInstance("gpu@host", "host/1", "host", "/run/e.sock", "", {"words": "f"}, {}, EngineLoad(slots=4))
    assert leases.acquire("engine/good", "one", 60, detail=msgspec.json.encode(known).decode())
    assert leases.acquire("engine/newer", "two", 60, detail='{"name": "gpu-2", "shape": 7}')
    assert leases.acquire("engine/none", "three", 60)
    assert EngineInstances(leases).living() == (known,)
    assert "engine/newer" in caplog.text
