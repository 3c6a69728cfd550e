from __future__ import annotations

from datetime import timedelta

import pytest
from tests.harness.silence import rings_of

from antiphon.catalog.database import Database
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.training_pauses import TrainingHost, TrainingPauses
from antiphon.core.clock import ManualClock


@pytest.fixture
def pauses(database: Database) -> TrainingPauses:
    return TrainingPauses(database, "dev")


def test_a_pause_holds_until_its_end_and_as_long_as_it_is_prolonged(pauses: TrainingPauses, clock: ManualClock) -> None:
    began = clock.now()
    held = pauses.hold("north", "process 1", "online requests", 5)
    assert (held.since, held.until) == (began, began + timedelta(seconds=5))
    clock.advance(timedelta(seconds=4))
    assert pauses.remaining(held) == 1
    prolonged = pauses.hold("north", "process 1", "online requests", 5)
    assert (prolonged.since, prolonged.until) == (began, began + timedelta(seconds=9))
    assert pauses.known() == ((prolonged,), ())
    clock.advance(timedelta(seconds=6))
    assert pauses.known() == ((), ()), "its writer died"
    again = pauses.hold("north", "process 1", "online requests", 5)
    assert again.since == clock.now(), "another pause, not a longer one"


def test_each_writer_ends_its_own(pauses: TrainingPauses) -> None:
    first = pauses.hold("north", "process 1", "online requests", 5)
    second = pauses.hold("north", "process 2", "online requests", 5)
    ordered = pauses.hold("*", "ada", "a demonstration", 3_600, ordered=True)
    assert set(pauses.known()[0]) == {first, second, ordered}
    assert pauses.end([("north", "process 1"), ("south", "process 2")]) == 1
    assert set(pauses.known()[0]) == {second, ordered}
    assert pauses.end([("*", "ada")]) == 1
    assert pauses.known()[0] == (second,)


def test_workers_that_train_are_known_until_they_say_otherwise_or_are_gone(
    pauses: TrainingPauses, clock: ManualClock
) -> None:
    north, south = TrainingHost("north", "worker@north"), TrainingHost("south", "worker@south", everywhere=True)
    pauses.announce(north, "process 1", 15, first=True)
    pauses.announce(south, "process 2", 15, first=True)
    assert pauses.known() == ((), (north, south))
    pauses.withdraw("worker@north", "process 2")
    assert pauses.known() == ((), (north, south)), "that is not its own"
    pauses.withdraw("worker@north", "process 1")
    clock.advance(timedelta(seconds=10))
    pauses.announce(south, "process 3", 15, first=True)  # The same worker, started again.
    clock.advance(timedelta(seconds=10))
    assert pauses.known() == ((), (south,))
    clock.advance(timedelta(seconds=10))
    assert pauses.known() == ((), ())


def test_environments_are_apart_and_who_waits_is_woken_once_a_pause(pauses: TrainingPauses, database: Database) -> None:
    rings = rings_of(database, "training:dev", "training:prod")
    TrainingPauses(database, "prod").hold("north", "process 1", "online requests", 5)
    assert (pauses.known(), rings) == (((), ()), ["training:prod"])
    pauses.hold("north", "process 1", "online requests", 5)
    pauses.hold("north", "process 1", "online requests", 5)
    assert rings[1:] == ["training:dev"]
    pauses.end([("north", "process 1")])
    assert rings[2:] == ["training:dev"]


def test_a_row_that_cannot_be_read_is_left_out(
    pauses: TrainingPauses, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    leases = ProcessLeases(database, "dev")
    assert leases.acquire("training/pause/north/newer", "newer", 60, detail='{"place": "north"}')
    assert leases.acquire("training/under-way/older", "older", 60)
    held = pauses.hold("north", "process 1", "online requests", 5)
    assert pauses.known() == ((held,), ())
    assert "training/under-way/older" in caplog.text
