"""Citations: which are found, and what does not pass."""

from __future__ import annotations

import pytest

from antiphon.serving.answering.guards.citations import violations

CHUNKS = (
    {"number": 1, "id": "returns.md#1", "title": "Returns", "text": "Broken glass is replaced within 30 days."},
    {"number": 2, "id": "a b.md#2", "title": "Hours", "text": "The shop opens at nine."},
)


@pytest.mark.parametrize(
    "text",
    [
        "Glass is replaced [1].",
        "Glass is replaced [1, 2] and [ 2 ; 1 ].",
        "Glass is replaced [returns.md#1].",
        "Glass is replaced [1-2], or [1\u20132].",
        "Glass is replaced [\uff11].",
        "Arrays begin at a[i], and lists are [] or [x] [1].",
    ],
)
def test_citations_of_retrieved_chunks_pass(text: str) -> None:
    assert violations(text, CHUNKS, 0.0, required=True) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Glass is replaced [3].", "cites [3]"),
        ("Glass is replaced [1, 99].", "cites [99]"),
        ("Glass is replaced [returns.md#2].", "cites [returns.md#2]"),
        ("Glass is replaced.", "cites nothing"),
        ("Glass is replaced [1-3].", "cites [3]"),
        ("Glass is replaced [1-1000000].", "cites [1000000]"),
        ("Glass is replaced [9-1].", "cites [9]"),
        (f"Glass is replaced [{'9' * 5_000}-{'9' * 5_001}].", "cites [999"),
        ("Glass is replaced [\uff17].", "cites [7]"),
        ("Glass is replaced [\u200b7].", "cites [7]"),
    ],
)
def test_other_citations_do_not(text: str, said: str) -> None:
    assert any(said in one for one in violations(text, CHUNKS, 0.0, required=True))


def test_where_nothing_was_retrieved_nothing_must_be_cited() -> None:
    assert violations("I do not know.", (), 0.0, required=True) == []
    assert violations("It is so [1].", (), 0.0, required=False)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("Broken glass is replaced [1].", True),
        ("Broken glass is replaced. [1] The shop opens at nine. [2]", True),
        ("Broken glass is replaced. [2] The shop opens at nine. [1]", False),
        ("Broken glass is replaced within 60 days [1].", False),
        ("Broken glass is replaced [2].", False),
    ],
)
def test_a_sentence_is_held_to_what_it_cites(text: str, passes: bool) -> None:
    assert (violations(text, CHUNKS, 0.6, required=True) == []) is passes
