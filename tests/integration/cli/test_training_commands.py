"""``antiphon training`` over one project, in process."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoint, TrainingCheckpoints
from antiphon.catalog.training_pauses import TrainingHost, TrainingPauses
from antiphon.cli import runs, training
from antiphon.core.errors import AntiphonError, InvalidInputError, NotFoundError
from antiphon.services.project.store import Store


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "antiphon.toml").write_text('[project]\nname = "p"\n[engine]\nkind = "simulated"\n')
    return tmp_path


def run(project: Path, *arguments: str) -> str:
    done = CliRunner().invoke(training.app, [*arguments, "--project", str(project)])
    if isinstance(done.exception, AntiphonError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def shown(project: Path) -> Any:
    return json.loads(run(project, "list", "--json"))


def test_training_is_paused_on_record_shown_and_resumed(project: Path) -> None:
    assert "No pause holds." in run(project, "list")
    assert "Training is paused everywhere until" in run(project, "pause", "--reason", "load test")
    assert "on north until" in run(project, "pause", "--reason", "load test", "--for", "30m", "--host", "north")
    held = shown(project)["pauses"]
    assert [(one["host"], one["reason"], one["ordered"]) for one in held] == [
        ("*", "load test", True), ("north", "load test", True),
    ]  # fmt: skip
    with closing(Store.open(project)) as store:
        pauses = TrainingPauses(store.database, store.scope.environment)
        pauses.hold("north", "process 1", "online requests", 60)
        pauses.announce(TrainingHost("north", "worker@north"), "process 2", 60, first=True)
    assert "worker@north trains." in run(project, "list")
    assert "1 pause(s) ended." in run(project, "resume", "--host", "north")
    assert "1 pause(s) ended." in run(project, "resume")
    assert [one["writer"] for one in shown(project)["pauses"]] == ["process 1"], "that one is for users"
    with pytest.raises(NotFoundError, match="No pause of training is ordered"):
        run(project, "resume")
    with closing(Store.open(project)) as store:
        acts = [(entry.action, entry.subject) for entry in store.audit.query(store.scope)]
    assert sorted(acts) == [
        ("training.pause", "*"), ("training.pause", "north"), ("training.resume", "*"), ("training.resume", "north"),
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [["--for", "0s"], ["--for", "soon"], ["--host", "a/b"], ["--host", ""]])
def test_a_pause_without_end_or_host_is_refused(project: Path, wrong: list[str]) -> None:
    with pytest.raises(InvalidInputError):
        run(project, "pause", "--reason", "load test", *wrong)
    assert shown(project)["pauses"] == []


def test_a_run_that_trains_shows_the_checkpoints_that_another_worker_would_go_on_from(project: Path) -> None:
    with closing(Store.open(project)) as store:
        ids = [store.runs.submit(store.scope, "train", {}) for _ in range(2)]
        with store.database.transaction() as connection:
            kept = TrainingCheckpoint(store.scope, ids[0], 30, "this", "ab" * 32, 59, store.database.clock.now())
            TrainingCheckpoints(store.database).add(kept, within=connection)
    for id, steps in zip(ids, ([30], None), strict=True):
        done = CliRunner().invoke(runs.app, ["show", id, "--project", str(project), "--json"])
        found = json.loads(done.stdout).get("checkpoints")
        assert (found and [one["step"] for one in found]) == steps
    assert "abab" in CliRunner().invoke(runs.app, ["show", ids[0], "--project", str(project)]).stdout
