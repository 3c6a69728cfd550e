"""The benchmark of faults on a running platform: its split, impact, rivals and scores, on made-up cases."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks.operations import incidents as simulated
from benchmarks.operations.faults import injectors, scoring
from benchmarks.operations.faults.case import FaultOutcome
from benchmarks.operations.faults.held_out import HELD_OUT
from benchmarks.operations.faults.injectors import INJECTORS
from benchmarks.operations.faults.rivals import MeasuredCase, by_baro, by_rules
from benchmarks.operations.faults.split import KINDS, SEEN, held_out, seed_of
from benchmarks.operations.faults.users import AskedQuestion, Users

from antiphon.catalog.measurements import FINEST, Amount, Measurements

AT = datetime(2026, 3, 2, 8, tzinfo=UTC)
GUILTY = [one.name for one in HELD_OUT if not one.innocent]
INNOCENT = [one.name for one in HELD_OUT if one.innocent]


def outcome(kind: str, **fields: Any) -> FaultOutcome:
    """A case that was found and explained rightly."""
    truth = KINDS[kind]
    right = FaultOutcome(
        kind=kind, seed=1, held_out=held_out(kind), impact=True, questions=100, hit=20, class_=truth.class_,
        roots=tuple(sorted(truth.roots)), seconds=8.0, incidents=1, path=True, mended=True, state="mitigated",
        ledger=0, before=0, by_rules="no cause found", by_baro=(),
    )  # fmt: skip
    return msgspec.structs.replace(right, **fields)


def test_held_out_kinds_are_in_no_list_that_detectors_were_made_with() -> None:
    known = {*simulated.TUNED, *simulated.HELD_OUT}
    assert not {one.name for one in HELD_OUT} & known
    assert not any(one.simulated for one in HELD_OUT)
    assert all(one.name in known and one.simulated in simulated.FAULTS for one in SEEN if one.simulated)
    assert len(KINDS) == len(SEEN) + len(HELD_OUT)
    assert len(SEEN) >= 27
    assert len(HELD_OUT) >= 24
    assert set(INJECTORS) == set(KINDS)
    assert not {seed_of(one.name, n) for one in SEEN for n in range(10)} & {
        seed_of(one.name, n) for one in HELD_OUT for n in range(10)
    }


def test_injectors_import_nothing_of_detectors_and_of_our_own_faults() -> None:
    modules = sorted(Path(injectors.__file__).parent.glob("*.py"))
    assert {sys.modules[one.__module__].__file__ for one in INJECTORS.values()} <= {str(path) for path in modules}
    for path in modules:
        text = path.read_text(encoding="utf-8")
        assert "antiphon.operations" not in text, path.name
        assert "antiphon.services" not in text, path.name


def users(*asked: tuple[float, float, int]) -> Users:
    import random

    made = Users("http://nowhere", "key", random.Random(1), 1.0)
    made.asked = [AskedQuestion("desk", due, seconds, status) for due, seconds, status in asked]
    return made


@pytest.mark.parametrize(
    ("during", "felt"),
    [
        ([(0.1, 200)] * 50, False),
        ([(0.1, 200)] * 47 + [(0.1, 503)] * 3, True),
        ([(0.1, 200)] * 47 + [(4.0, 200)] * 3, True),
        ([(0.1, 200)] * 48 + [(0.1, 503)] * 2, False),
        ([(0.1, 200)] * 400 + [(0.1, 503)] * 3, False),
    ],
)
def test_users_feel_what_fails_or_comes_far_later_than_usual(during: list[tuple[float, int]], felt: bool) -> None:
    made = users(*((1.0, 0.1, 200) for _ in range(50)), *((20.0, seconds, status) for seconds, status in during))
    assert made.impact((0.0, 10.0), 15.0, 30.0).felt is felt


def test_what_fails_anyway_is_no_impact() -> None:
    some = [(0.1, 200)] * 40 + [(0.1, 422)] * 10
    made = users(*((at, *one) for at in (1.0, 20.0) for one in some))
    assert not made.impact((0.0, 10.0), 15.0, 30.0).felt


def test_scores_are_of_held_out_kinds_and_of_cases_with_an_impact() -> None:
    line = scoring.result(
        [
            outcome(GUILTY[0]),
            outcome(GUILTY[1], class_="no cause found", roots=()),
            outcome(GUILTY[2], impact=False, class_="overload", roots=("host",)),
            outcome("engine_killed", roots=("gateway",), seconds=40.0, mended=False),
            outcome(INNOCENT[0], roots=("gateway",), class_="infrastructure", ledger=3),
        ],
        "ci", 1, 5,
    )  # fmt: skip
    assert (line["class_accuracy"], line["root_set_exact"]) == (0.333, 0.5)
    assert (line["seen_class_accuracy"], line["seen_root_set_exact"]) == (1.0, 0.0)
    assert (line["innocents_blamed"], line["ledger_difference"]) == (1.0, 3)
    assert (line["without_impact"], line["cases"], line["holds"]) == (1, 5, False)
    assert line["simulator_error"]["kinds"] == 1


def test_right_cases_reach_the_goals() -> None:
    assert scoring.result([outcome(GUILTY[0]), outcome(INNOCENT[0])], "ci", 1, 2)["holds"]
    assert not scoring.result([outcome(GUILTY[0], problem="it did not start")], "ci", 1, 1)["holds"]


def measured(broken_from: int) -> MeasuredCase:
    periods = {}
    for number in range(24):
        own, platform = Measurements(), Measurements()
        failed = 6.0 if number >= broken_from else 0.0
        own[("antiphon_requests", ("desk", "online", "200", "none"))] = Amount(30.0 - failed + number % 3)
        own[("antiphon_requests", ("desk", "online", "502", "platform"))] = Amount(failed)
        state = 2.0 if number >= broken_from else 0.0
        platform[("antiphon_engine_breaker", ("engine",))] = Amount(state * 10, 10.0, state)
        periods[AT + number * FINEST] = own, platform
    return MeasuredCase(periods, AT + 20 * FINEST + timedelta(seconds=4))


def test_rules_see_what_is_beyond_their_thresholds_after_the_fault_alone() -> None:
    assert by_rules(measured(20)) == "infrastructure"
    assert by_rules(measured(99)) == "no cause found"


def test_baro_is_asked_in_its_own_environment(tmp_path: Path) -> None:
    """Here one that stands in for it, which ranks columns by their last value."""
    child = tmp_path / "python"
    child.write_text(
        f"#!{sys.executable}\nimport json, sys\ncase = json.load(sys.stdin)\ncolumns = case['columns']\n"
        "assert len(columns['time']) == 24 and columns['time'][20] > case['inject_time'] - 10\n"
        "print(json.dumps(sorted(columns, key=lambda name: -columns[name][-1])))\n"
    )
    child.chmod(0o755)
    assert by_baro(measured(20), child) == ("application/desk", "engine/engine")
