"""Datasets built by partition: the same dataset as one built at once, and no partition joined twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pytest
from tests.integration.features.desk import history, write
from tests.integration.features.world import NOON
from tests.integration.learning.flown import Flown

from antiphon.catalog.learning.datasets import DatasetSpec
from antiphon.core.clock import SystemClock
from antiphon.core.errors import InvalidInputError
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.durable.runs import Runs
from antiphon.learning.datasets.candidates import Candidate
from antiphon.learning.datasets.partitions import WORKFLOW, DatasetArguments, DatasetPartitions, joined_by
from antiphon.learning.datasets.rows import DatasetRowBuilder
from antiphon.services.lineage.references import references_of

DAY = timedelta(days=1)


@pytest.fixture
def flown(tmp_path: Path) -> Iterator[Flown]:
    flown = Flown(tmp_path)
    yield flown
    flown.close()


def planned(flown: Flown, **fields: Any) -> DatasetSpec:
    return flown.builder.plan(flown.application, cutoff=NOON, **fields)


def ordered(flown: Flown, spec: DatasetSpec, every: timedelta = 3 * DAY) -> str:
    arguments = msgspec.to_builtins(DatasetArguments(spec, every.total_seconds()))
    return runs_of(flown).submit(flown.world.scope, WORKFLOW, arguments, max_attempts=1)


def runs_of(flown: Flown) -> Runs:
    return Runs(flown.world.database, SystemClock())


@asynccontextmanager
async def working(flown: Flown, name: str = "worker-1") -> AsyncIterator[None]:
    registry, stop = WorkflowRegistry(), asyncio.Event()
    registry.add(WORKFLOW, DatasetPartitions(flown.builder).build)
    executor = Executor(flown.world.database, registry, name, flown.world.scope, SystemClock(), poll=0.01, grace=5)
    running = asyncio.create_task(executor.run_until(stop))
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        stop.set()
        await running


async def until_ended(flown: Flown, run: str) -> Run:
    while (found := runs_of(flown).get(flown.world.scope, run)).status not in ENDED:
        await asyncio.sleep(0.01)
    return found


class Joins:
    """Counts the examples of each join, and can do something after one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.after: dict[int, Any] = {}
        joined = DatasetRowBuilder.join

        def join(builder: DatasetRowBuilder, spec: DatasetSpec, past: list[Candidate], *more: Any) -> pyarrow.Table:
            table = joined(builder, spec, past, *more)
            self.rows.append(len(past))
            self.after.pop(len(self.rows), lambda: None)()
            return table

        monkeypatch.setattr(DatasetRowBuilder, "join", join)


async def test_a_dataset_built_by_partition_is_the_one_built_at_once(
    flown: Flown, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        flown.predict(f"pred_{number}", NOON - 5 * DAY - number * DAY, "delayed")
    spec = planned(flown)
    joins = Joins(monkeypatch)
    run = ordered(flown, spec)
    async with working(flown):
        ended = await until_ended(flown, run)
    assert ended.status == "succeeded", ended.error
    assert len(joins.rows) == 7  # Of 20 days three at a time.
    (dataset,) = flown.datasets.list(flown.world.scope)
    assert ended.result == {"dataset": dataset.id, "rows": dataset.rows, "logical_hash": dataset.logical_hash}
    steps = runs_of(flown).steps(flown.world.scope, run)
    parts = [path for step in steps for path in joined_by(step.name, step.result)]
    assert len(parts) == 7  # A pruning spares them while the run is open.
    assert all(flown.world.lake.has(path) for path in parts)
    told = references_of(ended, steps)
    assert (told.subject, [one.id for one in told.outputs]) == ("desk", [dataset.id])
    assert {row["drawn_from"] for row in flown.rows(dataset.path)} == {"history", "receipts"}
    assert flown.builder.build(spec) == dataset
    assert sum(joins.rows[:7]) == joins.rows[7]
    assert flown.builder.rebuild(dataset.id) == dataset


async def test_a_worker_that_stopped_in_its_midst_joins_no_partition_again(
    flown: Flown, monkeypatch: pytest.MonkeyPatch
) -> None:
    joins, reached, loop = Joins(monkeypatch), asyncio.Event(), asyncio.get_running_loop()
    joins.after[3] = lambda: loop.call_soon_threadsafe(reached.set)
    run = ordered(flown, planned(flown))
    async with working(flown):
        await reached.wait()
    assert runs_of(flown).get(flown.world.scope, run).status == "queued"
    async with working(flown, "worker-2"):
        ended = await until_ended(flown, run)
    assert ended.status == "succeeded", ended.error
    assert len(joins.rows) == 7


async def test_a_part_whose_file_was_collected_is_joined_again(flown: Flown, monkeypatch: pytest.MonkeyPatch) -> None:
    joins, spec = Joins(monkeypatch), planned(flown)
    joins.after[7] = lambda: [flown.world.lake.remove(path) for path in list(flown.world.lake.files(flown.world.scope))]
    run = ordered(flown, spec)
    async with working(flown):
        ended = await until_ended(flown, run)
    assert ended.status == "succeeded", ended.error
    assert len(joins.rows) == 7 + 6  # The seventh was written after that.
    assert flown.builder.build(spec).logical_hash == (ended.result or {})["logical_hash"]


async def test_a_source_that_changes_meanwhile_fails_the_build(flown: Flown, monkeypatch: pytest.MonkeyPatch) -> None:
    joins = Joins(monkeypatch)
    joins.after[2] = lambda: write(flown.departures, history()[:-10])
    run = ordered(flown, planned(flown))
    async with working(flown):
        ended = await until_ended(flown, run)
    assert ended.status == "failed"
    assert "changed since its build began: departures" in (ended.error or "")
    assert flown.datasets.list(flown.world.scope) == []


def test_spans_meet_and_end_with_the_specification(flown: Flown) -> None:
    spec = planned(flown)
    spans = DatasetArguments(spec, (3 * DAY).total_seconds()).spans
    assert (spans[0][0], spans[-1][1], len(spans)) == (spec.first, spec.last, 7)
    assert all(one[1] == other[0] for one, other in pairwise(spans))
    assert len(DatasetArguments(spec, (20 * DAY).total_seconds()).spans) == 1
    with pytest.raises(InvalidInputError, match="17,280 partitions"):
        _ = DatasetArguments(spec, 100.0).spans
