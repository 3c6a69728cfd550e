"""An application with conversations learns from outcomes of its predictions, with the prompts that were served."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness import fakes
from tests.harness.small_desk import BARE, SCOPE, START
from tests.integration.learning.learning_desk import ORDER, TRAINS, LearningDesk

from antiphon.catalog.features.definitions import DefinitionVersions
from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import ConflictError, InvalidInputError
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.conversation import Conversation
from antiphon.definitions.learning import FineTune, Outcome, TrainingWindow
from antiphon.definitions.prompt import Prompt
from antiphon.definitions.source import SourceSpec
from antiphon.learning.datasets.builder import DatasetBuilder
from antiphon.learning.datasets.rows import DatasetRowBuilder
from antiphon.learning.outcomes.intake import OutcomeJoiner
from antiphon.learning.outcomes.matching import OutcomeMatcher
from antiphon.learning.outcomes.submission import OutcomeSubmission
from antiphon.learning.retraining.orders import TrainingOrders
from antiphon.services.conversations import ProjectConversations
from antiphon.serving.request import Answer
from antiphon.training.examples import Example, read

SCHEMA = {
    "type": "object",
    "properties": {"outlook": {"enum": ["on_time", "delayed"]}},
    "required": ["outlook"],
    "additionalProperties": False,
}
TALKS: ApplicationSpec = msgspec.structs.replace(
    TRAINS,
    **BARE
    | {
        "entity_keys": ("flight",),
        "prompt": Prompt("Flight {{ entity.flight }}: {{ question }}", system="You forecast."),
        "output_schema": json.dumps(SCHEMA),
        "classes": ("outlook",),
        "conversation": Conversation(),
        "reuse": Reuse("never"),
        "fine_tune": FineTune(
            "scripted", window=TrainingWindow(history="60h", maturity="1s", embargo="30h"), batch=2, replay=0.5
        ),
    },
)


class TalkingDesk(LearningDesk):
    """The desk that trains, with the product's own datasets of what was asked and told."""

    def __init__(self, directory: Path) -> None:
        self.told = directory / "told.csv"
        history = SourceSpec("told", "table", "asked", "closed", event_id="number", path=str(self.told))
        super().__init__(
            directory, msgspec.structs.replace(TALKS, outcome=Outcome("outlook", positive="delayed", history=history))
        )
        self.write_history()
        matcher = partial(
            OutcomeMatcher, receipts=self.receipts, texts=self.blobs, applications=self._declared,
            subject_key=b"k" * 32, clock=self.clock,
        )  # fmt: skip
        self.joiner = OutcomeJoiner(self.database, self.outcomes, matcher)
        rows = DatasetRowBuilder(
            SCOPE, outcomes=self.outcomes, receipts=self.receipts, texts=self.blobs, releases=self.releases,
            definitions=DefinitionVersions(self.database), withheld=lambda *asked: self.withheld(*asked),
        )  # fmt: skip
        self.builder = DatasetBuilder(rows, self.datasets, self.lake, self.clock)
        evaluator = replace(self.evaluator, trained_on=self._trained_on)
        self.retraining = replace(self.retraining, builder=self.builder, evaluator=evaluator)
        self.orders = TrainingOrders(self.retraining, self.runs)

    def _trained_on(self, release: Release) -> Sequence[Dataset]:
        version = release.bundle.model.version
        return () if version is None else self.retraining.learned(SCOPE, self.versions.get(SCOPE, version))

    def write_history(self, *moments: datetime) -> None:
        """A table of outcomes from before anything was served."""
        lines = [f"{at},H{at},{moment},{moment},delay 45 minutes,delayed" for at, moment in enumerate(moments)]
        self.told.write_text("\n".join(["number,flight,asked,closed,question,outlook", *lines]) + "\n")

    async def talk(self, flight: str, *delays: int) -> list[Answer]:
        """A conversation about a flight, a turn for each delay, of which what came true is told."""
        answers: list[Answer] = []
        for delay in delays:
            self.clock.advance(timedelta(seconds=30))
            before = answers[-1].receipt.conversation if answers else None
            answers.append(
                await self.answerer.answer(
                    self.request(
                        entity={"flight": flight}, as_of=self.clock.now(), question=f"With delay {delay} minutes?",
                        conversation=None if before is None else before.id,
                    )
                )
            )  # fmt: skip
            late = "delayed" if delay > 25 else "on_time"
            sent = OutcomeSubmission(
                value=late, prediction=answers[-1].prediction, application="desk", available_at=self.clock.now()
            )
            assert self.joiner.take(SCOPE, "agent", sent).status == "joined"
        return answers

    async def talk_of_the_embargo(self) -> None:
        """Conversations that are evaluated on, after those that are learned from."""
        self.clock.advance(timedelta(hours=31))
        for number in range(6):
            await self.talk(f"E{number}", number * 9, 50 - number * 9)
        self.clock.advance(timedelta(minutes=1))

    async def learned(self, **changes: Any) -> tuple[dict[str, Any], dict[str, Example]]:
        """The result of a training, and what it was given."""
        given: list[Example] = []

        def look(step: int) -> None:
            order = self.trainer.orders[-1]
            given[:] = read(Path(order.examples_path), order.examples_sha256, Example)

        self.trainer.before_step = look
        run = await self.train(**changes)
        assert run.status == "succeeded", run.error
        return run.result, {one.prompt: one for one in given}

    def training_set(self) -> Dataset:
        return self.builder.build(self.builder.plan(self.application))

    def prompt(self, answer: Answer) -> str:
        """The prompt that an answer was served with."""
        return self.blobs.get(SCOPE, answer.receipt.attempts[-1].prompt_blob).decode()

    def erase(self, answer: Answer) -> None:
        """Delete the conversation of an answer with the texts of its receipts, as an administrator does."""
        assert answer.receipt.conversation is not None
        store = fakes._store(self.database, fakes.gateway_services(self.database).settings)
        conversations = ProjectConversations(store, fakes.records(store))
        assert conversations.delete(SCOPE, answer.receipt.conversation.id or "", by="boss", texts=True).texts


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[TalkingDesk]:
    desk = TalkingDesk(tmp_path)
    yield desk
    desk.close()


