"""Objectives of quality, calibration and cost, from outcomes that were joined and from the ledger."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.catalogs import catalog_url
from tests.unit.catalog.examples import NOON

from antiphon.catalog.database import Database
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.catalog.ledger import MeteredUsage
from antiphon.core.clock import ManualClock
from antiphon.core.paths import ProjectPaths
from antiphon.core.settings import Settings
from antiphon.definitions.project import load
from antiphon.operations.cost.price_book import OPENING
from antiphon.operations.objectives import outcomes
from antiphon.services.objectives import ObjectiveLine, ProjectObjectives
from antiphon.services.project.store import Store

DEFINITIONS = """
from antiphon import Application, Objective, Outcome, Prompt

urgency = {"type": "object", "required": ["urgency"], "additionalProperties": False, "properties": {
    "urgency": {"type": "string", "enum": ["low", "high"]}}}
triage = Application("triage", features=[], purpose="sort", prompt=Prompt("{{ question }}"), model="tiny",
    output=urgency, outcome=Outcome("urgency", positive="high", window="60d"))
"""
OBJECTIVES = """
Objective(triage, "quality", target=0.8)
Objective(triage, "calibration", target=0.9)
"""
COST = """
Objective(triage, "cost", most=0.002)
"""
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    made = Store(Settings(), ProjectPaths(root=tmp_path, directory=tmp_path / ".antiphon"))
    made.database = Database.open(catalog_url(tmp_path), clock=clock)
    made.database.migrate()
    declare(made, OBJECTIVES)
    yield made
    made.database.close()


def declare(store: Store, objectives: str, definitions: str = DEFINITIONS) -> None:
    (store.paths.root / "definitions.py").write_text(definitions + objectives)
    store.applied.apply(store.scope, load(store.paths.root), principal="ada")


class Answers:
    """Answers of the application, and what is told of them later."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self._clock = clock
        self._store = store
        self._dice = random.Random(11)
        self._made = 0

    def tell(
        self, count: int, ago: timedelta, over: timedelta, high: Callable[[float], float], role: str = "live"
    ) -> None:
        """Join outcomes now of answers that were given ``ago``, spread over a time before that: each forecast with the
        chance at which it comes true."""
        self._clock.advance(timedelta(milliseconds=1))
        now = self._store.database.clock.now()
        with self._store.database.transaction() as connection:
            for number in range(count):
                self._made += 1
                forecast = self._dice.choice((0.1, 0.2, 0.8, 0.9))
                value = "high" if self._dice.random() < high(forecast) else "low"
                at = now - ago - over * (number / count)
                record = OutcomeRecord(
                    f"out_{self._made}", self._store.scope, "triage", "label", "joined", value, now, now,
                    prediction=f"pred_{self._made}", release="rel_1", role=role, as_of=at, outcome="urgency",
                    probabilities={"high": forecast}, principal="ann",
                )  # fmt: skip
                self._store.outcomes.add(record, within=connection)


def by_kind(objectives: ProjectObjectives) -> dict[str, ObjectiveLine]:
    return {line.kind: line for line in objectives.list()}


