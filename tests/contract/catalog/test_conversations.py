from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.serving.conversations import ConversationRecord, Conversations, ConversationTurn, TurnPlace
from antiphon.core.errors import ConflictError, NotFoundError, WriteConflictError


def record(id: str = "conv_1", turns: int = 1, **changes: object) -> ConversationRecord:
    own = ConversationRecord(id, DEV, "helper", "s1", "ada", "rel_1", None, turns, NOON, NOON)
    return msgspec.structs.replace(own, **changes)


def turn(number: int, transcript: str = "", **changes: object) -> ConversationTurn:
    transcript = transcript or f"t{number}"
    made = ConversationTurn(
        number, f"pred_{number}", "why?", "Question: why?", "because", {"v.f": "1"}, 1, "", transcript
    )
    return msgspec.structs.replace(made, **changes)


def test_turns_are_read_back_in_order(database: Database) -> None:
    conversations = Conversations(database)
    conversations.append(record(), [turn(1)])
    conversations.append(record(turns=3, release="rel_2", updated_at=NOON + timedelta(hours=1)), [turn(2), turn(3)])
    found = conversations.get(DEV, "conv_1")
    assert (found.turns, found.release, found.created_at) == (3, "rel_2", NOON)
    assert conversations.turns(DEV, "conv_1") == [turn(1), turn(2), turn(3)]
    assert conversations.turns(DEV, "conv_1", 2) == [turn(1), turn(2)]
    assert conversations.of_prediction(DEV, "pred_2") == TurnPlace("conv_1", 2)
    assert conversations.of_prediction(DEV, "pred_9") is None


def test_a_conversation_is_of_its_scope(database: Database) -> None:
    conversations = Conversations(database)
    conversations.append(record(), [turn(1)])
    with pytest.raises(NotFoundError, match="no conversation 'conv_1'"):
        conversations.get(OTHER, "conv_1")
    assert conversations.turns(OTHER, "conv_1") == []
    assert conversations.of_transcripts(OTHER, ["t1"]) is None
    assert conversations.list(OTHER) == []
    with pytest.raises(NotFoundError):
        conversations.delete(OTHER, "conv_1")


def test_of_two_that_go_on_from_one_turn_one_is_refused(database: Database) -> None:
    conversations = Conversations(database)
    conversations.append(record(), [turn(1)])
    conversations.append(record(turns=2), [turn(2)])
    with pytest.raises(WriteConflictError, match="meanwhile"):
        conversations.append(record(turns=2), [turn(2, answer="another")])
    assert conversations.turns(DEV, "conv_1")[1].answer == "because"
    conversations.delete(DEV, "conv_1")
    with pytest.raises(ConflictError, match="was deleted"):
        conversations.append(record(turns=3), [turn(3)])
    assert conversations.turns(DEV, "conv_1") == []


def test_a_transcript_finds_the_longest_and_what_nothing_follows(database: Database) -> None:
    conversations = Conversations(database)
    conversations.append(record(), [turn(1, "a")])
    conversations.append(record(turns=2), [turn(2, "b")])
    conversations.append(record("conv_2"), [turn(1, "a")])
    assert conversations.of_transcripts(DEV, ["a", "b", "c"]) == TurnPlace("conv_1", 2)
    assert conversations.of_transcripts(DEV, ["a"]) == TurnPlace("conv_2", 1)
    assert conversations.of_transcripts(DEV, ["c"]) is None
    assert conversations.of_transcripts(DEV, []) is None


def test_conversations_are_listed_latest_first_and_forgotten_by_subject(database: Database) -> None:
    conversations = Conversations(database)
    for number in range(4):
        at = NOON + timedelta(minutes=number)
        own = record(f"conv_{number}", subject=f"s{number % 2}", speaker=f"u{number}", updated_at=at)
        conversations.append(own, [turn(1)])
    assert [one.id for one in conversations.list(DEV)] == ["conv_3", "conv_2", "conv_1", "conv_0"]
    assert [one.id for one in conversations.list(DEV, subject="s1", limit=1)] == ["conv_3"]
    assert [one.id for one in conversations.list(DEV, before=NOON + timedelta(minutes=2))] == ["conv_1", "conv_0"]
    assert [one.id for one in conversations.list(DEV, speaker="u2")] == ["conv_2"]
    assert conversations.list(DEV, "other") == []
    assert conversations.forget(DEV, "s1") == {"conversations": 2, "turns": 2}
    assert [one.id for one in conversations.list(DEV)] == ["conv_2", "conv_0"]
    assert conversations.delete(DEV, "conv_2") == 1
    assert [one.id for one in conversations.list(DEV)] == ["conv_0"]
