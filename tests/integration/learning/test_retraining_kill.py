"""A worker killed with SIGKILL at every kind of line of a retraining: the next one finishes, and nothing is double."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import msgspec
import pytest
from tests.harness.small_desk import SCOPE
from tests.integration.learning import retraining_child
from tests.integration.learning.learning_desk import ORDER, LearningDesk

POINTS = (
    "before:build training set",
    "before:write examples",
    "train:4",
    "before:fine-tune",
    "register",
    "row:9",
    "before:validate",
    "before:begin rollout",
)


@pytest.mark.chaos
def test_a_killed_retraining_is_finished_by_the_next_worker(tmp_path: Path) -> None:
    desk = LearningDesk(tmp_path)
    live = desk.live()
    run = desk.orders.place(SCOPE, "me", msgspec.structs.replace(ORDER, rollout=True))
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pytest", retraining_child.__name__])
    for point in (*POINTS, "none"):
        child = processes.Process(target=retraining_child.run, args=(tmp_path, run, point))
        child.start()
        child.join(60)
        assert child.exitcode == (0 if point == "none" else -signal.SIGKILL), point
        status = desk.runs.get(SCOPE, run).status
        assert status == ("succeeded" if point == "none" else "running"), (point, desk.runs.get(SCOPE, run).error)
        assert desk.live() == live, point
    found = desk.runs.get(SCOPE, run).result
    steps = (tmp_path / "trained").read_text().split()
    assert steps == [str(step) for step in range(10)], "training went on where it was, or began anew"
    (version,) = desk.versions.list(SCOPE)
    assert (version.id, found["model"], found["stage"]) == ("desk.v1", "desk.v1", "validated")
    assert [release.number for release in desk.releases.list(SCOPE)] == [2, 1]
    assert len(desk.versions.aliases(SCOPE, "desk")["latest"]) == 1
    (rollout,) = desk.rollouts.list(SCOPE)
    assert found["rollout"] == rollout.id
    assert [entry.action for entry in desk.audit.query(SCOPE)].count("model.register") == 1
    assert len(desk.datasets.list(SCOPE, kind="training")) == 1
    desk.close()
