"""A collection of garbage beside refreshes that are open, in a project as a user has it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.services.watched_project import Project

from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoint, TrainingCheckpoints
from antiphon.core.errors import UnavailableError
from antiphon.learning.retraining.checkpoints import SUFFIX


async def test_what_an_open_refresh_has_made_is_there_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies between two steps, somebody prunes with no grace, and the run goes on."""
    project = Project(tmp_path)
    platform, publish, spared = project.platform, project.platform.publisher.publish, 0

    def killed_once(*given: Any, **how: Any) -> Any:
        nonlocal spared
        if spared:
            return publish(*given, **how)
        assert project.store.snapshots.list(project.store.scope) == []
        spared = len(list(platform.lake.files(project.store.scope)))
        platform.pruner.prune(grace=timedelta(seconds=-60))
        assert len(list(platform.lake.files(project.store.scope))) == spared > 0
        raise UnavailableError("The worker was killed.", where="worker")

    monkeypatch.setattr(platform.publisher, "publish", killed_once)
    await project.refresh()
    (run,) = project.store.runs.list(project.store.scope)
    assert (run.status, run.attempts) == ("succeeded", 2)
    left = set(platform.lake.files(project.store.scope))
    orphan = next(iter(left)).replace(".parquet", "0.parquet")
    (tmp_path / ".antiphon" / "lake" / orphan).write_bytes(b"of a run that was cancelled")
    assert platform.pruner.prune(grace=timedelta(seconds=-60)).lake == (orphan,)
    project.close()


def test_checkpoints_of_trainings_that_have_not_ended_stay_and_others_go(tmp_path: Path) -> None:
    project = Project(tmp_path)
    store, lake, prune = project.store, project.platform.lake, project.platform.pruner.prune
    scope, paths = store.scope, []
    run = store.runs.submit(scope, "train", {})
    for content in (b"named", b"uploaded by a worker that was killed before it said so"):
        with lake.writing(scope, SUFFIX) as draft:
            draft.write(content)
        paths.append(draft.path)
    sha256 = paths[0].rpartition("/")[2].removesuffix(SUFFIX)
    with store.database.transaction() as connection:
        one = TrainingCheckpoint(scope, run, 3, "this", sha256, 5, store.database.clock.now())
        TrainingCheckpoints(store.database).add(one, within=connection)
    assert prune(grace=timedelta(hours=1)).lake == ()
    assert prune(grace=timedelta(seconds=-60)).lake == (paths[1],)
    store.runs.cancel(scope, run)
    assert prune(grace=timedelta(seconds=-60)).lake == (paths[0],)
    project.close()
