"""Refresh as a durable run: gates, kills at any moment, and what a run leaves behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.integration.features.desk import history, specs, write
from tests.integration.features.online.test_lookup import EWR
from tests.integration.features.world import NOON, World, minutes

from antiphon.catalog.features.verdicts import Verdicts
from antiphon.core.errors import InvalidInputError
from antiphon.definitions import expect
from antiphon.definitions.quality import Quality
from antiphon.durable.dead_letters import DeadLetters
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.durable.runs import Runs
from antiphon.features.monitoring.quality.gate import gate
from antiphon.features.offline.refresh import WORKFLOW, RefreshResult

ROOT = Path(__file__).parents[4]


async def run_refresh(world: World, arguments: dict[str, object]) -> Run:
    registry = WorkflowRegistry()
    registry.add(WORKFLOW, world.refresher.refresh)
    runs = Runs(world.database)
    identity = runs.submit(world.scope, WORKFLOW, arguments, max_attempts=1)
    return await until_ended(world, registry, identity)


async def until_ended(world: World, registry: WorkflowRegistry, identity: str) -> Run:
    runs = Runs(world.database)
    stop = asyncio.Event()
    executor = Executor(world.database, registry, "worker-1", world.scope, poll=0.01)
    working = asyncio.create_task(executor.run_until(stop))
    async with asyncio.timeout(60):
        while runs.get(world.scope, identity).status not in ENDED:
            await asyncio.sleep(0.01)
    stop.set()
    await working
    return runs.get(world.scope, identity)


async def test_a_refresh_publishes_all_its_views_at_once(world: World) -> None:
    keys = [spec.key for spec in world.specs.values()]
    run = await run_refresh(world, {"views": keys, "as_of": NOON.isoformat(), "reason": "first", "principal": "ops"})
    assert run.status == "succeeded", run.error
    result = msgspec.convert(run.result, RefreshResult)
    assert result.publication == 1
    assert set(result.snapshots) == set(keys)
    assert result.blocked == {}
    publication = world.publications.current(world.scope)
    assert publication is not None
    assert (publication.reason, publication.principal) == ("first", "ops")
    manifest = world.snapshots.get(world.scope, result.snapshots[keys[0]])
    assert manifest.run == run.id
    assert world.read(NOON, **EWR).values["congestion.departures_2h"].value == 1


async def test_a_gate_keeps_the_previous_snapshot_and_says_why(world: World, tmp_path: Path) -> None:
    world.publish(NOON - minutes(60))
    before = world.publications.current(world.scope)
    assert before is not None
    write(tmp_path / "departures.parquet", [row for row in history() if row["origin"] == "EWR"][:10])
    key = world.specs["route_history"].key
    strict = Quality(expect.volume(0.9, of="entities")).spec()
    world.definitions.put(world.scope, msgspec.structs.replace(world.specs["route_history"], quality=strict))
    run = await run_refresh(
        world, {"views": [key, world.specs["congestion"].key], "as_of": (NOON + minutes(1)).isoformat()}
    )
    result = msgspec.convert(run.result, RefreshResult)
    assert result.blocked == {
        key: ("The view 'route_history' has only 1 entities, 0.5 times the 2 before; 0.9 to 2 times are expected.",)
    }
    current = world.publications.current(world.scope)
    assert current is not None
    assert current.snapshots[key] == before.snapshots[key]
    assert current.snapshots[world.specs["congestion"].key] != before.snapshots[world.specs["congestion"].key]


async def test_a_missing_source_fails_the_run_with_a_clear_error(world: World, tmp_path: Path) -> None:
    (tmp_path / "departures.parquet").unlink()
    run = await run_refresh(world, {"views": [world.specs["congestion"].key]})
    assert run.status == "failed"
    assert "There is no file" in (run.error or "")
    assert world.publications.current(world.scope) is None


async def test_a_retry_reads_a_source_again_that_could_not_be_read(world: World, tmp_path: Path) -> None:
    source, key = tmp_path / "departures.parquet", world.specs["congestion"].key
    away = source.rename(tmp_path / "away.parquet")
    run = await run_refresh(world, {"views": [key], "as_of": NOON.isoformat()})
    assert run.status == "failed"
    registry = WorkflowRegistry()
    registry.add(WORKFLOW, world.refresher.refresh)

    async def retried() -> Run:
        with world.database.transaction() as connection:
            DeadLetters(world.database).retry(world.scope, run.id, within=connection)
        return await until_ended(world, registry, run.id)

    assert (await retried()).status == "failed", "it is away still"
    away.rename(source)
    ended = await retried()
    assert ended.status == "succeeded", ended.error
    assert msgspec.convert(ended.result, RefreshResult).snapshots.keys() == {key}
    verdicts = Verdicts(world.database).list(world.scope, world.specs["congestion"].name)
    assert sorted(one.outcome for one in verdicts) == ["blocked", "blocked", "passed"]
    assert {one.run for one in verdicts} == {run.id}


async def test_malformed_arguments_fail_the_run(world: World) -> None:
    for arguments in ({"views": []}, {"views": "congestion"}, {"views": ["congestion@x"], "extra": 1}):
        run = await run_refresh(world, arguments)
        assert run.status == "failed", arguments


def test_gates_name_the_figure_they_rest_on(world: World) -> None:
    spec = world.specs["congestion"]
    good = world.materialize("congestion", NOON)
    assert gate(spec, good).passed
    assert gate(spec, good, good).passed
    empty = gate(spec, msgspec.structs.replace(good, rows_out=0), good)
    assert "The view 'congestion' has 0 entities; at least 1 are needed." in empty.reasons
    assert "The view 'congestion' has 0 entities, the snapshot before had 2." in empty.reasons
    rejecting = msgspec.structs.replace(good, rows_rejected=good.rows_in // 2, rejections={"no key": 720})
    assert "50.0% of 1440 source rows were rejected (no key 720)" in gate(spec, rejecting).reasons[0]
    other = msgspec.structs.replace(good, definition_version="0" * 16, statistics={})
    assert len(gate(spec, other).reasons) == 2
    statistics = {name: msgspec.structs.replace(found, null_share=0.9) for name, found in good.statistics.items()}
    assert len(gate(spec, msgspec.structs.replace(good, statistics=statistics), good).reasons) == 3
    bare = msgspec.structs.replace(spec, quality=Quality(standard=False).spec())
    assert gate(bare, rejecting, good).passed


def start_child(folder: Path, until_published: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.features.offline.refresh_child", str(folder), str(until_published)],
        env=environment,
        cwd=ROOT,
        start_new_session=True,
    )


@pytest.mark.chaos
def test_a_refresh_killed_anywhere_leaves_no_torn_view(tmp_path: Path) -> None:
    """SIGKILL at random moments of refreshes; after each, everything published can be read, and in the end the runs
    all succeed and every value equals that of a world that was never killed."""
    write(tmp_path / "departures.parquet", history())
    views = specs(tmp_path / "departures.parquet")
    world = World(tmp_path, *views)
    world.publish(NOON - minutes(30))
    runs = Runs(world.database)
    keys = [spec.key for spec in views]
    submitted = [
        runs.submit(world.scope, WORKFLOW, {"views": keys, "as_of": (NOON + minutes(n)).isoformat()}, max_attempts=100)
        for n in range(3)
    ]
    dice = random.Random(7)
    # Each run records six steps. A kill comes shortly after so many are recorded in all: between steps or inside one.
    for steps in sorted(dice.sample(range(1, 3 * 6 - 1), 5)):
        child = start_child(tmp_path, 3)
        deadline = time.monotonic() + 60
        while sum(len(runs.steps(world.scope, run)) for run in submitted) < steps:
            assert child.poll() is None
            assert time.monotonic() < deadline
            vector = world.new_reader().read({s.name: s.definition_version for s in views}, EWR, NOON + minutes(5))
            publication = world.publications.get(world.scope, vector.publication)
            assert {value.snapshot for value in vector.values.values()} == set(publication.snapshots.values())
        time.sleep(dice.uniform(0, 0.03))
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait(timeout=30) == -signal.SIGKILL
        current = world.publications.current(world.scope)
        assert current is not None
        vector = world.new_reader().read({s.name: s.definition_version for s in views}, EWR, NOON + minutes(5))
        assert vector.publication == current.number
    child = start_child(tmp_path, 3)
    assert child.wait(timeout=120) == 0
    assert [runs.get(world.scope, run).status for run in submitted] == ["succeeded"] * 3
    found = world.read(NOON + minutes(5), **EWR)
    world.close()
    (tmp_path / "calm").mkdir()
    calm = World(tmp_path / "calm", *views)
    calm.publish(NOON + minutes(2))
    assert found.values == calm.read(NOON + minutes(5), **EWR).values
    calm.clock.advance(timedelta(days=400_000))
    calm.close()


def test_an_unknown_argument_is_named(world: World) -> None:
    class Context:
        id = "run_x"

    with pytest.raises(InvalidInputError, match="unknown field `vews`"):
        asyncio.run(world.refresher.refresh(Context(), {"vews": []}))  # type: ignore[arg-type]