def test_quality_and_calibration_burn_by_outcomes_that_came_late(store: Store, clock: ManualClock) -> None:
    objectives, answers = ProjectObjectives(store, store.scope), Answers(store, clock)
    assert objectives.assess() == 0
    lines = by_kind(objectives)
    assert {line.status for line in lines.values()} == {"unmeasured"}
    assert lines["quality"].note == "No outcome of an answer in its window is known so far."
    # Forecasts that are right, of answers from a day ago and before: nothing else is known of yet.
    answers.tell(400, 24 * HOUR, 72 * HOUR, lambda forecast: forecast)
    assert objectives.assess() == 0
    lines = by_kind(objectives)
    assert {line.status for line in lines.values()} == {"met"}
    assert (lines["quality"].counted, lines["quality"].known_until) == (400, NOON - 24 * HOUR + timedelta(minutes=1))
    assert (lines["quality"].measured or "").startswith("Brier score 0.1")
    # Shadow answers reached nobody, whatever came of them.
    answers.tell(300, HOUR, 10 * HOUR, lambda forecast: 1 - forecast, "shadow")
    assert objectives.assess() == 0
    clock.advance(24 * HOUR)
    assert objectives.assess() == 0
    # A night's file says that what was answered since was wrong, and mostly not urgent.
    answers.tell(400, 12 * HOUR, 20 * HOUR, lambda forecast: 0.0 if forecast > 0.5 else 0.2)
    assert objectives.assess() == 2
    lines = by_kind(objectives)
    assert {line.kind: line.status for line in lines.values()} == {"quality": "burning", "calibration": "burning"}
    assert lines["calibration"].measured == f"bias {-(1 - (lines['calibration'].attained or 0)):+.3f}"
    assert "by outcomes of answers until 2013-" in lines["quality"].reasons[0]
    (first, _) = store.notifications.active(store.scope, "objective")
    assert first.title == "triage burns the error budget of triage-calibration" or first.application == "triage"
    # Another process reads it anew, and nothing that has not come ends the alert.
    clock.advance(12 * HOUR)
    assert ProjectObjectives(store, store.scope).assess() == 0
    assert objectives.assess() == 0
    # Answers since then are right again.
    answers.tell(2_500, timedelta(), 11 * HOUR, lambda forecast: forecast)
    assert objectives.assess() == 2
    assert {line.status for line in by_kind(objectives).values()} <= {"met", "missed"}
    assert by_kind(ProjectObjectives(store, store.scope)) == by_kind(objectives)


def test_outcomes_of_last_month_raise_no_alert_today(store: Store, clock: ManualClock) -> None:
    objectives, answers = ProjectObjectives(store, store.scope), Answers(store, clock)
    answers.tell(400, HOUR, 60 * HOUR, lambda forecast: forecast)
    answers.tell(800, 200 * HOUR, 40 * HOUR, lambda forecast: 1 - forecast)
    assert objectives.assess() == 0
    lines = by_kind(objectives)
    assert (lines["quality"].status, lines["quality"].counted) == ("missed", 1_200)
    assert lines["quality"].burn_hour is not None
    # What is older than the window counts no more.
    answers.tell(100, 700 * HOUR, HOUR, lambda forecast: 1 - forecast)
    objectives.assess()
    assert by_kind(objectives)["quality"].counted == 1_200


def test_a_few_outcomes_are_no_evidence(store: Store, clock: ManualClock) -> None:
    objectives, answers = ProjectObjectives(store, store.scope), Answers(store, clock)
    answers.tell(4, HOUR, HOUR, lambda forecast: 1 - round(forecast))
    assert objectives.assess() == 0
    assert by_kind(objectives)["quality"].status == "missed"


def test_outcomes_that_come_before_their_delay_wait_for_the_others(store: Store, clock: ManualClock) -> None:
    declare(store, OBJECTIVES, DEFINITIONS.replace('positive="high"', 'positive="high", delay="6h"'))
    objectives, answers = ProjectObjectives(store, store.scope), Answers(store, clock)
    # Complaints come at once; whoever is content says so in the evening.
    answers.tell(100, timedelta(), HOUR, lambda forecast: 1 - round(forecast))
    assert objectives.assess() == 0
    assert by_kind(objectives)["quality"].status == "unmeasured"
    clock.advance(7 * HOUR)
    answers.tell(900, 7 * HOUR, HOUR, lambda forecast: forecast)
    assert objectives.assess() == 0
    line = by_kind(objectives)["quality"]
    assert (line.status, line.counted) == ("met", 1_000)


def test_beside_the_sample_people_chose_what_they_told_of(store: Store, clock: ManualClock) -> None:
    declare(store, OBJECTIVES, DEFINITIONS.replace('positive="high"', 'positive="high", sample=0.5'))
    objectives, answers = ProjectObjectives(store, store.scope), Answers(store, clock)
    answers.tell(200, HOUR, HOUR, lambda forecast: forecast)
    objectives.assess()
    assert 60 < by_kind(objectives)["quality"].counted < 140


