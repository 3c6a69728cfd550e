"""The real training on two hosts, one after the other: the same bytes as on one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from tests.integration.learning.training_hosts import LEASE, TrainingHost
from tests.integration.training.conftest import TINY
from tests.integration.training.tiny import flights, order, train_here
from tests.unit.catalog.examples import DEV, NOON, open_database

from antiphon.core.clock import ManualClock
from antiphon.features.lake.local import LocalLake
from antiphon.learning.retraining.checkpoints import RunCheckpoints
from antiphon.training.checkpoint import FOLDER, Checkpoints
from antiphon.training.order import PROGRESS, TrainingOrder, TrainingResult

RECIPE = msgspec.structs.replace(TINY, threads=1)


async def test_a_training_goes_on_in_the_folder_of_another_host(
    trained_here: TrainingResult, base: Path, tmp_path: Path
) -> None:
    clock = ManualClock(NOON)
    database = open_database(tmp_path, clock)
    lake, notices = LocalLake(tmp_path / "lake"), list[str]()
    first, second = (TrainingHost(database, lake, tmp_path / name) for name in ("a", "b"))
    first.runs.submit(DEV, "train", {})

    def on(host: TrainingHost) -> tuple[TrainingOrder, RunCheckpoints]:
        ordered = order(host.folder, base, flights(12), RECIPE)
        local = Checkpoints(Path(ordered.folder) / FOLDER, ordered.identity, notices.append)
        return ordered, RunCheckpoints(host.services.checkpoints, host.claim(), local, ordered.identity)

    ordered, checkpoints = on(first)

    async def stopped() -> None:
        assert train_here(ordered, (Path(ordered.folder) / FOLDER / "step-000015.sha256").exists) is None
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await checkpoints.keep_while(stopped())
    clock.advance(LEASE * 2)
    again, checkpoints = on(second)
    await checkpoints.fetch()
    trained = train_here(again)
    assert trained is not None
    lines = (Path(again.folder) / PROGRESS).read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, filter(None, lines)) if line["stage"] == "training"]
    assert steps == list(range(16, RECIPE.steps + 1))
    assert (trained.adapter.sha256, trained.weights.sha256) == (
        trained_here.adapter.sha256,
        trained_here.weights.sha256,
    )
    assert (trained.losses, notices) == (trained_here.losses, [])
    database.close()
