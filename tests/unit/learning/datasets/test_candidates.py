"""Which candidates enter a dataset when its outcomes have delays of their own."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from tests.contract.catalog.test_datasets import dataset
from tests.unit.catalog.examples import NOON, application

from antiphon.core.clock import microseconds
from antiphon.definitions.learning import Outcome
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.learning.datasets.candidates import Candidate, choose
from antiphon.learning.datasets.plan import plan

HOUR = timedelta(hours=1)
SCHEMA = (
    '{"type": "object", "properties": {"urgency": {"enum": ["low", "high"]}, "reply": {"type": "string"},'
    ' "note": {"type": "string"}}}'
)


def test_a_further_outcome_younger_than_its_delay_is_not_known_yet() -> None:
    shapes = (
        OutcomeShape("urgency", "label", "urgency"),
        OutcomeShape("reply", "reference", "reply", delay=2 * 3_600.0),
        OutcomeShape("note", "reference", "note"),
    )
    spec = dataset("d1").spec
    made = msgspec.structs.replace(
        spec,
        first=NOON - 30 * HOUR,
        last=NOON,
        cutoff=NOON,
        maturity_seconds=0.0,
        outcomes=shapes,
        labels=(),
    )
    candidates = [
        Candidate(f"e{age}", microseconds(NOON - age * HOUR), ("E",), "low", microseconds(NOON - age * HOUR), "history",
                  further=("yes", "well"))
        for age in (1, 2, 3)
    ]  # fmt: skip
    chosen, dropped = choose(candidates, made)
    assert [(one.example, one.further) for one in chosen] == [
        ("e1", (None, "well")), ("e2", ("yes", "well")), ("e3", ("yes", "well")),
    ]  # fmt: skip
    assert dropped == {}


def test_the_first_outcomes_delay_stands_for_the_windows_maturity() -> None:
    def planned(**given: str) -> float:
        declared = application(output_schema=SCHEMA, outcome=Outcome("urgency", **given))
        return plan(declared, None, NOON).maturity_seconds

    assert planned() == 12 * 3_600.0
    assert planned(delay="2h") == 2 * 3_600.0
