"""The command behind ``make simulate``: what it prints, and the line that it ends with."""

from __future__ import annotations

import io

from benchmarks.durability.simulation import Tally, run
from tests.simulation.simulator import SCENARIOS, Played


def test_seeds_are_counted_and_a_violation_is_printed_with_the_command_that_plays_it_again() -> None:
    told, tally = io.StringIO(), Tally()
    tally.add(Played(7, "runs", "digest", (), 20, 1, 16.0), told)
    tally.add(Played(11, "runs", "digest", ("the log has a gap",), 10, 0, 16.0), told)
    assert told.getvalue() == "VIOLATION python -m tests.simulation 11: the log has a gap\n"
    assert tally.counts["runs"] == {"seeds": 2, "commits": 30, "crashes": 1, "violations": 1}
    assert tally.violated == [11]


def test_a_range_of_seeds_is_played_by_a_process_of_its_own() -> None:
    told = io.StringIO()
    line = run(range(40, 48), jobs=1, mutants=False, say=told)
    assert line["holds"]
    assert (line["seeds"], line["from"], line["to"], line["violations"]) == (8, 40, 48, 0)
    assert sum(count.get("seeds", 0) for count in line["scenarios"].values()) == 8
    assert all(kind in told.getvalue() for kind in SCENARIOS)
