"""Backfills: each partition is what a refresh as of its moment is, nobody is served one, and none is computed twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.features.desk import flight, history, write
from tests.integration.features.online.test_lookup import EWR
from tests.integration.features.world import NOON, World, event, minutes

from antiphon.catalog.features.backfills import BackfillPartition
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.catalog.run_holds import RunHold, RunHolds
from antiphon.core.clock import SystemClock
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.definitions import expect
from antiphon.definitions.quality import Quality
from antiphon.durable.dead_letters import DeadLetters
from antiphon.durable.executor import YIELD_SECONDS, Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.durable.runs import Runs
from antiphon.features.offline import refresh as refreshing
from antiphon.features.offline.backfill import WORKFLOW, BackfillArguments, Backfiller
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.publication.promote import SnapshotPromotion
from antiphon.features.publication.prune import Pruner

ROOT = Path(__file__).parents[4]
DAY = timedelta(days=1)
SINCE = NOON - 5 * DAY


def arguments(world: World, *views: str, until: datetime = NOON, **fields: Any) -> dict[str, Any]:
    keys = tuple(world.specs[view].key for view in views or world.specs)
    made = BackfillArguments(keys, SINCE, until, DAY.total_seconds(), reason="a week", principal="ops", **fields)
    return dict(msgspec.to_builtins(made))


@asynccontextmanager
async def working(world: World, name: str = "worker-1") -> AsyncIterator[None]:
    registry, stop = WorkflowRegistry(), asyncio.Event()
    registry.add(WORKFLOW, Backfiller(world.catalog, world.refresher).backfill)
    executor = Executor(world.database, registry, name, world.scope, SystemClock(), poll=0.01, grace=5)
    running = asyncio.create_task(executor.run_until(stop))
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        stop.set()
        await running


def runs_of(world: World) -> Runs:
    return Runs(world.database, SystemClock())


async def until_ended(world: World, run: str) -> Run:
    while (found := runs_of(world).get(world.scope, run)).status not in ENDED:
        await asyncio.sleep(0.01)
    return found


async def backfill(world: World, order: dict[str, Any]) -> Run:
    run = runs_of(world).submit(world.scope, WORKFLOW, order, max_attempts=3)
    async with working(world):
        return await until_ended(world, run)


def partitions(world: World, run: str) -> list[BackfillPartition]:
    return world.catalog.backfills.list(world.scope, run)


def promotion(world: World) -> SnapshotPromotion:
    return SnapshotPromotion(
        world.catalog,
        publisher=world.publisher,
        transaction=world.database.transaction,
        audit=lambda *_, **__: None,
        declared=lambda: {spec.key: spec for spec in world.specs.values()},
    )


def pruner(world: World) -> Pruner:
    return Pruner(
        world.catalog, publisher=world.publisher, releases=dict, receipts=lambda since, until: 0, datasets=tuple,
        kept=DAY, quarantine_kept=DAY,
    )  # fmt: skip


async def test_each_partition_is_what_a_refresh_as_of_its_moment_is_and_nobody_is_served_it(world: World) -> None:
    served = world.publish(NOON - minutes(30))
    before = world.read(NOON, **EWR).values
    run = await backfill(world, arguments(world))
    assert run.status == "succeeded", run.error
    assert (run.done, run.total) == (12, 12)
    found = partitions(world, run.id)
    assert [one.as_of for one in found[:: len(world.specs)]] == [SINCE + n * DAY for n in range(6)]
    for one in found:
        assert one.logical_hash == world.materialize(one.view, one.as_of).logical_hash
        manifest = world.snapshots.get(world.scope, one.snapshot or "")
        assert (manifest.kind, manifest.run, manifest.as_of) == ("backfill", run.id, one.as_of)
        # Counted by the same bins, so that a promotion is compared with what is served.
        live = world.catalog.published(one.key)
        assert live is not None
        assert {name: of.edges for name, of in manifest.statistics.items()} == {
            name: of.edges for name, of in live.statistics.items()
        }
    assert len({one.logical_hash for one in found}) == len(found)
    assert world.publications.current(world.scope) == served
    assert world.read(NOON, **EWR).values == before
    assert not {one.snapshot for one in found} & {one.id for one in world.snapshots.list(world.scope, limit=1_000)}
    assert world.verdicts.list(world.scope) == []
    with pytest.raises(NotFoundError, match="a backfill's"):
        world.publications.publish(
            world.scope, {found[-1].key: found[-1].snapshot}, expected=1, reason="by hand", principal="me"
        )


async def test_partitions_of_a_stream_read_the_log_as_it_was_at_the_order(world: World) -> None:
    streamed = [name for name, spec in world.specs.items() if spec.source.kind == "stream"]
    for number in range(3):
        world.append("departures", event(f"e{number}", NOON - (2 - number) * DAY, origin="EWR", dest="SFO"))
    run = runs_of(world).submit(world.scope, WORKFLOW, arguments(world, *streamed))

    def later(*_: Any, **__: Any) -> None:
        world.append("departures", event("late", NOON - 3 * DAY, origin="EWR", dest="SFO"))

    end = world.log.end(world.scope, "departures")
    async with working(world):
        while not partitions(world, run):
            await asyncio.sleep(0.01)
        later()
        await until_ended(world, run)
    offsets = {world.snapshots.get(world.scope, str(one.snapshot)).stream_offset for one in partitions(world, run)}
    assert offsets == {end}


class Materializations:
    """Counts the materializations of a world's refresher, and holds one up on the way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[datetime] = []
        self.ended: list[datetime] = []
        self.before: Callable[[Materialization], None] = lambda request: None
        monkeypatch.setattr(refreshing, "materialize", self._materialize)

    def _materialize(self, request: Materialization, **options: Any) -> SnapshotManifest:
        self.begun.append(request.as_of)
        self.before(request)
        made = materialize(request, **options)
        self.ended.append(request.as_of)
        return made