def test_of_many_outcomes_the_newest_count(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "MOST_OUTCOMES", 100)
    answers = Answers(store, clock)
    answers.tell(100, 30 * HOUR, 10 * HOUR, lambda forecast: 1 - forecast)
    answers.tell(90, HOUR, 10 * HOUR, lambda forecast: forecast)
    for objectives in (ProjectObjectives(store, store.scope), ProjectObjectives(store, store.scope)):
        objectives.assess()
        assert 90 <= by_kind(objectives)["quality"].counted <= 100
        answers.tell(10, timedelta(), HOUR, lambda forecast: forecast)
        objectives.assess()
        assert 90 <= by_kind(objectives)["quality"].counted <= 100


def spend(store: Store, answers: int, tokens: int, role: str = "live") -> None:
    used = {"application": "triage", "release": "rel_1", "path": "online", "role": role, "model": "tiny"}
    with store.database.transaction():
        store.ledger.add_with_commit(
            store.scope, [MeteredUsage("answer", answers, **used), MeteredUsage("completion_token", tokens, **used)]
        )


def test_cost_is_what_an_answer_costs_on_average(store: Store, clock: ManualClock) -> None:
    declare(store, COST)
    objectives = ProjectObjectives(store, store.scope)
    spend(store, 100, 10_000)
    assert objectives.assess() == 0
    line = by_kind(objectives)["cost"]
    assert (line.status, line.target, line.most) == ("unmeasured", None, 0.002)
    assert "[prices] in antiphon.toml" in (line.note or "")
    price(store, "0.00001")
    for _ in range(30):
        clock.advance(HOUR)
        spend(store, 100, 10_000)
        spend(store, 10, 900_000, "evaluation")
        assert objectives.assess() == 0
    line = by_kind(objectives)["cost"]
    assert (line.status, line.measured, line.counted) == ("met", "0.001 EUR an answer", 3_100)
    assert (line.attained, line.budget_left) == (None, pytest.approx(0.5))
    # An hour that is not over is read again.
    clock.advance(timedelta(minutes=2))
    spend(store, 10, 1_000)
    objectives.assess()
    assert by_kind(objectives)["cost"].counted == 3_110
    clock.advance(HOUR)
    spend(store, 50, 600_000)
    assert objectives.assess() == 1
    assert by_kind(objectives)["cost"].severity == "critical"
    assert [one.title for one in store.notifications.active(store.scope, "objective")] == [
        "triage burns the error budget of triage-cost"
    ]
    clock.advance(HOUR)
    spend(store, 100, 10_000)
    clock.advance(timedelta(minutes=40))
    # What the dear hour used up of the budget is left as a warning.
    assert objectives.assess() == 2
    assert by_kind(objectives)["cost"].severity == "warning"
    # By another process, from the beginning, it is the same.
    before = by_kind(objectives)["cost"]
    ProjectObjectives(store, store.scope).assess()
    assert by_kind(objectives)["cost"] == before


def test_a_price_that_is_recorded_for_the_past_counts_there(store: Store, clock: ManualClock) -> None:
    declare(store, COST)
    price(store, "0.00001")
    objectives = ProjectObjectives(store, store.scope)
    for _ in range(200):
        spend(store, 100, 10_000)
        clock.advance(HOUR)
    objectives.assess()
    since = clock.now() - 150 * HOUR
    price(store, "0.00003", since)
    price(store, "0.00001", since + 30 * HOUR)
    assert objectives.assess() == 0
    line = by_kind(objectives)["cost"]
    assert (line.status, line.measured) == ("met", "0.0013 EUR an answer")


def price(store: Store, amount: str, since: datetime = OPENING) -> None:
    with store.database.transaction() as connection:
        store.prices.record(
            store.scope.environment, "completion_token", "", amount, "EUR", since, "ann", "contract", within=connection
        )
