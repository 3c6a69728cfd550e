"""Conversations with an assistant, turn by turn, and what of their earlier tokens the engine did not compute again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
from tests.harness.assistant import ENTITY, assistant
from tests.harness.small_desk import SCOPE, START, FeatureTable, SmallDesk

from antiphon.catalog.serving.receipt import Receipt
from antiphon.definitions.application import ApplicationSpec, Decoding, Reuse
from antiphon.definitions.prompt import Prompt
from antiphon.engine.api.port import GenerationEngine
from antiphon.serving.request import Message

QUESTIONS = (
    "My parcel with the order of green tea has not arrived yet, and the page says that it was sent on Monday morning.",
    "I live in a small town in the north of the country. Does a parcel usually take longer to come out here than that?",
    "The box arrived today, but one of the two tins of jasmine tea was open and half of the leaves were in the box.",
    "Could you send me another tin of it, or shall I rather send the whole order back to you and have my money again?",
    "I have found the papers in the box. Which of the two addresses on them is the one that I have to send it back to?",
    "My neighbor would like to order the same black tea as I did. Is it still there, and does she pay for the parcel?",
    "I thought about it once more and would rather keep the open tin. Would you take something off its price then?",
    "Which of your teas would you drink in the evening, when one would like to sleep well after it and not lie awake?",
    "Please put two tins of that one into my next order, and send it together with the tin that you owe me by then.",
    "Thank you. Please tell me at last what we have agreed on today, so that I can write it down and do not forget it.",
)
SYSTEM = (
    "You answer customers of a small shop for tea, which sells green, black, white and herbal teas in tins of a 100 "
    "grams. Parcels are sent every morning but on Sundays, and take three to five days. A parcel costs four euros, and "
    "nothing from an order of fifty euros on. Unopened tins are taken back within thirty days of the day on which they "
    "arrived; the customer pays the way back. Damaged tins are replaced, or their price paid back, as the customer "
    "likes better. Gifts are wrapped for two euros. You are friendly and brief, promise no more than is written here, "
    "never ask for the number of a card, and hand over to a colleague when a customer asks for one. You write in the "
    "customer's language and begin with the answer."
)
TURNS = len(QUESTIONS)


class TurnFigures(msgspec.Struct, frozen=True):
    """Tokens of a turn.

    Attributes:
        before: tokens of the prompt before; ``answered``: those of the answer to it.
        cached: tokens of its prompt that were not computed.
    """

    before: int
    answered: int
    prompt: int
    cached: int


class ConversationFigures(msgspec.Struct, frozen=True):
    """Figures of conversations.

    Attributes:
        of_prompts: share of the tokens of the prompts before that were not computed again.
        of_all: the same of all earlier tokens, with those of the last answer, which were in no prompt yet.
        identical: answers whose replay gave the same bytes, of ``answers``.
        kept: turns whose prompt began, byte for byte, with the prompt before.
    """

    of_prompts: float
    of_all: float
    turns: int
    kept: int
    answers: int
    identical: int
    summaries: int
    first_bytes: tuple[float, ...]


def application(model: str, **changes: object) -> ApplicationSpec:
    """The assistant with instructions as long as such have."""
    template = "The customer {{ entity.customer }} has {{ features.account.open_tickets }} open tickets. {{ question }}"
    # The first turns of two conversations are one prompt: each is generated, so that its tokens are measured.
    never = Reuse(mode="never", identical_prompts=False)
    own = {"prompt": Prompt(template, SYSTEM), "decoding": Decoding(max_tokens=24), "model": model, "reuse": never}
    return assistant(**{**own, **changes})


async def converse(
    folder: Path,
    engine: GenerationEngine,
    spec: ApplicationSpec,
    conversations: int,
    turns: int = TURNS,
    *,
    by_messages: bool = False,
) -> ConversationFigures:
    """Lead so many conversations in turns of one each, the customer's tickets changing from turn to turn."""
    features = FeatureTable(account__open_tickets=0)
    desk = SmallDesk(folder, engine, spec, features=features)
    try:
        talks: list[list[Receipt]] = [[] for _ in range(conversations)]
        said: list[list[Message]] = [[] for _ in range(conversations)]
        for turn in range(turns):
            features.set(START, account__open_tickets=turn)
            for number, receipts in enumerate(talks):
                question = QUESTIONS[(turn + number) % TURNS]  # Or one would find what another one left.
                own = receipts[-1].conversation if receipts and not by_messages else None
                said[number].append(Message("user", question))
                answer = await desk.answerer.answer(
                    desk.request(
                        application="assistant",
                        entity=ENTITY,
                        originating_user=f"user-{number}",
                        question=question,
                        messages=tuple(said[number] if by_messages else said[number][-1:]),
                        conversation=own.id if own is not None else None,
                    )
                )
                said[number].append(Message("assistant", answer.text))
                receipts.append(answer.receipt)
        return await _figures(desk, talks)
    finally:
        await asyncio.to_thread(desk.close)


async def _figures(desk: SmallDesk, talks: list[list[Receipt]]) -> ConversationFigures:
    def prompt(receipt: Receipt) -> bytes:
        return desk.blobs.get(SCOPE, receipt.attempts[-1].prompt_blob)

    measured, kept = [], 0
    for receipts in talks:
        for before, after in pairwise(receipts):
            kept += prompt(after).startswith(prompt(before))
            used, then = after.usage, before.usage
            measured.append(
                TurnFigures(then.prompt_tokens, then.completion_tokens, used.prompt_tokens, used.cached_prompt_tokens)
            )
    every = [receipt for receipts in talks for receipt in receipts]
    replays = [await desk.replay(receipt) for receipt in every]
    return ConversationFigures(
        of_prompts=_share(measured, [one.before for one in measured]),
        of_all=_share(measured, [one.before + one.answered for one in measured]),
        turns=len(measured),
        kept=kept,
        answers=len(every),
        identical=sum(replay.identical for replay in replays),
        summaries=sum(len(one.conversation.summaries) for one in every if one.conversation is not None),
        first_bytes=tuple(receipt.timing.first_byte for receipts in talks for receipt in receipts[1:]),
    )


def _share(turns: Sequence[TurnFigures], earlier: Sequence[int]) -> float:
    """Share of each turn's earlier tokens that was not computed; more of its prompt may have been known."""
    return sum(min(one.cached, known) for one, known in zip(turns, earlier, strict=True)) / sum(earlier)
