"""SIGKILL between sending a notification and its record, and at its order: none is lost, few come twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.integration.services.notifications.receivers import HttpReceiver, project, say

from antiphon.services.notifications.delivery import NotificationSender

ROOT = Path(__file__).parents[2]
IDS = [f"n{number}" for number in range(6)]
pytestmark = pytest.mark.chaos


def child(folder: Path, point: str, number: int = 1) -> int:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos.notify_child", str(folder), point, str(number)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "TEAM_SECRET": "a secret"},
        timeout=100, capture_output=True, check=False,
    )  # fmt: skip
    return ended.returncode


def test_none_is_lost_and_one_that_comes_twice_has_one_id(tmp_path: Path) -> None:
    receiver = HttpReceiver()
    common = f'kind = "webhook"\nurl = "{receiver.url}"\nsecret_variable = "TEAM_SECRET"\n'
    store = project(tmp_path, f"[notifications.team]\n{common}")
    for id in IDS:
        say(store, id)
    kills = [("order", 1), ("order", 4), ("sent", 1), ("note", 1), ("sent", 2), ("note", 2)]
    for point, number in kills:
        assert child(tmp_path, point, number) == -signal.SIGKILL, (point, number)
    assert child(tmp_path, "end") == 0
    taken = Counter(headers["webhook-id"] for headers, _ in receiver.taken)
    assert set(taken) == {f"team:{id}:firing" for id in IDS}
    # Four at once may have been sent when the process died before the record of the first.
    assert sum(taken.values()) - len(IDS) <= 4 * len(kills)
    assert [one.status for one in NotificationSender(store).log(None, 100)] == ["sent"] * len(IDS)
    store.close()
    receiver.go_away()