async def test_a_turn_is_learned_with_the_very_prompt_that_was_served(desk: TalkingDesk) -> None:
    desk.write_history(START, START + timedelta(minutes=1))
    answers = [*await desk.talk("B6 1", 5, 45, 10), *await desk.talk("B6 2", 40)]
    withheld = await desk.talk("B6 3", 20)
    desk.withheld = lambda scope, name, keys, rows: (
        "digest", ["no consent" if entity[0] == "B6 3" else None for entity, _ in rows],
    )  # fmt: skip
    await desk.talk_of_the_embargo()
    await desk.talk("B6 2", 40)
    desk.clock.advance(timedelta(minutes=1))
    preview = desk.orders.foresee(SCOPE, "me", ORDER)
    assert (preview.training.rows, preview.problems) == (4, ())
    result, examples = await desk.learned()
    assert result["examples"] == {
        "new": 4, "replayed": 0, "refused": 0, "canaries": 0, "unwritten": 0, "erased": 0,
    }  # fmt: skip
    assert examples.keys() == {desk.prompt(answer) for answer in answers}
    assert desk.prompt(withheld[0]) not in examples
    third = examples[desk.prompt(answers[2])]
    assert [third.prompt.count(f"delay {delay} minutes") for delay in (5, 45, 10)] == [1, 1, 1]
    assert "".join(part.text for part in third.parts) == '{"outlook": "on_time"}'
    dataset = desk.datasets.get(SCOPE, result["training_set"])
    assert dataset.dropped == {"no-served-prompt": 2, "outside-window": 13, "policy: no consent": 1}
    assert desk.builder.rebuild(dataset.id) == dataset
    # What it is evaluated on needs no prompt that was served: later turns are asked with those before, and what was
    # learned is left out.
    evaluation = desk.evaluations.get(SCOPE, result["evaluation"])
    assert (evaluation.rows, evaluation.left_out) == (12, {"in-training": 1})


