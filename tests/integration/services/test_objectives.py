"""Objectives of a project: counted from what its processes measured, alerts that begin and end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.catalog.examples import NOON

from antiphon.catalog.database import Database
from antiphon.catalog.measurements import Amount, Measurements
from antiphon.core.clock import ManualClock
from antiphon.core.histograms import bucket_of
from antiphon.core.paths import ProjectPaths
from antiphon.core.settings import Settings
from antiphon.definitions.project import load
from antiphon.services.objectives import ObjectiveLine, ProjectObjectives
from antiphon.services.project.store import Store

DEFINITIONS = """
from antiphon import Application, Objective, Prompt

desk = Application("desk", features=[], purpose="help", prompt=Prompt("{{ question }}"), model="tiny")
Objective(desk, "errors")
Objective(desk, "latency", within="1s")
"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    made = Store(Settings(), ProjectPaths(root=tmp_path, directory=tmp_path / ".antiphon"))
    made.database = Database.open(f"sqlite:///{tmp_path}/catalog.db", clock=clock)
    made.database.migrate()
    made.applied.apply(made.scope, load(tmp_path), principal="ada")
    yield made
    made.database.close()


def measure(store: Store, clock: ManualClock, minutes: int, answered: int, failed: int, seconds: float) -> None:
    """Minutes of requests, of which so many are answered after so long, and so many failed."""
    for _ in range(minutes):
        counted = {
            ("antiphon_requests", ("desk", "online", "200", "none")): Amount(float(answered)),
            ("antiphon_requests", ("desk", "online", "404", "caller")): Amount(5.0),
            ("antiphon_requests", ("desk", "online", "502", "platform")): Amount(float(failed)),
            ("antiphon_answer_seconds", ("desk", "online", "generated")): Amount(
                answered * seconds, float(answered), 0.0, {bucket_of(seconds): answered}
            ),
        }
        store.measurements.append("gateway", clock.now(), {store.scope.tenant: Measurements(counted)})
        clock.advance(timedelta(minutes=1))
    store.measurements.roll_up()


def by_name(objectives: ProjectObjectives) -> dict[str, ObjectiveLine]:
    return {line.name: line for line in objectives.list()}


def test_an_alert_begins_with_an_outage_and_ends_after_it(store: Store, clock: ManualClock) -> None:
    objectives = ProjectObjectives(store, store.scope)
    assert {line.status for line in objectives.list()} == {"unmeasured"}
    measure(store, clock, 90, answered=20, failed=0, seconds=0.2)
    assert objectives.assess() == 0
    lines = by_name(objectives)
    assert {line.status for line in lines.values()} == {"met"}
    assert (lines["desk-errors"].attained, lines["desk-errors"].counted) == (1.0, 1_800)
    measure(store, clock, 20, answered=2, failed=18, seconds=0.2)
    assert objectives.assess() == 1
    burning = by_name(objectives)
    assert (burning["desk-errors"].status, burning["desk-errors"].severity) == ("burning", "critical")
    assert "burns" in burning["desk-errors"].reasons[0]
    assert burning["desk-latency"].status == "met"
    (said,) = store.notifications.active(store.scope, "objective")
    assert (said.severity, said.application, said.labels["objective"]) == ("critical", "desk", "desk-errors")
    assert objectives.assess() == 0
    # Another process, which reads everything anew, knows of the same alert.
    assert ProjectObjectives(store, store.scope).assess() == 0
    measure(store, clock, 40, answered=20, failed=0, seconds=0.2)
    # What the outage used up of the budget is left as a warning.
    assert objectives.assess() == 2
    alerts = {one.severity: one.resolved_at is not None for one in objectives.alerts()}
    assert alerts == {"critical": True, "warning": False}
    assert [one.severity for one in store.notifications.active(store.scope, "objective")] == ["warning"]
    measure(store, clock, 400, answered=20, failed=0, seconds=0.2)
    assert objectives.assess() == 1
    assert by_name(objectives)["desk-errors"].status == "missed"


def test_slow_answers_count_against_their_bound_alone(store: Store, clock: ManualClock) -> None:
    objectives = ProjectObjectives(store, store.scope)
    measure(store, clock, 30, answered=30, failed=0, seconds=2.0)
    assert objectives.assess() == 1
    lines = by_name(objectives)
    assert (lines["desk-latency"].status, lines["desk-errors"].status) == ("burning", "met")
    assert lines["desk-latency"].attained == pytest.approx(0.0, abs=1e-9)


def test_an_objective_that_is_declared_later_counts_what_was_before(
    store: Store, clock: ManualClock, tmp_path: Path
) -> None:
    objectives = ProjectObjectives(store, store.scope)
    measure(store, clock, 30, answered=30, failed=0, seconds=2.0)
    objectives.assess()
    (tmp_path / "definitions.py").write_text(DEFINITIONS.replace('within="1s"', 'within="5s", name="patient"'))
    store.applied.apply(store.scope, load(tmp_path), principal="ada")
    # The alert of the one that is gone is over.
    assert objectives.assess() == 1
    line = by_name(objectives)["patient"]
    assert (line.status, line.counted) == ("met", 900)
