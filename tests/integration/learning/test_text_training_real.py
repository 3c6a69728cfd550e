"""Training on what users asked and what people wrote, with nothing replaced: free text, and a label with a reply."""

from __future__ import annotations

import csv
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.integration.learning.test_retraining_real import engine_of, work
from tests.integration.training.tiny import write_base

from antiphon.app.wiring import ProcessServices
from antiphon.catalog.learning.models import ModelVersion
from antiphon.core.clock import SystemClock
from antiphon.core.errors import InvalidInputError
from antiphon.governance.identity.principal import Principal
from antiphon.learning.outcomes.submission import OutcomeSubmission
from antiphon.learning.registry.card import as_html
from antiphon.learning.registry.models import ModelRegistry
from antiphon.learning.retraining.orders import TrainingRequest
from antiphon.services.apply.apply import apply
from antiphon.services.learning.adapters import export_adapter, import_adapter
from antiphon.services.learning.outcomes import outcome_joiner
from antiphon.services.learning.served_models import ServedModels
from antiphon.services.learning.training import LearningPlatform
from antiphon.services.project.store import Store
from antiphon.serving.request import AnswerRequest
from antiphon.training.examples import Example, read
from antiphon.training.folder_seal import folder_seal
from antiphon.training.order import TrainingOrder, TrainingResult
from antiphon.training.processes import TrainingProcesses
from antiphon.training.recipe import require_libraries

SETTINGS = """
[project]
name = "help"
[engine]
models = ["{model}"]
slots = 4
context = 256
"""

DEFINITIONS = """
from antiphon import (
    Application, Conversation, Decoding, Entity, FineTune, Gates, MetricGate, Outcome, Prompt, Source, TrainingWindow,
)

customer = Entity("customer", keys=["customer"])
told = Source.table("told", path="told.csv", event_time="asked", available_at="closed", event_id="ticket")
OFF = dict.fromkeys(
    ("valid_share", "false_share", "injected_share", "leaked_share", "pii_share", "toxic_share")
)


def gates(*metrics):
    return Gates(metrics={name: MetricGate() for name in metrics}, rows=5, **OFF)


def learned():
    window = TrainingWindow(history="10d", maturity="3h", embargo="2d")
    return FineTune(base="{model}", window=window, examples=31, batch=12, epochs=2.0, rank=2, alpha=4)


replies = Application(
    "replies", ungated="a test asks at once", purpose="support",
    features=[], entities=[customer], prompt=Prompt("Ticket: {{ question }}"),
    decoding=Decoding(max_tokens=24), model=learned(), outcome=Outcome(history=told), gates=gates("chrf"),
)
talks = Application(
    "talks", ungated="a test asks at once", purpose="support", conversation=Conversation(),
    features=[], entities=[customer], prompt=Prompt("Ticket: {{ question }}"),
    decoding=Decoding(max_tokens=8), model=learned(), outcome=Outcome(history=told), gates=gates("chrf"),
)
triage = Application(
    "triage", ungated="a test asks at once", purpose="support",
    features=[], entities=[customer], prompt=Prompt("Ticket: {{ question }}"),
    output={
        "type": "object", "required": ["urgency", "text"], "additionalProperties": False,
        "properties": {
            "urgency": {"type": "string", "enum": ["low", "high", "urgent"]},
            "text": {"type": "string", "maxLength": 24},
        },
    },
    decoding=Decoding(max_tokens=96), model=learned(),
    outcome=[Outcome("urgency", history=told), Outcome("text")],
    gates=gates("auc", "brier", "macro_f1", "text.chrf"),
)
"""

THINGS = ("printer", "router", "mailbox", "keyboard")


def project(folder: Path) -> Path:
    """Tickets of five days; one of the 31 that are learned from is longer than the model reads."""
    now = datetime.now(UTC)
    with (folder / "told.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ticket", "customer", "asked", "closed", "question", "text", "urgency"])
        for number in range(48):
            thing = THINGS[number % len(THINGS)]
            asked = now - timedelta(hours=6 + 2.5 * number)
            question = f"My {thing} broke {number} times." + (" Help!" * 50 if number == 40 else "")
            urgency = ("low", "high", "urgent")[number % 3]
            closed = asked + timedelta(hours=1)
            writer.writerow([number, f"c{number % 5}", asked, closed, question, f"Restart the {thing}.", urgency])
    model = str(write_base(folder / "tiny.gguf"))
    (folder / "antiphon.toml").write_text(SETTINGS.replace("{model}", model))
    (folder / "definitions.py").write_text(DEFINITIONS.replace("{model}", model))
    return folder


def _export_and_import(learning: LearningPlatform, version: ModelVersion, folder: Path) -> None:
    """An adapter that leaves and comes back merges to the same bytes, and goes on as a draft on record."""
    store, until = learning.store, datetime(2026, 1, 1, tzinfo=UTC)
    export_adapter(learning, version, folder, "me")
    brought = partial(
        import_adapter,
        learning,
        version.application,
        folder,
        learned_until=until,
        principal="me",
        reason="it came back",
    )
    made = brought()
    assert brought() == made, "importing it again changes nothing"
    imported = store.models.get(store.scope, made.model)
    assert (imported.weights.sha256, imported.learned_until) == (version.weights.sha256, until)
    assert store.releases.get(store.scope, made.release).stage == "draft"
    assert "learned from nothing later than" in as_html(ModelRegistry(store.database).card(store.scope, made.model))
    acts = [(entry.action, entry.subject) for entry in store.audit.query(store.scope)]
    assert {("model.export", version.id), ("model.import", made.model)} <= {*acts}
    with pytest.raises(InvalidInputError, match="was imported"):
        learning.orders.rebuild(store.scope, "me", made.model)
    with pytest.raises(InvalidInputError, match="was imported"):
        learning.orders.place(store.scope, "me", TrainingRequest(version.application, delta=True))
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": true}')
    with pytest.raises(InvalidInputError, match="no plain LoRA"):
        brought()