async def test_a_table_of_outcomes_alone_teaches_nothing_and_it_is_said(desk: TalkingDesk) -> None:
    desk.write_history(*(START + timedelta(seconds=number) for number in range(3)))
    await desk.talk_of_the_embargo()
    preview = desk.orders.foresee(SCOPE, "me", ORDER)
    assert preview.training.dropped == {"no-served-prompt": 3, "outside-window": 12}
    assert preview.problems == ("The training set would have no example: two labels are needed.",)
    with pytest.raises(InvalidInputError, match=r"no example .*\(3 no-served-prompt, 12 outside-window\)") as refused:
        desk.training_set()
    assert "outcomes of predictions alone" in str(refused.value.next_step)
    assert "antiphon train desk --preferences" in str(refused.value.next_step)
    run = await desk.train()
    assert (run.status, "3 no-served-prompt" in str(run.error)) == ("failed", True)


async def test_prompts_of_other_words_or_of_another_model_are_left_out(desk: TalkingDesk) -> None:
    await desk.talk("B6 1", 5, 45)
    desk.publish(msgspec.structs.replace(desk.application, prompt=Prompt("Otherwise: {{ question }}")))
    await desk.talk("B6 2", 30)
    desk.publish(desk.application)
    larger = msgspec.structs.replace(desk.application.fine_tune, base="larger")
    await desk.talk_of_the_embargo()
    spec = desk.builder.plan(desk.application)
    assert desk.builder.survey(spec).dropped == {"other-prompt": 1, "outside-window": 12}
    other = desk.builder.plan(msgspec.structs.replace(desk.application, fine_tune=larger))
    assert desk.builder.survey(other).dropped == {"other-model": 2, "other-prompt": 1, "outside-window": 12}


async def test_an_erased_conversation_is_learned_no_more_and_its_prompts_are_in_no_file(desk: TalkingDesk) -> None:
    kept, secret = await desk.talk("B6 1", 5, 45), await desk.talk("B6 2", 30, 10)
    await desk.talk_of_the_embargo()
    before = desk.training_set()
    secrets = [desk.prompt(answer) for answer in secret]
    for path in desk.lake.files(SCOPE):
        with desk.lake.open(path) as file:
            assert b"You forecast." not in file.read(), "a prompt lies in a dataset's file, where no erasure finds it"
    desk.erase(secret[0])
    after = desk.training_set()
    assert (before.rows, after.rows, after.dropped["text-erased"]) == (4, 2, 2)
    with pytest.raises(ConflictError, match="2 prompts were erased"):
        desk.builder.rebuild(before.id)
    result, examples = await desk.learned()
    assert examples.keys() == {desk.prompt(answer) for answer in kept}
    assert not examples.keys() & {*secrets}
    assert result["training_set"] != before.id


async def test_a_delta_replays_served_prompts_but_for_those_that_were_erased(desk: TalkingDesk) -> None:
    first, second = await desk.talk("B6 1", 5, 45), await desk.talk("B6 2", 30)
    await desk.talk_of_the_embargo()
    result, _ = await desk.learned()
    desk.releases.activate(SCOPE, "desk", result["release"], "me", "it passed")
    await desk.retraining.serve(desk.live())
    tuned = await desk.talk("B6 4", 15, 35)
    desk.erase(second[0])
    await desk.talk_of_the_embargo()
    again, examples = await desk.learned(delta=True)
    assert again["examples"]["erased"] == 1
    assert {prompt for prompt, one in examples.items() if one.old} == {desk.prompt(one) for one in first}
    assert {desk.prompt(one) for one in tuned} <= {prompt for prompt, one in examples.items() if not one.old}
    reworded = msgspec.structs.replace(desk.application, prompt=Prompt("Otherwise: {{ question }}"))
    desk.application = reworded
    with pytest.raises(InvalidInputError, match="the prompt that is learned as it was served changed"):
        desk.orders.place(SCOPE, "me", msgspec.structs.replace(ORDER, delta=True))
