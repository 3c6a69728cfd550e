"""Goals are read off a table: each is missed by the figure that misses it."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.colocation.calibration import reference
from benchmarks.colocation.compare import simulated
from benchmarks.colocation.figures import Row
from benchmarks.colocation.goals import goals, told
from benchmarks.colocation.points import CONTENDERS


def table() -> dict[str, Row]:
    _, rows = simulated(reference(), "conv", (0,), 8.0, contenders=CONTENDERS, bucket=0.05)
    return {row.policy: row for row in rows}


def test_goals_name_what_misses_them() -> None:
    rows = table()
    ours = replace(rows["ours, slowdown 10%"], rate=20.0, slowdown=(1.05, 1.0, 1.1, 1.2))
    level = replace(rows["ours, service level"], within_lost=0.019)
    searched = replace(ours, policy="searched, slowdown 10%", rate=22.0)
    quick = replace(rows["static cap 1"], rate=30.0, slowdown=(1.3, 1.2, 1.6, 2.0))
    found = goals([level, ours, searched, quick])
    assert all(of["met"] for of in found.values()), found
    assert found["of the best causal"]["by slowdown"] == {"slowdown 10%": 0.909}
    gentle = replace(quick, slowdown=(1.04, 1.0, 1.1, 1.2))
    missed = goals([replace(level, within_lost=0.03), ours, replace(searched, rate=23.0), gentle])
    assert not any(of["met"] for of in missed.values())
    assert missed["ahead of caps and priority"]["better"] == {"slowdown 10%": ["static cap 1"]}
    assert told(missed).count("NOT MET") == 3
    assert "static cap 1" in told(missed)


def test_noise_alone_is_no_slowdown_on_a_machine_without_any() -> None:
    rows = table()
    assert rows["online only"].kept_by == (1.0, 1.0, 1.0, 1.0)
    assert rows["online only, again"].rate == 0
    assert rows["online only, again"].kept_by[-1] > 0.9
