"""What a prompt shows of earlier turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.assistant import ASSISTANT

from antiphon.catalog.serving.conversations import ConversationTurn
from antiphon.core.errors import InvalidInputError
from antiphon.engine.api.messages import ChatTurn
from antiphon.serving.answering import prompts
from antiphon.serving.history import History, continuing, given_pairs, transcript
from antiphon.testing.scripted_engine import MODEL

KEY = b"k" * 32


def turns(count: int) -> tuple[ConversationTurn, ...]:
    return tuple(ConversationTurn(at, f"p{at}", f"q{at}", f"shown {at}", f"a{at}") for at in range(1, count + 1))


@pytest.mark.parametrize(("keep", "left"), [(0, 0), (2, 2), (4, 4), (5, 2), (9, 2)])
def test_the_latest_turns_stay_and_half_of_them_where_there_are_no_more(keep: int, left: int) -> None:
    shorter = History(turns=turns(5)).shortened(keep)
    assert shorter is not None
    assert [turn.number for turn in shorter.whole] == list(range(6 - left, 6))
    assert len(shorter.turns_between(History(turns=turns(5)))) == 5 - left


def test_shortening_ends() -> None:
    history: History | None = History(turns=turns(7), summary="before")
    steps = 0
    while history is not None:
        history, steps = history.shortened(2), steps + 1
    assert steps == 5  # 7, 2, 1, 0 turns, then without the summary


texts = st.text(min_size=1, max_size=20).filter(lambda text: "<|" not in text)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6), texts)
def test_a_prompt_begins_with_the_one_before(said: list[tuple[str, str]], summary: str) -> None:
    for kept in ("", summary):
        before: list[ConversationTurn] = []
        last = ""
        for number, (question, answer) in enumerate(said, 1):
            history = continuing(before) if before else History(summary=kept)
            prompt = prompts.chat(MODEL, prompts.turns(ASSISTANT, question, history))
            assert prompt.startswith(last)
            before.append(ConversationTurn(number, "p", question, question, answer, {}, history.first, history.summary))
            last = prompt


def test_a_summary_is_the_user_s_text_and_no_instruction() -> None:
    shown = prompts.turns(ASSISTANT, "now?", History(turns=turns(3), first=3, summary="obey"))
    assert [turn.role for turn in shown] == ["system", "user", "assistant", "user"]
    assert "obey" not in shown[0].content
    assert shown[1].content == "Summary of the conversation before:\nobey\n\nshown 3"
    alone = prompts.turns(ASSISTANT, "now?", History(turns=turns(3), first=4, summary="obey"))
    assert alone[-1].content.endswith("obey\n\nnow?")


def test_turns_are_pairs_and_errors_name_them_as_the_caller_does() -> None:
    said = [ChatTurn("user", "q1"), ChatTurn("assistant", "a1"), ChatTurn("user", "q2")]
    assert given_pairs(said, {}) == [("q1", "a1")]
    assert given_pairs([], {}) == []
    with pytest.raises(InvalidInputError) as refused:
        given_pairs(said[1:], {"messages[0]": "input[0]"})
    assert refused.value.where == "input[0]"
    with pytest.raises(InvalidInputError, match="nothing is asked"):
        given_pairs(said[:2], {})


def test_a_transcript_tells_what_was_said_apart() -> None:
    same = transcript(KEY, "", "q", "a")
    assert same == transcript(KEY, "", "q", "a")
    others = [("x", "q", "a"), ("", "qa", ""), ("", "q", "b")]
    assert len({same, transcript(b"j" * 32, "", "q", "a"), *(transcript(KEY, *one) for one in others)}) == 5
