from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.cli.output import RunProgress


def at(done: int, note: str) -> Any:
    return SimpleNamespace(note=note, status="running", done=done, total=40)


def test_a_notice_is_told_once_between_the_tenths(capsys: pytest.CaptureFixture[str]) -> None:
    line = RunProgress("run_1")
    starved = "training: loss 0.400, 30 min left; it got 4% of a core for {} min: other work holds it back"
    for done, note in (
        (1, "training: loss 0.410, 30 min left"),
        (2, "training: loss 0.400, 30 min left"),
        (2, starved.format(1)),
        (2, starved.format(1)),
        (2, starved.format(2)),
        (3, "training: loss 0.390, 30 min left"),
        (8, "training: loss 0.300, 25 min left"),
    ):
        line(at(done, note))
    said = capsys.readouterr().err.splitlines()
    assert [one.rpartition("(")[2] for one in said] == ["1 of 40)", "2 of 40)", "2 of 40)", "8 of 40)"]
    assert ["for 1 min" in said[1], "for 2 min" in said[2]] == [True, True]
