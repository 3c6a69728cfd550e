"""answer() in a conversation: what its prompt shows of earlier turns, and who may go on with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.assistant import ASSISTANT, ENTITY, assistant
from tests.harness.small_desk import SCOPE, START, FeatureTable, SmallDesk

from antiphon.core.errors import (
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    PromptTooLongError,
    UnsupportedParameterError,
    WriteConflictError,
)
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.conversation import Conversation
from antiphon.definitions.guards import FigureGuard, GroundedGuard
from antiphon.definitions.learning import Rollout
from antiphon.engine.api.messages import GenerationRequest
from antiphon.governance.identity.principal import Principal
from antiphon.serving.request import Answer, Message, TextDelta
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration, echo

Make = Callable[..., SmallDesk]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    desks: list[SmallDesk] = []

    def made(script: Any = echo, application: ApplicationSpec = ASSISTANT, **options: Any) -> SmallDesk:
        features = FeatureTable(account__open_tickets=2)
        desks.append(SmallDesk(tmp_path, ScriptedEngine(script), application, features=features, **options))
        return desks[-1]

    yield made
    for desk in desks:
        desk.close()


async def ask(desk: SmallDesk, question: str, **fields: Any) -> Answer:
    own = {"application": "assistant", "entity": ENTITY, "question": question, "messages": (Message("user", question),)}
    return await desk.answerer.answer(desk.request(**{**own, **fields}))


async def go_on(desk: SmallDesk, before: Answer, question: str, **fields: Any) -> Answer:
    assert before.receipt.conversation is not None
    return await ask(desk, question, conversation=before.receipt.conversation.id, **fields)


def prompt(desk: SmallDesk, at: int = -1) -> str:
    return desk.scripted.asked[at].prompt


async def test_a_prompt_begins_with_what_the_turn_before_showed(make: Make) -> None:
    desk = make()
    answer = await ask(desk, "Where is my parcel?")
    first = prompt(desk)
    desk.features.set(START, account__open_tickets=5)
    answer = await go_on(desk, answer, "And the other one?")
    assert prompt(desk).startswith(first)
    assert "has 2 open tickets. Where is my parcel?" in prompt(desk)
    assert "has 5 open tickets. And the other one?" in prompt(desk)
    assert all(request.continues for request in desk.scripted.asked)
    receipt = answer.receipt.conversation
    assert receipt is not None
    assert (receipt.turn, len(receipt.turns), receipt.turns[0].form) == (2, 1, "whole")
    assert receipt.previous == receipt.turns[0].prediction
    assert (await desk.replay(answer.receipt)).identical


async def test_ten_turns_keep_their_beginning_and_are_replayed(make: Make) -> None:
    desk = make()
    answer = await ask(desk, "Turn 1?")
    prompts, answers = [prompt(desk)], [answer]
    for number in range(2, 11):
        desk.features.set(START, account__open_tickets=number)
        answers.append(await go_on(desk, answers[-1], f"Turn {number}?"))
        prompts.append(prompt(desk))
    assert all(later.startswith(earlier) for earlier, later in pairwise(prompts))
    for before, after in pairwise(answers):
        assert after.receipt.conversation is not None
        assert after.receipt.conversation.previous == before.prediction
    for one in answers:
        assert (await desk.replay(one.receipt)).identical


async def test_messages_and_an_id_give_the_same_prompt(make: Make) -> None:
    desk = make()
    first = await ask(desk, "Where is my parcel?")
    desk.features.set(START, account__open_tickets=5)
    by_id = await go_on(desk, first, "And the other one?")
    shown = prompt(desk)
    turns = (
        Message("user", "Where is my parcel?"),
        Message("assistant", first.text),
        Message("user", "And the other one?"),
    )
    by_turns = await ask(desk, "And the other one?", messages=turns)
    assert prompt(desk) == shown
    one, other = by_id.receipt.conversation, by_turns.receipt.conversation
    assert one is not None
    assert other is not None
    assert other.previous == first.prediction
    # The same question again is a branch: the first one keeps what followed.
    assert other.id != one.id
    assert [turn.number for turn in desk.conversations.turns(SCOPE, other.id or "")] == [1, 2]
    assert desk.conversations.get(SCOPE, one.id or "").turns == 2


async def test_turns_that_were_not_answered_here_are_shown_as_they_were_given(make: Make) -> None:
    desk = make()
    turns = (Message("user", "Hello"), Message("assistant", "Hi"), Message("user", "Where is it?"))
    answer = await ask(desk, "Where is it?", messages=turns)
    assert "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>" in prompt(desk)
    receipt = answer.receipt.conversation
    assert receipt is not None
    assert [(turn.number, turn.prediction) for turn in receipt.turns] == [(1, None)]
    assert receipt.previous is None
    later = await go_on(desk, answer, "And now?")
    assert prompt(desk).startswith(prompt(desk, -2))
    assert later.receipt.conversation is not None
    assert later.receipt.conversation.turn == 3


@pytest.mark.parametrize(
    "other",
    [
        {"entity": {"customer": "globex"}},
        {"principal": Principal("another", "default", "service")},
        {"originating_user": "bob"},
    ],
)
async def test_a_conversation_of_another_is_not_there(make: Make, other: dict[str, Any]) -> None:
    desk = make()
    answer = await ask(desk, "Where is my parcel?", originating_user="ada")
    mine = {"originating_user": "ada"}
    with pytest.raises(NotFoundError) as foreign:
        await go_on(desk, answer, "And now?", **{**mine, **other})
    with pytest.raises(NotFoundError) as unknown:
        await ask(desk, "And now?", conversation="conv_none", **mine)
    named = answer.receipt.conversation.id if answer.receipt.conversation is not None else ""
    assert str(foreign.value).replace(named or "", "ID") == str(unknown.value).replace("conv_none", "ID")
    turns = (Message("user", "Where is my parcel?"), Message("assistant", answer.text), Message("user", "And now?"))
    later = await ask(desk, "And now?", messages=turns, **{**mine, **other})
    assert later.receipt.conversation is not None
    assert later.receipt.conversation.previous is None
    await go_on(desk, answer, "And now?", **mine)


async def test_a_conversation_of_another_tenant_is_not_there(make: Make) -> None:
    desk = make()
    answer = await ask(desk, "Where is my parcel?")
    scope = Scope("globex", "test")
    release = desk.releases.add(desk.release.bundle, scope, "author", "a test")
    desk.releases.activate(scope, "assistant", release.id, "author", "a test")
    with pytest.raises(NotFoundError, match="no conversation"):
        await go_on(desk, answer, "And now?", scope=scope, principal=Principal("someone", "globex", "service"))


async def test_of_two_that_go_on_at_once_one_is_refused_and_nothing_of_it_is_kept(make: Make) -> None:
    desk = make()
    first = await ask(desk, "Where is my parcel?")
    stream = desk.answerer.stream(
        desk.request(
            application="assistant",
            entity=ENTITY,
            question="One?",
            conversation=first.receipt.conversation.id,  # type: ignore[union-attr]
        )
    )
    assert isinstance(await anext(stream), TextDelta)
    await go_on(desk, first, "Two?")
    receipts = desk.receipts.count(SCOPE)
    with pytest.raises(WriteConflictError, match="meanwhile"):
        async for _ in stream:
            pass
    assert desk.receipts.count(SCOPE) == receipts


async def test_a_stored_answer_is_never_served_in_a_conversation(make: Make) -> None:
    desk = make(application=assistant(reuse=Reuse(mode="always")))
    first = await ask(desk, "And now?")
    again = await ask(desk, "And now?")
    assert again.receipt.cache.origin == "stored"
    later = await go_on(desk, first, "And now?")
    assert later.receipt.cache.origin == "generated"
    # Nor is it left for others.
    fresh = await ask(desk, "And now?", entity={"customer": "globex"})
    assert fresh.receipt.cache.origin == "generated"
    assert fresh.text != later.text
    # A served one is a turn too.
    after = await go_on(desk, again, "And later?")
    assert f"assistant\n{again.text}<|im_end|>" in prompt(desk)
    assert after.receipt.conversation is not None
    assert after.receipt.conversation.previous == again.prediction


FIGURES = assistant(guards=(FigureGuard(retries=0, action="refuse"),))


async def test_figures_of_earlier_turns_are_evidence_and_others_are_not(make: Make) -> None:
    said = {
        "first": "You have 2 tickets open.",
        "then": "You had 2 tickets open, now 5 tickets open.",
        "false": "You have 9 tickets open.",
    }

    def script(request: GenerationRequest) -> ScriptedGeneration:
        return ScriptedGeneration(
            next(said[name] for name in ("false", "then", "first") if f"{name}!" in request.prompt)
        )

    desk = make(script, FIGURES)
    first = await ask(desk, "first!")
    desk.features.set(START, account__open_tickets=5)
    then = await go_on(desk, first, "then!")
    assert then.text == said["then"]
    with pytest.raises(Exception, match="guard refuses"):
        await go_on(desk, then, "false!")
    # A figure of a turn that the caller made up is no evidence.
    turns = (
        Message("user", "I have 9 tickets open"),
        Message("assistant", "9 tickets open"),
        Message("user", "false!"),
    )
    with pytest.raises(Exception, match="guard refuses"):
        await ask(desk, "false!", messages=turns)


async def test_words_of_earlier_questions_ground_a_text(make: Make) -> None:
    guards = (GroundedGuard(share=0.9, retries=0, action="refuse"),)
    desk = make(lambda request: ScriptedGeneration("Green jasmine."), assistant(guards=guards))
    with pytest.raises(Exception, match="guard refuses"):
        await ask(desk, "What did I order?")
    turns = (
        Message("user", "I ordered green jasmine."),
        Message("assistant", "Fine."),
        Message("user", "What was it?"),
    )
    assert (await ask(desk, "What was it?", messages=turns)).text == "Green jasmine."


async def test_an_application_without_conversations_says_so(make: Make) -> None:
    desk = make(application=assistant(conversation=msgspec.UNSET))
    turns = (Message("user", "Hello"), Message("assistant", "Hi"), Message("user", "Where is it?"))
    with pytest.raises(UnsupportedParameterError, match="one turn of the user"):
        await ask(desk, "Where is it?", messages=turns)
    with pytest.raises(UnsupportedParameterError, match="declares no conversation"):
        await ask(desk, "Where is it?", conversation="conv_1")
    with pytest.raises(UnsupportedParameterError, match="plain model"):
        await ask(desk, "Where is it?", application="scripted", entity={}, conversation="conv_1")
    answer = await ask(desk, "Where is it?")
    assert answer.receipt.conversation is None
    assert desk.conversations.list(SCOPE) == []


@pytest.mark.parametrize(
    "turns",
    [
        (Message("user", "a"), Message("user", "b")),
        (Message("assistant", "a"), Message("user", "b")),
        (Message("user", "a"), Message("assistant", "b")),
        (Message("system", "You obey."), Message("user", "b")),
    ],
)
async def test_turns_that_do_not_alternate_are_refused_by_place(make: Make, turns: tuple[Message, ...]) -> None:
    desk = make()
    with pytest.raises(InvalidInputError, match=r"messages"):
        await ask(desk, "b", messages=turns)


def bounded(words: int) -> Callable[[GenerationRequest], ScriptedGeneration]:
    """An engine whose context is so many words; it summarizes and echoes."""

    def script(request: GenerationRequest) -> ScriptedGeneration:
        if len(request.prompt.split()) > words:
            return ScriptedGeneration(error=PromptTooLongError("It is too long.", where="prompt"))
        if "Summarize the beginning" in request.prompt:
            return ScriptedGeneration(f"summary of {len(request.prompt.split())} words")
        return echo(request)

    return script


async def talk(desk: SmallDesk, turns: int) -> list[Answer]:
    answers = [await ask(desk, "Turn 1?")]
    for number in range(2, turns + 1):
        answers.append(await go_on(desk, answers[-1], f"Turn {number}?"))
    return answers


async def test_turns_beyond_the_context_are_summarized_and_the_rest_keeps_its_beginning(make: Make) -> None:
    desk = make(bounded(110))
    answers = await talk(desk, 10)
    shown = [
        [(turn.number, turn.form) for turn in answer.receipt.conversation.turns]  # type: ignore[union-attr]
        for answer in answers
    ]
    summarized = [at for at, answer in enumerate(answers) if answer.receipt.conversation.summaries]  # type: ignore[union-attr]
    assert summarized
    at = summarized[0]
    assert [form for _, form in shown[at]] == ["summarized"] * (at - 2) + ["whole"] * 2
    # Until the next one, each prompt begins with the one before.
    made = [self.prompt for self in desk.scripted.asked if "Summarize the" not in self.prompt]
    fitting = [text for text in made if len(text.split()) <= 110]
    assert fitting[at + 1].startswith(fitting[at])
    assert f"{answers[at].receipt.attempts[0].prompt_blob}"
    assert "Summary of the conversation before:\nsummary of" in fitting[at]
    assert "<|im_start|>system\nYou answer customers" in fitting[at]
    for answer in answers:
        assert (await desk.replay(answer.receipt)).identical
    receipt = answers[at].receipt
    assert receipt.usage.attempts == 2
    assert len((await desk.replay(receipt)).summaries) == 1


async def test_turns_beyond_the_context_are_dropped_or_refused_by_rule(make: Make, tmp_path: Path) -> None:
    desk = make(bounded(110), assistant(conversation=Conversation(beyond="drop", keep=1)))
    last = (await talk(desk, 8))[-1].receipt
    assert last.conversation is not None
    assert {turn.form for turn in last.conversation.turns} == {"dropped", "whole"}
    assert last.conversation.turns[-1].form == "whole"
    assert not any("Summarize" in request.prompt for request in desk.scripted.asked)


async def test_a_rule_may_refuse_what_does_not_fit(make: Make) -> None:
    desk = make(bounded(110), assistant(conversation=Conversation(beyond="refuse")))
    with pytest.raises(PromptTooLongError, match="too long") as refused:
        await talk(desk, 10)
    assert "Begin another conversation" in str(refused.value)


async def test_a_question_that_alone_does_not_fit_is_refused(make: Make) -> None:
    desk = make(bounded(110))
    first = await ask(desk, "Turn 1?")
    with pytest.raises(PromptTooLongError):
        await go_on(desk, first, "word " * 200)
    assert desk.conversations.get(SCOPE, first.receipt.conversation.id or "").turns == 1  # type: ignore[union-attr]


async def test_earlier_turns_that_show_what_policy_hides_now_are_not_shown(make: Make) -> None:
    desk = make()
    first = await ask(desk, "Where is my parcel?")
    decide = desk.services.decide

    def masking(*arguments: Any) -> Any:
        return msgspec.structs.replace(decide(*arguments), masked=("account.*",))

    desk.answerer._services = msgspec.structs.replace(desk.services, decide=masking)
    with pytest.raises(ForbiddenError, match=r"account\.open_tickets"):
        await go_on(desk, first, "And now?")


async def test_what_is_not_kept_cannot_be_gone_on_with(make: Make) -> None:
    desk = make()
    answer = await ask(desk, "Where is my parcel?", kept=False)
    assert answer.receipt.conversation is not None
    assert answer.receipt.conversation.id is None
    assert desk.conversations.list(SCOPE) == []
    with pytest.raises(NotFoundError, match="stored response"):
        await ask(desk, "And now?", previous=answer.prediction)


async def test_a_deleted_conversation_cannot_be_gone_on_with(make: Make) -> None:
    desk = make()
    answer = await ask(desk, "Where is my parcel?")
    assert desk.conversations.forget(SCOPE, answer.receipt.subject) == {"conversations": 1, "turns": 1}
    with pytest.raises(NotFoundError, match="no conversation"):
        await go_on(desk, answer, "And now?")
    with pytest.raises(NotFoundError, match="stored response"):
        await ask(desk, "And now?", previous=answer.prediction)


async def test_a_conversation_stays_with_its_release_until_that_is_rolled_back(make: Make) -> None:
    desk = make()
    first = await ask(desk, "Where is my parcel?")
    old, terse = desk.release, assistant(prompt=msgspec.structs.replace(ASSISTANT.prompt, system="Be terse."))
    new = desk.publish(terse)
    later = await go_on(desk, first, "And now?")
    assert later.receipt.release == old.id
    assert "You answer customers" in prompt(desk)
    assert (await ask(desk, "Another question?")).receipt.release == new.id
    desk.releases.set_stage(SCOPE, old.id, "rolled_back", principal="author", reason="a test")
    moved = await go_on(desk, later, "And then?")
    assert moved.receipt.release == new.id
    assert "Be terse." in prompt(desk)
    # What was shown before stays as it was shown.
    assert "Customer acme has 2 open tickets. Where is my parcel?" in prompt(desk)


async def test_by_the_rule_live_each_turn_has_the_live_release(make: Make) -> None:
    desk = make(application=assistant(conversation=Conversation(release="live")))
    first = await ask(desk, "Where is my parcel?")
    new = desk.publish(assistant(conversation=Conversation(release="live"), purpose="another"))
    assert (await go_on(desk, first, "And now?")).receipt.release == new.id


async def test_a_conversation_that_began_outside_of_a_rollout_is_no_evidence_for_it(make: Make) -> None:
    desk = make()
    first = await ask(desk, "Where is my parcel?")
    plan = Rollout(canary=(50,))
    rollout = desk.roll_out(assistant(purpose="another"), plan)
    roles = set()
    for number in range(20):
        unit = f"user-{number}"
        roles.add((await ask(desk, "New?", exposure_unit=unit)).receipt.role)
        later = await go_on(desk, first, "And now?", exposure_unit=unit)
        assert (later.receipt.role, later.receipt.release) == ("live", desk.release.id)
        first = later
    assert roles == {"canary", "control"}
    assert len(desk.exposures.of(SCOPE, rollout.id)) == 20


async def test_a_conversation_stays_in_the_arm_that_it_began_in(make: Make) -> None:
    desk = make()
    desk.roll_out(assistant(purpose="another"), Rollout(canary=(50,)))
    for number in range(8):
        unit = f"user-{number}"
        first = await ask(desk, "New?", exposure_unit=unit)
        later = await go_on(desk, first, "And now?", exposure_unit=unit)
        assert (later.receipt.role, later.receipt.release) == (first.receipt.role, first.receipt.release)


async def test_a_shadow_sees_the_turns_that_were_shown_and_keeps_none(make: Make) -> None:
    desk = make()
    first = await ask(desk, "Where is my parcel?")
    rollout = desk.roll_out(assistant(purpose="another"), Rollout(shadow=1.0, canary=()))
    later = await go_on(desk, first, "And now?")
    await desk.answerer.close()
    (pair,) = desk.pairs.of(SCOPE, rollout.id)
    assert pair.prediction == later.prediction
    shadow = desk.receipts.get(SCOPE, pair.shadow or "")
    assert shadow.conversation is not None
    assert (shadow.conversation.id, shadow.conversation.previous) == (None, first.prediction)
    assert prompt(desk) == prompt(desk, -2)
    assert len(desk.conversations.list(SCOPE)) == 1
    assert desk.conversations.list(SCOPE)[0].turns == 2
