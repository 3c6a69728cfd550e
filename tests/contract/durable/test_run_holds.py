"""Freezes and windows: no run of their workflows is claimed inside of one, and those under way are asked to yield."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.doorbell import ring_name
from antiphon.catalog.run_holds import RunHold, RunHolds
from antiphon.core.clock import ManualClock
from antiphon.core.errors import NotFoundError
from antiphon.durable.claims import ServedRuns
from antiphon.durable.runs import Runs

LEASE = timedelta(seconds=10)
ALL = ServedRuns("dev")


def hold(name: str, begins: datetime, until: datetime, *workflows: str, kind: str = "freeze") -> RunHold:
    return RunHold(name, kind, name, tuple(sorted(workflows)), begins, until, "the launch", "ada")  # type: ignore[arg-type]


@pytest.fixture
def holds(database: Database) -> RunHolds:
    return RunHolds(database)


def test_no_run_of_a_held_workflow_is_claimed_until_the_hold_is_over(
    database: Database, holds: RunHolds, clock: ManualClock
) -> None:
    runs = Runs(database)
    training, refresh = runs.submit(DEV, "train", {}), runs.submit(DEV, "refresh", {})
    holds.add(DEV, hold("f1", NOON, NOON + timedelta(hours=1), "train", "table_job"))
    found = runs.claim("w", ALL, LEASE)
    assert found is not None
    assert found.id == refresh
    assert runs.claim("w", ALL, LEASE) is None
    assert not runs.queued(ALL)
    runs.end(found, {})
    assert runs.next_due(ALL) == timedelta(hours=1)  # The executor sleeps until then, instead of looking again at once.
    clock.advance(timedelta(minutes=59))
    assert runs.claim("w", ALL, LEASE) is None
    clock.advance(timedelta(minutes=1))
    found = runs.claim("w", ALL, LEASE)
    assert found is not None
    assert found.id == training


class FreezingClock:
    """The clock of a worker of which the first look is followed by a freeze before it writes."""

    def __init__(self, holds: RunHolds, clock: ManualClock) -> None:
        self._holds = holds
        self._clock = clock
        self._frozen = False

    def now(self) -> datetime:
        found = self._clock.now()
        if not self._frozen:
            self._frozen = True
            self._clock.advance(timedelta(seconds=1))
            begins = self._clock.now()
            self._holds.add(DEV, hold("f1", begins, begins + timedelta(hours=1), "train"))
            self._clock.advance(timedelta(seconds=1))
        return found

    def monotonic(self) -> float:
        return self._clock.monotonic()


def test_a_freeze_that_is_committed_while_a_claim_waits_for_the_catalog_holds_it(
    database: Database, holds: RunHolds, clock: ManualClock
) -> None:
    Runs(database).submit(DEV, "train", {})
    assert Runs(database, FreezingClock(holds, clock)).claim("w", ALL, LEASE) is None
    clock.advance(timedelta(hours=1))
    assert Runs(database).claim("w", ALL, LEASE) is not None


def test_a_hold_is_of_its_scope_and_begins_when_it_says(
    database: Database, holds: RunHolds, clock: ManualClock
) -> None:
    runs = Runs(database)
    holds.add(OTHER, hold("f1", NOON, NOON + timedelta(hours=1), "train"))
    holds.add(DEV, hold("f2", NOON + timedelta(minutes=5), NOON + timedelta(hours=1), "train"))
    runs.submit(DEV, "train", {})
    assert runs.claim("w", ALL, LEASE) is not None
    runs.submit(DEV, "train", {})
    clock.advance(timedelta(minutes=5))
    assert runs.claim("w", ALL, LEASE) is None
    assert [one.id for one in holds.lasting(DEV)] == ["f2"]


def test_a_run_under_way_is_asked_to_yield_and_one_that_was_exempted_is_not(
    database: Database, holds: RunHolds
) -> None:
    runs = Runs(database)
    first, second = runs.submit(DEV, "train", {}), runs.submit(DEV, "train", {})
    held, exempted = runs.claim("w", ALL, LEASE), runs.claim("w", ALL, LEASE)
    assert held is not None
    assert exempted is not None
    assert (held.id, exempted.id) == (first, second)
    assert runs.heartbeat(held, LEASE) is None
    holds.add(DEV, hold("f1", NOON, NOON + timedelta(hours=1), "train"))
    assert runs.exempt(DEV, second, "ada").exempted_by == "ada"
    assert (runs.heartbeat(held, LEASE), runs.heartbeat(exempted, LEASE)) == ("yield", None)
    runs.give_back(held)
    again = runs.get(DEV, first)
    assert (again.status, again.attempts) == ("queued", 0)
    assert runs.claim("w", ALL, LEASE) is None
    runs.exempt(DEV, first, "ada")
    assert runs.claim("w", ALL, LEASE) is not None
    runs.cancel(DEV, second)
    assert runs.heartbeat(exempted, LEASE) == "cancel"


def test_a_run_whose_worker_died_does_not_begin_again_inside_a_hold(
    database: Database, holds: RunHolds, clock: ManualClock
) -> None:
    runs = Runs(database)
    run = runs.submit(DEV, "train", {})
    assert runs.claim("dead", ALL, LEASE) is not None
    holds.add(DEV, hold("f1", NOON, NOON + timedelta(hours=1), "train"))
    clock.advance(timedelta(minutes=1))
    assert runs.claim("w", ALL, LEASE) is None
    assert runs.next_due(ALL) == timedelta(minutes=59)
    holds.end(DEV, "f1")
    found = runs.claim("w", ALL, LEASE)
    assert found is not None
    assert (found.id, found.attempts, found.started_at) == (run, 2, NOON)


def test_a_limit_leaves_so_many_under_way_and_asks_the_latest_to_yield(
    database: Database, holds: RunHolds, clock: ManualClock
) -> None:
    runs, hour = Runs(database), timedelta(hours=1)
    for workflow in ("table_job", "export", "table_job", "train"):
        runs.submit(DEV, workflow, {})
        clock.advance(timedelta(seconds=1))
    claimed = []
    while (run := runs.claim("w", ALL, timedelta(hours=2))) is not None:
        claimed.append(run)
        clock.advance(timedelta(seconds=1))
    limit = hold("l1", clock.now(), clock.now() + hour, "export", "table_job", kind="limit")
    holds.add(DEV, msgspec.structs.replace(limit, slots=2))
    asked = {run.id: runs.heartbeat(run, timedelta(hours=2)) for run in claimed}
    assert list(asked.values()).count("yield") == 1
    (last,) = [run for run in claimed if asked[run.id] == "yield"]
    limited = [run for run in claimed if run.workflow != "train"]
    assert last == limited[-1]
    runs.give_back(last)
    assert [runs.heartbeat(run, timedelta(hours=2)) for run in claimed if run != last] == [None] * 3
    assert runs.claim("w", ALL, LEASE) is None
    assert runs.claim("other", ALL, LEASE) is None, "it is the limit of all workers together"
    rung = threading.Event()
    unlisten = database.doorbell.listen(rung.set, [ring_name("runs", "dev")])
    rung.clear()
    runs.end(limited[0], {})
    assert rung.wait(5), "one that waits may begin"
    unlisten()
    again = runs.claim("other", ALL, LEASE)
    assert again is not None
    assert again.id == last.id
    assert (holds.lasting(DEV), [one.slots for one in holds.lasting(DEV, limits=True)]) == ((), [2])
    runs.submit(DEV, "export", {})
    assert runs.claim("w", ALL, LEASE) is None
    clock.advance(timedelta(seconds=11))
    lapsed = runs.claim("w", ALL, LEASE)
    assert lapsed is not None, "the slot of a worker that died is free"
    holds.end(DEV, "l1")
    assert runs.claim("w", ALL, LEASE) is not None


def test_windows_take_the_place_of_others_and_leave_freezes_alone(holds: RunHolds, clock: ManualClock) -> None:
    hour = timedelta(hours=1)
    freeze = hold("f1", NOON, NOON + hour, "train")
    holds.add(DEV, freeze)
    windows = [hold(f"w{n}", NOON + n * hour, NOON + (n + 1) * hour, "train", kind="window") for n in (2, 4)]
    assert holds.put_windows(DEV, windows)
    assert not holds.put_windows(DEV, windows)
    assert holds.lasting(DEV) == (freeze, *windows)
    assert holds.put_windows(DEV, windows[1:])
    assert holds.lasting(DEV) == (freeze, windows[1])
    clock.advance(timedelta(hours=6))
    assert holds.lasting(DEV) == ()
    assert holds.list(DEV, NOON) == (freeze, windows[1])
    clock.advance(timedelta(days=31))
    holds.add(DEV, hold("f2", clock.now(), clock.now() + hour, "train"))
    assert [one.id for one in holds.list(DEV, NOON)] == ["f2"]
    with pytest.raises(NotFoundError, match="no hold 'f1'"):
        holds.end(DEV, "f1")


def test_a_window_that_ended_while_it_was_to_be_written_stays_as_it_is(
    database: Database, holds: RunHolds, clock: ManualClock
) -> None:
    peak = hold("w1", NOON, NOON + timedelta(minutes=1), "train", "table_job", kind="window")
    late = hold("w2", NOON, NOON + timedelta(minutes=1), "train", kind="window")
    assert holds.put_windows(DEV, [peak])
    clock.advance(timedelta(minutes=1))
    assert not holds.put_windows(DEV, [peak, late])
    assert holds.list(DEV, NOON) == (peak,)
