"""The ledger: each usage is in it once if its transaction is committed, and not at all otherwise."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import func, select
from tests.unit.catalog.examples import DEV, NOON, OTHER, receipt

from antiphon.catalog import ledger as ledger_module
from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.ledger import ERASED, Ledger, MeteredUsage
from antiphon.catalog.meters import MeterReadings, MeterState
from antiphon.catalog.prices import Prices
from antiphon.catalog.serving.receipt import UsageReceipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError
from antiphon.core.scope import ANY, Scope
from antiphon.durable.claims import ServedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.runs import Runs
from antiphon.learning.retraining.training_meters import TrainingMeter, TrainingMeters, sweep_meters
from antiphon.operations.cost.metering import usages_of
from antiphon.services.cost.metered_receipts import MeteredReceipts
from antiphon.training.processes import TrainingUsage

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ENGINE = MeteredUsage("engine", 7, application="desk", engine="main")


def quantities(database: Database, scope: object = DEV) -> dict[tuple[str, str, str], int]:
    found = Ledger(database).entries(scope, NOON - DAY, NOON + DAY)  # type: ignore[arg-type]
    return {(f"{one.hour:%H}", one.resource, one.work): one.quantity for one in found}


def test_usages_of_a_transaction_are_summed_by_their_hour(database: Database, clock: ManualClock) -> None:
    ledger = Ledger(database)
    for _ in range(2):
        with database.transaction():
            ledger.add_with_commit(DEV, [ENGINE, ENGINE, MeteredUsage("answer", 0)])
    clock.advance(HOUR)
    with database.transaction():
        ledger.add_with_commit(DEV, [ENGINE])
        ledger.add_with_commit(OTHER, [ENGINE])
        ledger.add_shared_with_commit("dev", [MeteredUsage("engine_measured", 5, engine="main")])
    assert quantities(database) == {("12", "engine", ""): 28, ("13", "engine", ""): 7}
    assert [(one.tenant, one.quantity) for one in ledger.engine_time("dev", NOON, NOON + DAY)] == [
        ("default", 28), ("default", 7), ("other", 7)
    ]  # fmt: skip
    assert [one.tenant for one in ledger.shared("dev", NOON, NOON + DAY)] == [ANY]
    assert ledger.measured_since("dev") == {"main": NOON + HOUR}
    assert (ledger.engine_time("dev", NOON, NOON + DAY, "gpu"), ledger.measured_since("dev", "gpu")) == ([], {})
    with database.transaction():
        ledger.add_with_commit(OTHER, [MeteredUsage("gpu", 14, engine="main")])
        ledger.add_shared_with_commit("dev", [MeteredUsage("gpu_measured", 10, engine="main")])
    assert [one.quantity for one in ledger.engine_time("dev", NOON, NOON + DAY, "gpu")] == [14]
    assert ledger.measured_since("dev", "gpu") == {"main": NOON + HOUR}
    assert ledger.began(DEV) == NOON


def test_what_one_run_or_job_used_is_read_by_itself(database: Database, clock: ManualClock) -> None:
    ledger = Ledger(database)
    for hour in range(3):
        with database.transaction():
            for work in ("job_1", "job_2", "run_1"):
                ledger.add_with_commit(DEV, [msgspec.structs.replace(ENGINE, work=work, quantity=hour + 1)])
            ledger.add_with_commit(OTHER, [msgspec.structs.replace(ENGINE, work="job_1")])
        clock.advance(HOUR)
    found = ledger.of_work(DEV, ["job_1", "run_1", "job_9"])
    assert [(f"{one.hour:%H}", one.work, one.quantity) for one in found] == [
        (f"{12 + hour}", work, hour + 1) for hour in range(3) for work in ("job_1", "run_1")
    ]
    assert ledger.of_work(DEV, []) == []


def test_what_is_undone_is_not_in_the_ledger(database: Database) -> None:
    ledger = Ledger(database)

    def fail() -> None:
        with database.transaction():
            ledger.add_with_commit(DEV, [ENGINE])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert quantities(database) == {}


async def test_each_of_many_receipts_counts_once_whoever_tries_again(database: Database) -> None:
    receipts, commit = MeteredReceipts(Receipts(database), database), GroupCommit(database)
    made = [
        receipt(f"pred_{number}", usage=UsageReceipt(number, 0, 1, engine_seconds=number / 7)) for number in range(60)
    ]

    async def add(number: int) -> bool:
        try:
            await commit.submit(lambda connection: receipts.add(made[number], within=connection))
        except ConflictError:
            return False
        return True

    added = await asyncio.gather(*(add(number) for number in [*range(60), *range(60)]))
    await asyncio.to_thread(commit.close)
    assert sum(added) == 60
    expected: dict[tuple[str, str, str], int] = {}
    for one in made:
        for usage in usages_of(one):
            key = ("12", usage.resource, "")
            expected[key] = expected.get(key, 0) + usage.quantity
    assert quantities(database) == expected


def test_a_run_is_charged_for_each_attempt_and_a_worker_that_lost_it_for_nothing_more(
    database: Database, clock: ManualClock
) -> None:
    runs, served, lease = Runs(database), ServedRuns("dev"), timedelta(seconds=10)
    name = runs.submit(DEV, "train", {"application": "desk"}, max_attempts=5)
    lost = runs.claim("w1", served, lease)
    assert lost is not None
    clock.advance(timedelta(minutes=2))  # Its lease was over after 10 seconds.
    second = runs.claim("w2", served, lease)
    assert second is not None
    clock.advance(timedelta(seconds=4))
    with pytest.raises(ConflictError):
        runs.end(lost, {})
    runs.fail(second, "it failed", retry_at=clock.now())
    third = runs.claim("w2", served, lease)
    assert third is not None
    clock.advance(timedelta(seconds=3))
    runs.give_back(third)
    last = runs.claim("w2", served, lease)
    assert last is not None
    clock.advance(timedelta(seconds=2))
    runs.end(last, {"release": "rel_1"})
    found = Ledger(database).entries(DEV, NOON, NOON + DAY)
    assert {(one.application, one.role, one.work): one.quantity for one in found} == {
        ("", "train", name): 10_000_000,
        ("desk", "train", name): 9_000_000,
    }


@pytest.fixture
def training(database: Database, clock: ManualClock) -> RunContext:
    """A run that a worker holds."""
    runs = Runs(database)
    runs.submit(DEV, "train", {"application": "desk"})
    held = runs.claim("w1", ServedRuns("dev"), timedelta(seconds=60))
    assert held is not None
    return RunContext(held, runs, clock, {})


async def test_each_process_of_a_training_counts_once_in_whatever_order_it_is_read(
    database: Database, training: RunContext
) -> None:
    meters = TrainingMeters(database)

    async def enter(*readings: tuple[str, float]) -> None:
        named = [TrainingUsage(*one) for one in readings]
        await training.fenced(lambda within: meters.enter(training, named, within))

    await enter(("a", 1.5))
    await enter(("a", 1.5))  # The commit was not heard of.
    await enter(("a", 1.25))
    await enter(("a", 2.0), ("b", 0.75))
    await enter(("a", 2.0), ("b", 1.000001), ("c", 0.0))
    (entered,) = Ledger(database).entries(DEV, NOON, NOON + DAY)
    assert (entered.resource, entered.quantity) == ("training_processor", 3_000_001)
    assert (entered.application, entered.role, entered.work) == ("desk", "train", training.id)


async def test_the_memory_of_a_training_is_entered_with_its_processors(
    database: Database, training: RunContext
) -> None:
    meters = TrainingMeters(database)
    for seconds, held in ((0.5, 7e9), (0.5, 8e9), (0.5, 8e9), (0.75, 8.5e9)):
        usage = TrainingUsage("a", seconds, held)  # One that is paused uses no processor.
        await training.fenced(lambda within, usage=usage: meters.enter(training, [usage], within))
    found = Ledger(database).of_work(DEV, [training.id])
    assert {one.resource: one.quantity for one in found} == {"training_processor": 750_000, "memory": 8_500_000_000}


async def test_a_worker_that_lost_a_training_enters_nothing(
    database: Database, clock: ManualClock, training: RunContext
) -> None:
    runs, served = Runs(database), ServedRuns("dev")
    meters = TrainingMeters(database)
    first = TrainingMeter(meters, training)

    async def used(meter: TrainingMeter, process: str, seconds: float) -> None:
        meter.read(TrainingUsage(process, seconds))

    await first.enter_while(used(first, "a", 2.0))
    clock.advance(timedelta(seconds=61))
    held = runs.claim("w2", served, timedelta(seconds=60))
    assert held is not None
    await first.enter_while(used(first, "a", 9.0))
    taken_over = RunContext(held, runs, clock, {})
    second = TrainingMeter(meters, taken_over)
    await second.enter_while(used(second, "b", 0.5))
    assert quantities(database)[("12", "training_processor", training.id)] == 2_500_000
    # The meters go once the run has ended, and not before.
    readings = MeterReadings(database)

    def ended(scope: Scope, run: str) -> bool:
        return runs.get(scope, run).ended_at is not None

    sweep_meters(readings, DEV, ended)
    assert len(readings.names("default", "dev", "training/")) == 2
    runs.end(held, {})
    sweep_meters(readings, DEV, ended)
    assert readings.names("default", "dev", "training/") == []


def test_a_meter_is_moved_once_by_whoever_read_it_where_it_was(database: Database) -> None:
    readings = MeterReadings(database)
    first = MeterState("engine/main", "a", 10, 5, NOON)
    with database.transaction() as connection:
        assert readings.find(ANY, "dev", "engine/main", within=connection) is None
        assert readings.move(ANY, "dev", None, first, within=connection)
        assert not readings.move(ANY, "dev", None, first, within=connection)
    second = msgspec.structs.replace(first, total=20)
    with database.transaction() as connection:
        assert readings.find(ANY, "dev", "engine/main", within=connection) == first
        assert readings.move(ANY, "dev", first, second, within=connection)
        assert not readings.move(ANY, "dev", first, second, within=connection)


def test_meters_that_nobody_has_read_since_are_removed(database: Database) -> None:
    readings = MeterReadings(database)
    with database.transaction() as connection:
        for meter, at in (("engine/a", NOON), ("engine/b", NOON + HOUR), ("storage/a", NOON)):
            assert readings.move(ANY, "dev", None, MeterState(meter, "one", 10, 5, at), within=connection)
    readings.forget(ANY, "dev", "engine/", NOON)
    assert readings.names(ANY, "dev", "engine/") == ["engine/a", "engine/b"]
    readings.forget(ANY, "dev", "engine/", NOON + HOUR)
    assert readings.names(ANY, "dev", "") == ["engine/b", "storage/a"]


def every(database: Database) -> dict[str, int]:
    """Resource to the sum over all rows of all owners."""
    table = schema.ledger_entries
    rows = database.rows(select(table.c.resource, func.sum(table.c.quantity)).group_by(table.c.resource))
    return {row[0]: int(row[1]) for row in rows}


def test_a_tenants_usage_stays_without_its_names(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_RENAMED_AT_ONCE", 2)
    ledger = Ledger(database)
    names = {"application": "acme", "release": "acme", "principal": "acme", "role": "acme", "work": "acme"}
    used = [
        MeteredUsage("engine", 7, engine="main", path="online", **names),
        MeteredUsage("engine", 5, engine="main", path="online", **names | {"work": "acme-2"}),
        MeteredUsage("completion_token", 11, model="big", **names),
        MeteredUsage("completion_token", 13, model="acme-own", **names),
        MeteredUsage("worker", 17, **names),
    ]
    with database.transaction():
        ledger.add_with_commit(OTHER, used)
        ledger.add_with_commit(DEV, [ENGINE])
    before = every(database)
    moved = []
    while count := ledger.anonymize_tenant("other", {"big"}):
        moved.append(count)
        assert every(database) == before, "killed here, nothing is lost or counted twice"
    assert moved == [2, 2, 1]
    assert "acme" not in repr(database.rows(schema.ledger_entries.select()))
    assert ledger.entries(OTHER, NOON - DAY, NOON + DAY) == []
    found = {(one.resource, one.engine, one.model, one.path): one.quantity
             for one in ledger.erased("dev", NOON - DAY, NOON + DAY)}  # fmt: skip
    assert found == {
        ("engine", "main", "", "online"): 12, ("completion_token", "", "big", ""): 11,
        ("completion_token", "", "", ""): 13, ("worker", "", "", ""): 17,
    }  # fmt: skip
    assert quantities(database) == {("12", "engine", ""): 7}
    with database.transaction():  # A process that still ran.
        ledger.add_with_commit(OTHER, used[:1])
    assert ledger.anonymize_tenant("other", {"big"}) == 1
    assert every(database) == before | {"engine": before["engine"] + 7}


def test_a_persons_usage_stays_without_their_name(database: Database) -> None:
    ledger = Ledger(database)
    used = [MeteredUsage("engine", 7, application="desk", principal=one) for one in ("ann@shop", "ben", ERASED)]
    with database.transaction():
        ledger.add_with_commit(DEV, used)
        ledger.add_with_commit(OTHER, used[:1])
    assert (ledger.anonymize_principal(DEV, "ann@shop"), ledger.anonymize_principal(DEV, "ann@shop")) == (1, 0)
    found = {one.principal: one.quantity for one in ledger.entries(DEV, NOON - DAY, NOON + DAY)}
    assert found == {ERASED: 14, "ben": 7}
    assert [one.principal for one in ledger.entries(OTHER, NOON - DAY, NOON + DAY)] == ["ann@shop"]


def test_prices_are_recorded_one_after_the_other(database: Database) -> None:
    prices = Prices(database)
    with database.transaction() as connection:
        for amount in ("1", "2"):
            prices.record("dev", "engine", "", amount, "EUR", NOON, "ann", "as agreed", within=connection)
    assert [(one.sequence, one.amount, one.recorded_at) for one in prices.list("dev")] == [
        (1, "1", NOON),
        (2, "2", NOON),
    ]
    assert prices.list("prod") == []
