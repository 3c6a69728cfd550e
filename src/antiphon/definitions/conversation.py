"""Conversations: the rule by which an application sees earlier turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

MOST_KEPT = 200
"""Turns that a rule may keep whole."""


class Conversation(msgspec.Struct, frozen=True):
    """Rule by which an application sees the earlier turns of a conversation.

    A turn is a question with its answer. Earlier turns stand in the prompt as they were shown, with the features of
    their own moment, so that the beginning of a prompt stays the same from turn to turn.

    Attributes:
        beyond: what happens to the oldest turns where a prompt exceeds the model's context. ``summarize`` has the model
            write a summary of them, ``drop`` leaves them out, ``refuse`` ends the request.
        keep: number of the latest turns that stay whole when older ones are summarized or dropped; fewer where these do
            not fit either.
        summary_tokens: most tokens of a summary.
        release: ``same``: a conversation goes on with the release that it began with, until that one is rolled back or
            its model is not served any more. ``live``: each turn is assigned a release like any request.
    """

    beyond: Literal["summarize", "drop", "refuse"] = "summarize"
    keep: int = 2
    summary_tokens: int = 160
    release: Literal["same", "live"] = "same"


def conversation_mistakes(rule: Conversation, template_reads_question: bool) -> Iterator[str]:
    """Yields the mistakes of a rule whose fields have their types, a sentence each."""
    if not 0 <= rule.keep <= MOST_KEPT:
        yield f"conversation.keep is a number of turns from 0 to {MOST_KEPT}, not {rule.keep}."
    if not 16 <= rule.summary_tokens <= 4_096:
        yield f"conversation.summary_tokens is a number from 16 to 4096, not {rule.summary_tokens}."
    if not template_reads_question:
        yield "conversation: prompt.template does not read `question`, so that a turn would say nothing."
