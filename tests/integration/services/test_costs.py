"""Costs of a project: what answers, runs, engines and storage used is charged whole, by prices that may change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tests.integration.serving.test_wired import PLAIN, Project

from antiphon.catalog import schema
from antiphon.catalog.ledger import HOUR, MeteredUsage
from antiphon.catalog.meters import MeterReadings
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, ForbiddenError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.core.settings_costs import PriceSettings, TokenPriceSettings
from antiphon.durable.claims import ServedRuns
from antiphon.engine.api.messages import EngineDescription, EngineInstance, EngineLoad
from antiphon.governance.identity.principal import Principal
from antiphon.operations.cost.metering import usages_of
from antiphon.operations.cost.review import csv_text, markdown
from antiphon.services.cost.costs import ProjectCosts
from antiphon.services.cost.meters import CostMeters, engine_counts
from antiphon.services.cost.prices import SETTINGS, ProjectPrices
from antiphon.services.project.store import Store
from antiphon.testing.scripted_engine import ScriptedEngine

START = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)
ADMIN = Principal("ann", "default", "admin")


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    opened = Project(tmp_path)
    yield opened
    await opened.close()


@contextmanager
def at(store: Store, moment: datetime) -> Iterator[ManualClock]:
    """The catalog as it is at another time."""
    real, clock = store.database.clock, ManualClock(moment)
    store.database.clock = clock
    try:
        yield clock
    finally:
        store.database.clock = real


def priced(store: Store, **prices: object) -> None:
    store.settings = msgspec.structs.replace(store.settings, prices=PriceSettings(**prices))  # type: ignore[arg-type]


def use(store: Store, *usages: MeteredUsage, scope: Scope | None = None) -> None:
    with store.database.transaction():
        store.ledger.add_with_commit(scope or store.scope, usages)


def engine_second(seconds: float, **fields: str) -> MeteredUsage:
    return MeteredUsage("engine", round(seconds * 1e6), **{"application": "desk", "engine": "main", **fields})


async def test_every_answer_of_every_role_is_charged_with_its_receipt(project: Project) -> None:
    store, costs = project.store, ProjectCosts(project.store, project.store.scope)
    priced(store, completion_token=0.001, currency="EUR")
    release = project.release(PLAIN, live=True)
    answers = [await project.answerer.answer(project.request(originating_user=f"user-{one}")) for one in range(3)]
    answers.append(await project.answerer.answer(project.request(role="evaluation", path="batch", release=release.id)))
    wanted: dict[str, int] = {}
    for answer in answers:
        for usage in usages_of(answer.receipt):
            wanted[usage.resource] = wanted.get(usage.resource, 0) + usage.quantity
    charged: dict[str, int] = {}
    for one in costs.charges():
        charged[one.entry.resource] = charged.get(one.entry.resource, 0) + one.entry.quantity
    assert charged == {name: quantity for name, quantity in wanted.items() if quantity}
    summary = costs.summary(("role", "path"))
    assert {tuple(line.group.values()): line.answers for line in summary.lines} == {
        ("live", "online"): 3,
        ("evaluation", "batch"): 1,
    }
    assert summary.total.micros == wanted["completion_token"] * 1_000 == sum(line.micros for line in summary.lines)
    assert summary.total.currency == "EUR"


async def test_gpus_of_an_engine_are_charged_beside_its_time_as_the_receipt_has_them(project: Project) -> None:
    store, costs = project.store, ProjectCosts(project.store, project.store.scope)
    priced(store, engine_second=0.0, gpu_second=2.0)
    project.release(PLAIN, live=True)
    project.engine.gpus = 4
    made = (await project.answerer.answer(project.request())).receipt
    assert made.usage.gpu_seconds == made.usage.engine_seconds * 4
    project.engine.gpus = 0  # Another number counts from then on.
    await project.answerer.answer(project.request(originating_user="another"))
    lines = {line.group["resource"]: line.micros for line in costs.summary(("resource",)).lines}
    assert lines["gpu"] == costs.summary().total.micros == round(made.usage.engine_seconds * 4 * 2_000_000)


def test_prices_follow_the_settings_from_the_hour_of_their_change(project: Project) -> None:
    store = project.store
    prices, costs = ProjectPrices(store), ProjectCosts(store, store.scope)
    with at(store, START) as clock:
        use(store, engine_second(10))
        priced(store, engine_second=0.5, models={"big": TokenPriceSettings(prompt_token=0.25)})
        assert prices.follow_settings() == 2
        assert prices.follow_settings() == 0
        assert costs.summary().total.micros == 5_000_000
        clock.advance(3 * HOUR)
        priced(store, engine_second=0.75, models={"big": TokenPriceSettings(prompt_token=0.25)})
        use(store, engine_second(10))
        # What was charged stays, and the hour of the change is at the new price.
        assert costs.summary().total.micros == 5_000_000 + 7_500_000
        assert [one.principal for one in prices.book().records] == [SETTINGS] * 3
        prices.record("engine", "1", model="", since=None, reason="as agreed", by=ADMIN)
        # Settings that did not change do not take back what was recorded beside them.
        assert prices.follow_settings() == 0
        assert costs.summary().total.micros == 5_000_000 + 10_000_000
        priced(store, engine_second=0.9, currency="CHF")
        assert prices.follow_settings() == 0
        assert costs.currency == "USD"


def test_a_price_of_the_past_is_booked_as_corrections_in_the_hour_of_its_record(project: Project) -> None:
    store = project.store
    costs = ProjectCosts(store, store.scope)
    with at(store, START) as clock:
        priced(store, engine_second=1.0)
        use(store, engine_second(2, principal="ann"), engine_second(3, principal="ben"))
        stated = costs.charges()
        clock.advance(timedelta(days=40))
        late = costs.prices.record("engine", "0.4", model="", since=START - HOUR / 2, reason="a rebate", by=ADMIN)
        assert (late.since, late.recorded_at) == (START - HOUR / 2, START + timedelta(days=40))
        # The month of the usage is as it was; the one of the record has the corrections.
        before = costs.charges(START - timedelta(days=1), START + timedelta(days=1))
        assert before == stated
        summary = costs.summary(("principal", "kind"))
        assert {tuple(line.group.values()): line.micros for line in summary.lines} == {
            ("ann", "correction"): -1_200_000,
            ("ben", "correction"): -1_800_000,
        }
        whole = costs.summary(("principal",), START - timedelta(days=1), None)
        assert {line.group["principal"]: line.micros for line in whole.lines} == {"ann": 800_000, "ben": 1_200_000}
    recorded = [one for one in store.audit.query(store.scope) if one.action == "cost.price"]
    assert [(one.principal, one.subject) for one in recorded] == [("ann", "engine")]


def test_prices_are_the_installations(project: Project) -> None:
    prices = ProjectPrices(project.store)
    with pytest.raises(ForbiddenError):
        prices.record("engine", "1", model="", since=None, reason="r", by=Principal("eve", "rival", "admin"))
    with pytest.raises(InvalidInputError, match="whole hour"):
        prices.record("engine", "1", model="", since=START, reason="r", by=ADMIN)
    with pytest.raises(InvalidInputError, match="not summed by 'aplication'"):
        ProjectCosts(project.store, project.store.scope).summary(("aplication",))
    with pytest.raises(InvalidInputError, match="ends before"):
        ProjectCosts(project.store, project.store.scope).charges(START, START - HOUR)


def meters(store: Store) -> CostMeters:
    return CostMeters(store.database, store.scope, {}, {})


def described(process: str, up: float, busy: float) -> EngineDescription:
    return EngineDescription("d", (), EngineLoad(up_seconds=up, busy_seconds=busy), host="host", process=process)


def test_engine_time_is_charged_whole_across_restarts_and_tenants(project: Project) -> None:
    store, rival = project.store, Scope("rival", "test")
    costs = ProjectCosts(store, store.scope)

    def read(process: str, up: float, busy: float) -> None:
        for counts in engine_counts("main", described(process, up, busy)):
            meters(store).read_engine(counts)

    with at(store, START) as clock:
        priced(store, engine_second=0.00004)
        read("a", 100.0, 20.0)
        use(store, engine_second(7.000001), engine_second(0.333333, principal="ben"))
        use(store, engine_second(5.5), scope=rival)
        clock.advance(HOUR)
        read("a", 3_700.0, 60.0)
        read("b", 12.0, 1.0)  # The engine began anew.
        read("b", 11.0, 1.0)  # A look that began before the one above.
        use(store, engine_second(40.25))
        own, others = costs.charges(), ProjectCosts(store, rival).charges()
        shared = {(one.entry.resource, one.entry.work) for one in own if one.entry.tenant == "*"}
        assert shared == {("engine_idle", "idle"), ("engine", "under way or unanswered")}
        assert {one.entry.tenant for one in others} == {"rival"}
        assert sum(one.entry.quantity for one in own + others) == 3_712_000_000
        assert sum(one.micros for one in own + others) == 100 * 40 + 3_612 * 40
        idle = sum(one.entry.quantity for one in own if one.entry.resource == "engine_idle")
        assert idle == (80 + 3_560 + 11) * 1_000_000


def test_gpu_time_of_an_engine_of_ours_is_charged_whole_with_a_row_of_its_idle_time(project: Project) -> None:
    store, rival = project.store, Scope("rival", "test")
    costs = ProjectCosts(store, store.scope)

    def read(up: float, busy: float, gpus: int) -> None:
        description = msgspec.structs.replace(
            described("a", up, busy), load=EngineLoad(up_seconds=up, busy_seconds=busy, gpus=gpus)
        )
        for counts in engine_counts("main", description):
            meters(store).read_engine(counts)

    with at(store, START) as clock:
        priced(store, engine_second=0.0, gpu_second=0.0003)
        read(100.0, 20.0, 2)
        use(store, MeteredUsage("gpu", 14_000_002, application="desk", engine="main"))
        use(store, MeteredUsage("gpu", 11_000_000, application="desk", engine="main"), scope=rival)
        use(store, MeteredUsage("gpu", 5, application="desk", engine="cloud"))  # None of ours: it has no meter.
        clock.advance(HOUR)
        read(200.0, 20.0, 2)
        rows = [one for one in costs.charges() if one.entry.engine == "main" and one.entry.resource.startswith("gpu")]
        others = ProjectCosts(store, rival).charges()
        assert {(one.entry.resource, one.entry.work, one.entry.quantity) for one in rows} == {
            ("gpu", "", 14_000_002), ("gpu_idle", "idle", 160_000_000), ("gpu_idle", "idle", 200_000_000),
            ("gpu", "under way or unanswered", 40_000_000 - 25_000_002),
        }  # fmt: skip
        assert sum(one.entry.quantity for one in rows + others) == 400_000_000
        assert sum(one.micros for one in rows + others) == 400 * 300


def test_memory_of_engines_belongs_to_nobody_and_that_of_a_training_to_its_run(project: Project) -> None:
    store, gib = project.store, 1 << 30
    costs = ProjectCosts(store, store.scope)

    def read(process: str, up: float, resident: int) -> None:
        load = EngineLoad(up_seconds=up, busy_seconds=1.0, resident_bytes=resident)
        description = EngineDescription("d", (), load, host="host", process=process)
        for counts in engine_counts("main", description):
            meters(store).read_engine(counts)

    with at(store, START) as clock:
        priced(store, engine_second=0.0, memory_gib_hour=1.5)
        read("a", 1_800.0, 2 * gib)
        read("a", 1_800.0, 2 * gib)  # Another process looks in the same moment.
        clock.advance(HOUR)
        read("a", 5_400.0, gib)
        read("b", 60.0, 60 * gib)  # It began anew, with more.
        use(store, MeteredUsage("memory", gib * 7_200, application="desk", role="train", work="run_1"))
        lines = costs.summary(("resource", "engine", "work")).lines
        found = {tuple(line.group.values()): line.micros for line in lines}
        assert found["memory", "main", ""] == 1_500_000 * (1 + 1 + 1)
        assert found["memory", "", "run_1"] == 3_000_000
        assert ProjectCosts(store, Scope("rival", "test")).charges() == []


def test_instances_of_a_routed_engine_are_meters_of_their_own() -> None:
    load = EngineLoad(up_seconds=9.0, busy_seconds=1.0)
    instances = tuple(
        EngineInstance(name, f"{name}/1", "host", "", "", {}, {}, one)
        for name, one in (("a", load), ("b", EngineLoad()))
    )
    merged = EngineDescription("d", (), load, instances=instances)
    assert [(one.engine, one.process) for one in engine_counts("main", merged)] == [("main", "a/1")]
    # A server elsewhere has no time that is ours.
    assert list(engine_counts("cloud", EngineDescription("d", (), EngineLoad()))) == []


async def test_meters_of_engines_name_nobody(project: Project) -> None:
    store = project.store

    class Engine(ScriptedEngine):
        async def describe(self) -> EngineDescription:
            stop.set()
            load = EngineLoad(up_seconds=150e-6, busy_seconds=20e-6, resident_bytes=10**12)
            return EngineDescription("d", (), load, process="rivals-host/1", host="rivals-host")

    for _ in range(2):  # Another worker goes on from what the first has read.
        stop = asyncio.Event()
        await CostMeters(store.database, store.scope, {"main": Engine([])}, {}).run_until(stop)
    now = store.database.clock.now()
    found = {one.resource: one.quantity for one in store.ledger.shared("test", now - HOUR, now + HOUR)}
    assert (found["engine_measured"], found["engine_idle"]) == (150, 130)
    assert len(MeterReadings(store.database).names("*", "test", "")) == 2
    assert "rival" not in repr(store.database.rows(schema.meter_readings.select()))


def test_storage_is_charged_by_size_and_time(project: Project) -> None:
    store = project.store
    costs, gib = ProjectCosts(store, store.scope), 1 << 30
    with at(store, START) as clock:
        priced(store, engine_second=0.0, gib_month=3.0)
        meters(store).read_storage("lake", lambda: gib)
        assert costs.summary().total.micros == 0
        clock.advance(timedelta(days=15))
        meters(store).read_storage("lake", lambda: 2 * gib)
        (line,) = costs.summary(("resource", "work")).lines
        assert (line.group, line.micros) == ({"resource": "storage", "work": "lake"}, 3_000_000)


def test_a_forecast_needs_a_week(project: Project) -> None:
    store = project.store
    costs = ProjectCosts(store, store.scope)
    with at(store, START) as clock:
        priced(store, engine_second=1.0)
        for _ in range(8):
            assert costs.forecast() is None or clock.now() > START + timedelta(days=6)
            use(store, engine_second(2))
            clock.advance(timedelta(days=1))
        found = costs.forecast(10)
        assert found is not None
        assert (found.expected, found.low, found.high, found.from_days) == (20_000_000,) * 3 + (8,)


def test_a_review_says_what_the_last_training_cost(project: Project) -> None:
    store = project.store
    costs = ProjectCosts(store, store.scope)
    release = project.release(PLAIN, live=True)
    priced(store, engine_second=0.5, worker_second=0.1, training_processor_second=0.25)
    run = store.runs.submit(store.scope, "train", {"application": "desk"})
    held = store.runs.claim("w", ServedRuns("test"), timedelta(minutes=1))
    assert held is not None
    use(store, engine_second(4, role="evaluation", release=release.id))
    use(store, engine_second(6, role="live", release=release.id))
    use(store, MeteredUsage("answer", 3, application="desk", role="live", release=release.id))
    use(store, MeteredUsage("training_processor", 12_000_000, application="desk", role="train", work=run))
    store.runs.end(held, {"release": release.id})
    found = costs.review("desk")
    assert found.training is not None
    assert (found.training.run, found.training.evaluation_micros, found.training.rows) == (run, 2_000_000, None)
    assert found.training.process_micros == 3_000_000
    assert found.training.worker_micros == found.micros - 5_000_000 - 3_000_000
    (line,) = found.releases
    assert (line.answers, line.per_answer, line.per_correct) == (3, 1_000_000.0, None)
    text = markdown(found)
    assert f"`{run}` ended" in text
    assert "not evaluated" in text
    assert f"desk,{run},cost of processes,3.000000,USD" in csv_text(found)
    assert f"desk,{run},cost of evaluation,2.000000,USD" in csv_text(found)


def test_two_records_at_once_are_told_from_each_other(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    store = project.store
    ProjectPrices(store).follow_settings()
    monkeypatch.setattr(store.database, "scalar", lambda *_: 0)
    with pytest.raises(ConflictError), store.database.transaction() as connection:
        store.prices.record("test", "engine", "", "1", "USD", START, "ann", "r", within=connection)
