"""Reads of a look share one transaction, and what they find is found once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from tests.catalogs import opened_again

from antiphon.catalog.database import Database
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.clock import ManualClock
from antiphon.core.errors import AntiphonError


@pytest.fixture
def leases(database: Database) -> ProcessLeases:
    return ProcessLeases(database, "dev")


@pytest.fixture
def others(database: Database, clock: ManualClock) -> Iterator[ProcessLeases]:
    another = opened_again(database, clock)
    yield ProcessLeases(another, "dev")
    another.close()


def names(leases: ProcessLeases) -> list[str]:
    return [lease.name for lease in leases.listed("")]


def test_reads_of_a_look_see_one_state(database: Database, leases: ProcessLeases, others: ProcessLeases) -> None:
    with database.look():
        assert names(leases) == []
        others.acquire("one", "another", 10)
        assert names(leases) == []
        with database.look():
            assert names(leases) == [], "a look within another is a part of it"
    assert names(leases) == ["one"]


def test_what_a_look_wrote_its_next_read_sees(database: Database, leases: ProcessLeases, others: ProcessLeases) -> None:
    with database.look():
        assert names(leases) == []
        others.acquire("one", "another", 10)
        leases.acquire("two", "this", 10)
        assert names(leases) == ["one", "two"]


def test_a_read_that_goes_on_sees_what_it_saw(database: Database, leases: ProcessLeases) -> None:
    with database.look():
        with database.read() as connection:
            leases.acquire("one", "this", 10)
            assert names(leases) == []
            assert connection.execute(sa.text("SELECT 1")).scalar() == 1
        assert names(leases) == ["one"]


def test_after_a_statement_that_fails_the_look_goes_on(database: Database, leases: ProcessLeases) -> None:
    with database.look():
        assert names(leases) == []
        with pytest.raises((AntiphonError, sa.exc.DBAPIError)), database.read() as connection:
            connection.execute(sa.text("SELECT nothing FROM nowhere"))
        assert names(leases) == []


def test_a_look_finds_once_what_does_not_change(database: Database, leases: ProcessLeases) -> None:
    found: list[list[str]] = []

    def read() -> list[str]:
        found.append(names(leases))
        return found[-1]

    assert (database.once("names", read), database.once("names", read)) == ([], [])
    assert len(found) == 2, "without a look each is a read"
    with database.look():
        assert database.once("names", read) is database.once("names", read)
        assert len(found) == 3
        leases.acquire("one", "this", 10)
        assert database.once("names", read) == database.once("names", read) == ["one"]
        assert len(found) == 4
    with database.look():
        database.once("names", read)
    assert len(found) == 5
