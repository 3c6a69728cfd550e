"""SIGKILL before every write and commit of a look that rolls a live release back: all of it, or nothing, then all."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.watch_child import LATER
from tests.harness.watched_release import WatchedRelease

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.chaos


@pytest.fixture
def place() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="antiphon-", dir=memory if memory.is_dir() else None) as folder:
        desk = WatchedRelease(Path(folder) / "template")
        desk.go_live()
        desk.requests(500, failed=200)
        desk.store.database.close()
        yield Path(folder)


def killed(folder: Path, *arguments: str) -> list[Path]:
    """The catalogs of all that were killed, and of the one that was not."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos.watch_child", str(folder), *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
        timeout=200, capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    word, points, code = ended.stdout.split()
    assert (word, code) == ("done", "0"), ended.stderr
    assert int(points) > 5
    return [folder / str(point) for point in range(1, int(points) + 1)]


def parts(desk: WatchedRelease) -> tuple[bool, ...]:
    """What a decision consists of: evidence, decision, notification, pointer, stage."""
    decisions = desk.report.decisions("desk")
    return (
        desk.store.watches.get(desk.scope, "desk", 2) is not None,
        len(decisions) == 1,
        len(desk.store.notifications.page(desk.scope, 0, 10)) == 1,
        desk.answering() == desk.before,
        desk.store.releases.get(desk.scope, desk.live).stage == "rolled_back",
    )


def test_a_look_that_is_killed_leaves_all_of_a_rollback_or_nothing(place: Path) -> None:
    whole = 0
    for folder in killed(place):
        desk = WatchedRelease(folder, at=LATER)
        assert len(set(parts(desk))) == 1, (folder.name, parts(desk))
        whole += parts(desk)[0]
        desk.watcher.look()
        assert all(parts(desk)), (folder.name, parts(desk))
        assert [move.action for move in desk.store.releases.history(desk.scope, "desk")] == [
            "activate", "activate", "rollback",
        ]  # fmt: skip
        desk.close()
    assert whole >= 1


def test_the_checks_see_a_look_without_its_transaction(place: Path) -> None:
    found = []
    for folder in killed(place, "torn"):
        desk = WatchedRelease(folder, at=LATER)
        found.append(len(set(parts(desk))))
        desk.close()
    assert max(found) > 1
