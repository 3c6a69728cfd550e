from __future__ import annotations

from typing import Any

import pytest
from tests.harness.embedders import WORDS

from antiphon import metrics
from antiphon.core.errors import InvalidInputError
from antiphon.learning.evaluation.shipped_metrics import groundedness, refused, score_of

REQUEST: dict[str, Any] = {
    "entity": {"customer": "acme"},
    "question": "How long may I return a jacket?",
    "features": {"orders.days": "12", "orders.note": None},
    "documents": ["Returns. Jackets are taken back within 30 days in their original packaging."],
    "earlier": [{"question": "Do you sell trousers?", "answer": "Yes, from 49 euros."}],
}


@pytest.mark.parametrize(
    ("said", "share"),
    [
        ("Jackets are taken back within 30 days.", 1.0),
        ("Your jacket was ordered 12 days ago.", 3 / 5),
        ("Kangaroos count 99 umbrellas.", 0.0),
        ("Trousers, from 49 euros.", 1.0),
        ("Jackets are taken back within 30 days [1]. [returns.md#1]", 1.0),
        ("Yes.", 1.0),
    ],
)
def test_groundedness_is_the_share_of_words_and_numbers_that_the_request_has(said: str, share: float) -> None:
    assert groundedness(REQUEST, said, {}) == pytest.approx(share, abs=0.01)


def test_one_property_of_an_output_is_looked_at_where_it_is_named() -> None:
    assert groundedness(REQUEST, {"answer": "Jackets are taken back."}, {}) == 1.0, "names of properties are no claims"
    output = {"reply": "Jackets are taken back.", "department": "haberdashery"}
    assert groundedness(REQUEST, output, {}) < 1.0
    assert groundedness(REQUEST, output, {}, property="reply") == 1.0
    with pytest.raises(InvalidInputError, match="no 'summary'"):
        groundedness(REQUEST, output, {}, property="summary")


@pytest.mark.parametrize(
    "said",
    [
        "I'm sorry, but I can't help with that.",
        "I am unable to answer this question.",
        "Unfortunately I cannot provide personal data.",
        "Es tut mir leid, aber dabei kann ich Ihnen nicht helfen.",
        "Je ne peux pas vous aider sur ce point.",
        "Lo siento, no puedo responder a esa pregunta.",
        "Wir können Ihnen dabei leider nicht helfen.",
        "We are unable to help with that.",
        "We're not able to answer this question.",
        "I do not have access to that information.",
        "Nous ne pouvons pas vous aider.",
    ],
)
def test_what_declines_is_a_refusal(said: str) -> None:
    assert refused(REQUEST, said, {}) == 1.0


@pytest.mark.parametrize(
    "said",
    [
        "You can return a jacket within 30 days.",
        "The shop cannot take back jackets without their packaging.",
        "The shop cannot provide a refund after 30 days.",
        "You can't share this voucher with others.",
        "Sie können die Jacke nicht mehr zurückgeben.",
        "Vous ne pouvez pas rendre la veste.",
        "",
    ],
)
def test_an_answer_that_says_no_is_none(said: str) -> None:
    assert refused(REQUEST, said, {}) == 0.0


def test_similarity_compares_with_a_reference_by_embedding() -> None:
    score = score_of(metrics.similarity("reply", "answer"), WORDS)
    same, other = {"answer": "Jackets within 30 days."}, {"answer": "Nothing whatever."}
    truth = {"reply": "Within 30 days, jackets."}
    assert score(REQUEST, same, truth) == pytest.approx(1.0, abs=1e-5)
    assert 0.0 <= score(REQUEST, other, truth) < 0.5
    assert score(REQUEST, {"answer": " "}, truth) == 0.0
    with pytest.raises(InvalidInputError, match="no outcome 'reply'"):
        score(REQUEST, same, {})
