"""The earlier turns of a request's conversation, and how much of them its prompt shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from antiphon.catalog.serving.conversations import ConversationRecord, ConversationTurn
from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import canonical, keyed_hash
from antiphon.engine.api.messages import ChatTurn


class History(msgspec.Struct, frozen=True):
    """The earlier turns of a conversation as a request finds them.

    Attributes:
        conversation: its id; empty where this request's turn is not kept.
        record: the conversation as far as it is kept under this id; ``None``: the request begins it.
        turns: all earlier turns; those beyond the record's are kept with this request's.
        first: number of the first turn that the prompt shows whole.
        summary: of the turns before that one, as the prompt shows it.
    """

    conversation: str = ""
    record: ConversationRecord | None = None
    turns: tuple[ConversationTurn, ...] = ()
    first: int = 1
    summary: str = ""

    @property
    def number(self) -> int:
        """The number of the request's own turn."""
        return len(self.turns) + 1

    @property
    def whole(self) -> tuple[ConversationTurn, ...]:
        """The turns that the prompt shows whole."""
        return self.turns[self.first - 1 :]

    def shortened(self, keep: int) -> History | None:
        """The history with fewer whole turns: the latest ``keep``, or half of them where there are no more than that.
        Without any left, the summary goes as well. ``None``: nothing is left to leave out."""
        count = len(self.whole)
        if not count:
            return msgspec.structs.replace(self, summary="") if self.summary else None
        left = keep if count > keep else count // 2
        return msgspec.structs.replace(self, first=self.number - left)

    def turns_between(self, longer: History) -> tuple[ConversationTurn, ...]:
        """The turns that a longer form of it shows whole, and this one does not."""
        return self.turns[longer.first - 1 : self.first - 1]


NO_HISTORY = History()
"""The history of a request that begins a conversation, or is of none."""


def continuing(turns: Sequence[ConversationTurn], record: ConversationRecord | None = None) -> History:
    """The history of these turns, of which a record keeps some, shown as the last of them was."""
    if not turns:
        return History(record=record)
    return History(record=record, turns=tuple(turns), first=turns[-1].first, summary=turns[-1].summary)


def given_pairs(messages: Sequence[ChatTurn], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Questions with their answers before the last message, of an application's request; ``names`` are its API's.

    Raises:
        InvalidInputError: the turns do not alternate between ``user`` and ``assistant``, or the user's is not the last.
    """
    where = ""
    for number, turn in enumerate(messages):
        expected = "assistant" if number % 2 else "user"
        where = names.get(f"messages[{number}]", f"messages[{number}]")
        if turn.role != expected:
            raise InvalidInputError(
                f"`{where}` is a turn of the role `{turn.role}`, not `{expected}`.",
                where=where,
                next_step="Send the user's and the assistant's turns by turns, beginning and ending with the user's.",
            )
    if messages and len(messages) % 2 == 0:
        raise InvalidInputError(
            f"`{where}` is the assistant's turn, and nothing is asked after it.",
            where=where,
            next_step="End with the user's turn, which is the question.",
        )
    texts = [turn.content for turn in messages[:-1]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def transcript(key: bytes, before: str, question: str, answer: str) -> str:
    """Keyed hash of all that was said up to an answer, from the one before it."""
    return keyed_hash(key, canonical([before, question, answer]).decode()).hex()[:32]