async def test_a_worker_that_ended_in_its_midst_repeats_less_than_one_partition(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Materializations(monkeypatch)
    run = runs_of(world).submit(world.scope, WORKFLOW, arguments(world, "congestion"))
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def third(request: Materialization) -> None:
        if request.as_of == SINCE + 2 * DAY:
            loop.call_soon_threadsafe(reached.set)

    counted.before = third
    async with working(world):
        await reached.wait()
    async with working(world, "worker-2"):
        ended = await until_ended(world, run)
    assert ended.status == "succeeded"
    assert len(partitions(world, run)) == 6
    assert len(counted.begun) <= 7


@pytest.mark.chaos
def test_each_kill_costs_less_than_one_partition(world: World, tmp_path: Path) -> None:
    runs, kills = runs_of(world), (2, 5, 9)
    run = runs.submit(world.scope, WORKFLOW, arguments(world), max_attempts=100)

    def child() -> subprocess.Popen[bytes]:
        module = "tests.integration.features.offline.backfill_child"
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        return subprocess.Popen(
            [sys.executable, "-m", module, str(tmp_path)], env=environment, cwd=ROOT, start_new_session=True
        )

    def begun() -> list[str]:
        noted = tmp_path / "begun.txt"
        return noted.read_text().splitlines() if noted.exists() else []

    for partition in kills:
        working, deadline = child(), time.monotonic() + 60
        while len(begun()) < partition:
            assert working.poll() is None
            assert time.monotonic() < deadline
        os.killpg(working.pid, signal.SIGKILL)
        assert working.wait(timeout=30) == -signal.SIGKILL
    assert child().wait(timeout=120) == 0
    assert runs.get(world.scope, run).status == "succeeded"
    found = partitions(world, run)
    assert len(found) == 12
    assert len(set(begun())) == 12
    assert len(begun()) <= 12 + len(kills)
    for one in found[::5]:
        assert one.logical_hash == world.materialize(one.view, one.as_of).logical_hash


async def test_a_pause_and_a_freeze_are_heeded_in_the_midst_of_a_partition(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counted, runs = Materializations(monkeypatch), runs_of(world)
    run = runs.submit(world.scope, WORKFLOW, arguments(world, "congestion"))
    loop, reached = asyncio.get_running_loop(), asyncio.Event()
    # A query without an end, which only an interruption ends.
    endless = "SELECT count(*) FROM range(10000000000) AS a, range(1000) AS b WHERE a.range % 7 = b.range"

    def second(request: Materialization) -> None:
        if request.as_of == SINCE + DAY:
            loop.call_soon_threadsafe(reached.set)
            monkeypatch.setattr("antiphon.features.offline.materialize.load_rows", stuck)

    def stuck(connection: Any, *_: Any, **__: Any) -> None:
        connection.execute(endless).fetchall()

    counted.before = second
    async with working(world):
        await reached.wait()
        began = loop.time()
        runs.pause(world.scope, run, "ada")
        while runs.get(world.scope, run).status != "queued":
            await asyncio.sleep(0.01)
        assert loop.time() - began < YIELD_SECONDS + 0.5
        assert len(partitions(world, run)) == 1
        assert runs.get(world.scope, run).attempts == 0
        monkeypatch.undo()
        counted = Materializations(monkeypatch)
        await asyncio.sleep(0.2)
        assert not counted.begun
        now = SystemClock().now()
        RunHolds(world.database).add(
            world.scope, RunHold("f1", "freeze", "f1", (WORKFLOW,), now - DAY, now + DAY, "the launch", "ada")
        )
    async with working(world, "after a restart"):
        runs.resume(world.scope, run)
        await asyncio.sleep(0.2)
        assert not counted.begun
        RunHolds(world.database).end(world.scope, "f1")
        await until_ended(world, run)
    assert len(counted.begun) == 5
    assert len(partitions(world, run)) == 6


async def test_a_source_that_vanishes_stops_it_there_and_a_retry_goes_on(world: World, tmp_path: Path) -> None:
    source = tmp_path / "departures.parquet"
    away = source.rename(tmp_path / "away.parquet")
    run = await backfill(world, arguments(world, "congestion"))
    assert run.status == "failed"
    assert "There is no file" in (run.error or "")
    assert run.attempts == 1
    assert run.under_way[0].name == f"materialize {world.specs['congestion'].key} as of 2013-04-05T12:00:00Z"
    away.rename(source)
    with world.database.transaction() as connection:
        DeadLetters(world.database).retry(world.scope, run.id, within=connection)
    async with working(world):
        ended = await until_ended(world, run.id)
    assert ended.status == "succeeded"
    assert len(partitions(world, run.id)) == 6


async def test_gates_judge_each_partition_beside_those_before_it(world: World, tmp_path: Path) -> None:
    new = [flight(9_000 + n, NOON - minutes(60 * 36), 1.0, f"O{n}") for n in range(20)]
    write(tmp_path / "departures.parquet", [*history(), *new])
    strict = Quality(expect.volume(0.5, 2, of="entities")).spec()
    spec = world.specs["route_history"] = msgspec.structs.replace(world.specs["route_history"], quality=strict)
    world.definitions.put(world.scope, spec)
    run = await backfill(world, arguments(world, "route_history"))
    found = partitions(world, run.id)
    assert run.status == "succeeded_with_failures"
    assert run.error == "The gates blocked 2 of 6 partitions."
    assert [one.outcome for one in found] == ["passed"] * 4 + ["blocked"] * 2
    for one in found[4:]:
        assert one.snapshot is None
        assert "has 22 entities, 11 times the 2 before" in one.findings[0].reason
    with pytest.raises(ConflictError, match=r"nothing is kept of route_history@.*11 times the 2 before"):
        promotion(world).promote(run.id, [spec.key], reason="in vain", principal="ada")


async def test_the_newest_snapshots_are_promoted_together_and_older_ones_only_on_purpose(world: World) -> None:
    run = await backfill(world, arguments(world, until=NOON - minutes(10)))
    keys = [spec.key for spec in world.specs.values()]
    newest = max(one.as_of for one in partitions(world, run.id))
    dry = promotion(world).promote(run.id, keys, reason="the past is mended", principal="ada", dry_run=True)
    assert (dry.publication, dry.as_of, len(dry.views)) == (None, newest, len(keys))
    assert world.publications.current(world.scope) is None
    made = promotion(world).promote(run.id, keys, reason="the past is mended", principal="ada")
    current = world.publications.current(world.scope)
    assert current is not None
    assert made.publication == current.number == 1
    assert current.snapshots == {f"{one.view}@{one.definition_version}": one.snapshot for one in made.views}
    assert {one.reason for one in world.verdicts.list(world.scope)} == {"the past is mended"}
    assert world.read(newest, **EWR).values["congestion.departures_2h"].value is not None
    with pytest.raises(ConflictError, match="is current already"):
        promotion(world).promote(run.id, keys, reason="again", principal="ada")
    world.publish(NOON)
    with pytest.raises(ConflictError, match="is newer: as of 2013-04-10 12:00:00Z"):
        promotion(world).promote(run.id, keys, reason="again", principal="ada")
    back = promotion(world).promote(run.id, keys, reason="on purpose", principal="ada", older=True)
    current = world.publications.current(world.scope)
    assert current is not None
    assert (back.publication, current.number) == (3, 3)
    assert current.snapshots == {f"{one.view}@{one.definition_version}": one.snapshot for one in made.views}


async def test_files_stay_while_a_backfill_is_kept_and_go_once_it_is_discarded(world: World) -> None:
    world.publish(NOON - minutes(30))
    run = await backfill(world, arguments(world, "congestion"))
    served = {file.path for one in world.snapshots.list(world.scope) for file in one.files}
    made = [world.snapshots.get(world.scope, str(one.snapshot)) for one in partitions(world, run.id)]
    files = {file.path for one in made for file in one.files} - served
    assert files
    world.clock.advance(timedelta(days=365 * 20))
    found = pruner(world).prune()
    assert not {line.snapshot for line in found.snapshots} & {one.snapshot for one in partitions(world, run.id)}
    assert {pin.kind for line in found.kept for pin in line.pins if pin.what == run.id} == {"backfill"}
    assert all(world.lake.has(path) for path in files)
    with world.database.transaction() as connection:
        world.catalog.backfills.discard(world.scope, run.id, within=connection)
    pruner(world).prune()
    assert not any(world.lake.has(path) for path in files)
    assert partitions(world, run.id) == []


async def test_a_rate_spreads_partitions_that_are_computed(world: World) -> None:
    world.database.clock = SystemClock()  # type: ignore[assignment]
    world.catalog.clock = SystemClock()  # type: ignore[assignment]
    began = asyncio.get_running_loop().time()
    run = await backfill(world, arguments(world, "congestion", rate=600.0))
    took = asyncio.get_running_loop().time() - began
    assert run.status == "succeeded"
    assert took >= 6 * 0.1
