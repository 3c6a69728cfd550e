"""A backtest plays a playbook at the moment of the first blame, and judges it by the causes that were left."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from tests.unit.catalog.examples import NOON
from tests.unit.operations.playbooks.test_fitting import FAULTS, incident

from antiphon.catalog.incidents import Incident, IncidentClass, TimelineEntry
from antiphon.definitions.shipped_playbooks import SHIPPED
from antiphon.operations.playbooks.backtest import as_first_blamed, backtest

FREEZE = SHIPPED["freeze-batch"]


def blamed(component: str, class_: IncidentClass, seconds: int = 0) -> TimelineEntry:
    at = NOON + timedelta(seconds=seconds)
    return TimelineEntry(at, "cause", f"{component} ({class_})", component=component, class_=class_)


def over(found: Incident, *timeline: TimelineEntry, name: str = "inc_1") -> Incident:
    return msgspec.structs.replace(found, id=name, state="resolved", timeline=timeline)


RIGHT = over(FAULTS["freeze-batch"], blamed("application/desk", "overload"))


def test_enough_cases_that_were_right_are_passed() -> None:
    recorded = [msgspec.structs.replace(RIGHT, id=f"inc_{number}") for number in range(FREEZE.least_cases)]
    found = backtest(FREEZE, recorded)
    assert (found.right, found.innocents, found.passed) == (FREEZE.least_cases, 0, True)
    assert not backtest(FREEZE, recorded[1:]).passed


def test_a_cause_that_was_dropped_was_innocent() -> None:
    # Blamed was the load at first; in the end it was the engine, whose evidence came later.
    engine = incident("engine/engine", "standstill", "infrastructure")
    wrong = over(engine, blamed("application/desk", "overload"), blamed("engine/engine", "infrastructure", 60))
    first = as_first_blamed(wrong)
    assert (first.class_, [root.component for root in first.roots]) == ("overload", ["application/desk"])
    many = [msgspec.structs.replace(RIGHT, id=f"inc_{number}") for number in range(9)]
    found = backtest(FREEZE, [*many, wrong])
    (case,) = [one for one in found.cases if not one.right]
    assert (case.incident, case.innocent) == ("inc_1", ("application/desk",))
    assert (len(found.cases), found.right, found.passed) == (10, 9, False)
    assert backtest(msgspec.structs.replace(FREEZE, most_wrong=0.1), [*many, wrong]).passed


def test_what_was_blamed_late_is_missed() -> None:
    found = backtest(FREEZE, [over(FAULTS["freeze-batch"], blamed("host", "infrastructure"),
                                   blamed("application/desk", "overload", 60))])  # fmt: skip
    assert (found.cases, found.missed) == ((), ("inc_1",))


def test_an_incident_that_goes_on_is_no_case() -> None:
    found = backtest(FREEZE, [msgspec.structs.replace(RIGHT, state="open")])
    assert (found.incidents, found.cases) == (0, ())


def test_one_that_comes_after_another_counts_where_that_would_have_acted() -> None:
    later = msgspec.structs.replace(SHIPPED["page-person"], severity="warning", after="freeze-batch")
    other = over(incident("host", "disk_full", "infrastructure"), blamed("host", "infrastructure"), name="inc_2")
    found = backtest(later, [RIGHT, other], [FREEZE], {"inc_1"})
    assert ([one.incident for one in found.cases], found.missed, found.turns) == (["inc_1"], (), 1)
    assert found.sentence.endswith(
        "Its turn is after freeze-batch, once it has failed, which was so in 1 of these cases."
    )
    assert len(backtest(later, [RIGHT, other]).cases) == 2