@asynccontextmanager
async def learning_of(folder: Path, given: list[Example]) -> AsyncIterator[tuple[LearningPlatform, ProcessServices]]:
    """A project with its engine and a worker's trainings; each adds to ``given`` what it learns from."""
    require_libraries()
    store = Store.open(project(folder))
    wired = ProcessServices(store, "test")
    trainer = TrainingProcesses(SystemClock(), floor=0.5, window=5.0)

    async def trained(order: TrainingOrder, *reporting: Any) -> TrainingResult:
        seal = folder_seal(Path(order.examples_path).parent, store.database.codec, store.scope)
        given.extend(read(Path(order.examples_path), order.examples_sha256, Example, seal))
        return await trainer.run(order, *reporting)

    try:
        apply(store, principal="me")
        learning = LearningPlatform(
            store, wired.engine, wired.commit, wired.features, run_training=trained,
            served=ServedModels.of(store, wired.engine),
        )  # fmt: skip
        async with engine_of(store, wired):
            yield learning, wired
    finally:
        await wired.close()


async def test_turns_of_conversations_are_learned_with_the_prompts_that_were_served(tmp_path: Path) -> None:
    given: list[Example] = []
    async with learning_of(tmp_path, given) as (learning, wired):
        store, now, prompts = learning.store, datetime.now(UTC), dict[str, str]()
        asker = Principal("ann", store.scope.tenant, "admin", "person", "restricted")
        for number in range(12):  # Six are learned from, the others evaluated on.
            moment, before = now - timedelta(days=4 if number < 6 else 1, minutes=number), None
            for question in (f"My {THINGS[number % 4]} {number} broke.", f"And {number} times now?"):
                answer = await wired.answerer.answer(
                    AnswerRequest(
                        store.scope, asker, "talks", {"customer": f"c{number}"}, question=question, as_of=moment,
                        conversation=before,
                    )
                )  # fmt: skip
                before = answer.receipt.conversation and answer.receipt.conversation.id
                moment += timedelta(seconds=30)
            sent = OutcomeSubmission(
                value=f"Restart {number}.", prediction=answer.prediction, application="talks", available_at=moment
            )
            assert outcome_joiner(store).take(store.scope, "agent", sent).status == "joined"
            if number < 6:
                served = store.blobs.get(store.scope, answer.receipt.attempts[0].prompt_blob).decode()
                prompts[served] = f"Restart {number}."
        order = TrainingRequest("talks", rows=8, texts=0)
        foreseen = learning.orders.foresee(store.scope, "me", order)
        assert (foreseen.training.rows, foreseen.training.dropped["no-served-prompt"]) == (6, 31)
        run = await work(store, learning, learning.orders.place(store.scope, "me", order))
        assert run.status == "succeeded", run.error
        assert {one.prompt: one.parts[0].text[: -len("<|im_end|>")] for one in given} == prompts
        assert all("broke." in prompt and "times now?" in prompt for prompt in prompts)
        version = store.models.get(store.scope, run.result["model"])
        assert all(math.isfinite(loss) for _, loss in version.losses)
        assert run.result["stage"] == "validated", run.result["reasons"]
        evaluation = store.evaluations.get(store.scope, run.result["evaluation"])
        assert (evaluation.rows, evaluation.failed, evaluation.left_out) == (8, {}, {})


async def test_free_texts_and_replies_beside_a_label_are_learned_from_questions_and_references(tmp_path: Path) -> None:
    async with learning_of(tmp_path, []) as (learning, _):
        store = learning.store
        for application, metrics in (("replies", {"chrf"}), ("triage", {"macro_f1", "text.chrf"})):
            order = TrainingRequest(application, rows=8, texts=0)
            foreseen = learning.orders.foresee(store.scope, "me", order)
            assert (foreseen.training.rows, foreseen.problems) == (31, ())
            run = await work(store, learning, learning.orders.place(store.scope, "me", order))
            assert run.status == "succeeded", run.error
            found = run.result
            assert found["stage"] == "validated", found["reasons"]
            assert found["examples"]["new"] == 31
            assert (found["examples"]["refused"], found["examples"]["unwritten"]) == (0, 0)
            assert [notice for notice in found["notices"] if notice.startswith("1 of 31 examples have more than")]
            version = store.models.get(store.scope, found["model"])
            # Three batches of other texts each: that a loss falls is tests/integration/training's.
            assert all(math.isfinite(loss) for _, loss in version.losses)
            evaluation = store.evaluations.get(store.scope, found["evaluation"])
            assert (evaluation.rows, evaluation.mode, evaluation.failed) == (8, "whole", {})
            assert metrics <= evaluation.metrics.keys()
            assert metrics <= evaluation.difference.keys(), "it is compared with the base model on the same rows"
        _export_and_import(learning, version, tmp_path / "peft")
