import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from antiphon.core.clock import ManualClock
from antiphon.core.errors import UnavailableError
from antiphon.core.leases import Leases, Renewer


class Source:
    """What is leased: counts its readings, and may be away or in the middle of one."""

    def __init__(self) -> None:
        self.clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.value: str | None = "old"
        self.readings = 0
        self.away = False
        self.begun, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()

    def passes(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    def leases(self, renewer: Renewer | None = None, most: int = 10) -> Leases[str, str]:
        return Leases(self.clock, seconds=1.0, bound=10.0, most=most, renewer=renewer)

    def read(self) -> str | None:
        self.readings += 1
        value = self.value
        self.begun.set()
        assert self.goes_on.wait(10)
        if self.away:
            raise UnavailableError("The source is away.", where="test")
        return value


@pytest.fixture
def renewer() -> Iterator[Renewer]:
    made = Renewer()
    made.start()
    yield made
    made.close()


def settled(renewer: Renewer) -> None:
    """Everything that was submitted is done."""
    done = threading.Event()
    assert renewer.submit(done.set)
    assert done.wait(10)


def test_it_is_read_once_a_lease() -> None:
    source = Source()
    leases = source.leases()
    assert leases.look("a", source.read) == leases.look("a", source.read) == "old"
    assert (source.readings, leases.fresh("a"), leases.fresh("b")) == (1, "old", None)
    source.passes(1.1)
    assert leases.fresh("a") is None
    assert (leases.last("a"), leases.look("a", source.read), source.readings) == ("old", "old", 2)


def test_nothing_is_not_remembered_and_takes_away_what_was() -> None:
    source = Source()
    leases = source.leases()
    leases.look("a", source.read)
    source.passes(1.1)
    source.value = None
    assert leases.look("a", source.read) is None
    assert (leases.look("a", source.read), source.readings, leases.last("a")) == (None, 3, None)


def test_while_the_source_is_away_it_is_believed_up_to_the_bound() -> None:
    source = Source()
    leases = source.leases()
    leases.look("a", source.read)
    source.away = True
    source.passes(9.9)
    assert leases.look("a", source.read) == "old"
    source.passes(0.2)
    with pytest.raises(UnavailableError):
        leases.look("a", source.read)
    with pytest.raises(UnavailableError):
        leases.look("never read", source.read)


def test_a_lease_counts_from_the_readings_begin() -> None:
    source = Source()
    leases = source.leases()

    def slow() -> str | None:
        source.passes(0.8)
        return source.read()

    leases.look("a", slow)
    source.passes(0.3)
    assert leases.fresh("a") is None


def test_a_reading_that_began_before_it_was_forgotten_does_not_bring_it_back() -> None:
    source = Source()
    leases = source.leases()

    def read() -> str | None:
        found = source.read()
        source.value = "new"
        leases.forget()
        return found

    assert leases.look("a", read) == "old"
    assert leases.look("a", source.read) == "new"


def test_a_reading_that_began_earlier_does_not_replace_what_a_later_one_found() -> None:
    source = Source()
    leases = source.leases()

    def slow() -> str | None:
        found = source.read()
        source.passes(0.1)
        source.value = "new"
        leases._read("a", source.read)
        return found

    assert leases.look("a", slow) == "old"
    assert leases.fresh("a") == "new"


def test_of_many_who_find_a_lease_over_one_reads() -> None:
    source = Source()
    leases, found = source.leases(), list[str | None]()
    source.goes_on.clear()
    threads = [threading.Thread(target=lambda: found.append(leases.look("a", source.read))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert source.begun.wait(10)
    source.goes_on.set()
    for thread in threads:
        thread.join(10)
    assert (found, source.readings) == (["old"] * 5, 1)


def test_it_remembers_a_bounded_number() -> None:
    source = Source()
    leases = source.leases(most=3)
    for number in range(10):
        leases.look(str(number), source.read)
        assert leases.last(str(number)) == "old"
    assert sum(leases.last(str(number)) is not None for number in range(10)) <= 3


def test_who_asks_late_in_a_lease_has_it_renewed_and_waits_for_nothing(renewer: Renewer) -> None:
    source = Source()
    leases = source.leases(renewer)
    leases.look("a", source.read)
    source.passes(0.6)
    leases.look("a", source.read)
    settled(renewer)
    assert source.readings == 1, "too early"
    source.passes(0.2)
    source.value = "new"
    source.goes_on.clear()
    source.begun.clear()
    for _ in range(3):
        assert leases.look("a", source.read) == leases.fresh("a", source.read) == "old"
    assert source.begun.wait(10)
    source.goes_on.set()
    settled(renewer)
    assert (source.readings, leases.fresh("a")) == (2, "new")
    source.passes(0.9)
    assert leases.fresh("a") == "new", "the lease is a new one"


def test_a_renewal_that_fails_leaves_the_lease_as_it_was(renewer: Renewer, caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    leases = source.leases(renewer)
    leases.look("a", source.read)
    source.passes(0.8)
    source.away = True
    assert leases.look("a", source.read) == "old"
    settled(renewer)
    assert caplog.records == []

    def broken() -> str:
        raise ValueError("broken")

    assert leases.look("a", broken) == "old"
    settled(renewer)
    assert [record.getMessage() for record in caplog.records] == ["A lease was not renewed"]
    source.away = False
    source.passes(0.3)
    assert leases.look("a", source.read) == "old"
    assert source.readings == 3


def test_what_was_revoked_is_gone_as_soon_as_it_is_renewed(renewer: Renewer) -> None:
    source = Source()
    leases = source.leases(renewer)
    leases.look("a", source.read)
    source.passes(0.8)
    source.value = None
    leases.look("a", source.read)
    settled(renewer)
    assert leases.fresh("a") is None


def test_before_its_start_and_after_its_end_nothing_is_renewed() -> None:
    renewer, source = Renewer(), Source()
    leases = source.leases(renewer)
    leases.look("a", source.read)
    source.passes(0.8)
    assert leases.look("a", source.read) == "old"
    renewer.start()
    renewer.close()
    renewer.close()
    assert leases.look("a", source.read) == "old"
    assert source.readings == 1
