"""Rows that a release has seen: in training, or in the examples of its prompt."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from tests.harness.small_desk import DESK

from antiphon.definitions.prompt import Prompt
from antiphon.features.values import FeatureValue, FeatureVector
from antiphon.learning.datasets.reader import DatasetRow
from antiphon.learning.evaluation.leaks import row_identities, seen_rows

EXAMPLE = ("Customer writes: My invoice of May is missing.", '{"topic": "billing"}')
TICKETS = msgspec.structs.replace(DESK, prompt=Prompt("{{ question }}", examples=(EXAMPLE,)))


def ticket(
    question: str | None, label: str = "billing", customer: str = "acme", open: int = 1, day: int = 1
) -> DatasetRow:
    value = FeatureValue(open, None, "v1")
    return DatasetRow(
        f"{day}-{customer}-{question}", {"customer": customer}, datetime(2026, 3, day, tzinfo=UTC), label,
        FeatureVector(None, {"account.open": value}), question,
    )  # fmt: skip


def test_the_same_request_was_seen_whatever_came_of_it() -> None:
    """Leaving out those with the usual outcome alone would leave the unusual ones, which the model is wrong about."""
    trained = row_identities(TICKETS, [ticket("Please send the refund")])
    rows = [
        ticket("please  send the refund", customer="blue", day=2),  # the prompt shows no customer
        ticket("Please send the refund", "shipping", day=3),
        ticket("Please send the refund", open=2, day=4),
        ticket("Where is the parcel?", day=5),
    ]
    assert seen_rows(TICKETS, rows, trained) == {row.example: "in-training" for row in rows[:2]}


def test_without_a_question_it_is_the_same_entity() -> None:
    trained = row_identities(TICKETS, [ticket(None)])
    rows = [ticket(None, day=2), ticket(None, customer="blue", day=3)]
    assert seen_rows(TICKETS, rows, trained) == {rows[0].example: "in-training"}


def test_an_entity_that_the_prompt_shows_is_part_of_what_was_seen() -> None:
    named = msgspec.structs.replace(TICKETS, prompt=Prompt("{{ entity.customer }}: {{ question }}"))
    trained = row_identities(named, [ticket("Will my order be on time?")])
    rows = [ticket("Will my order be on time?", customer="blue"), ticket("Will my order be on time?", day=2)]
    assert seen_rows(named, rows, trained) == {rows[1].example: "in-training"}


def test_a_template_that_leaves_the_question_out_makes_no_row_seen() -> None:
    """Else a release that ignores what is asked would have no evaluation set, and no figure that says how bad it is."""
    blind = msgspec.structs.replace(TICKETS, prompt=Prompt("A ticket of {{ entity.customer }}."))
    trained = row_identities(blind, [ticket("Please send the refund")])
    rows = [ticket("Where is the parcel?"), ticket(None, day=2), ticket("Please send the refund", day=3)]
    assert seen_rows(blind, rows, trained) == {rows[2].example: "in-training"}


def test_a_question_in_the_prompts_examples_was_seen() -> None:
    rows = [ticket("my invoice of May is missing."), ticket("May"), ticket("Where is the parcel?")]
    assert seen_rows(TICKETS, rows, ()) == {rows[0].example: "in-examples"}
