"""Drift of an application in use, over real receipts and a real training set: compared now, by schedule, and kept."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.embedders import WORDS
from tests.integration.features.world import NOON
from tests.integration.learning.flown import Flown
from tests.integration.learning.joining import Declared

from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import ConversationRecord, Conversations, ConversationTurn
from antiphon.catalog.serving.receipt import ConversationReceipt, UsageReceipt
from antiphon.core.errors import NotFoundError, SetupError
from antiphon.definitions import shipped_metrics as metrics
from antiphon.definitions.application import Figure
from antiphon.definitions.learning import Outcome
from antiphon.definitions.own_metrics import own_metrics
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.durable.runs import Runs
from antiphon.features.embedding.vectors import Embedders
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.outcomes.drift_report import DriftReader, DriftReport
from antiphon.learning.outcomes.drift_runs import WORKFLOW, DriftReports

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LIVE = NOON - 20 * DAY
WORDED = ["when do we leave", "is there a delay", "how late are we", "which gate is it"]
WEATHER = ["does it snow today", "will rain come soon", "how strong is wind", "is fog ahead now"]
NUMBER = json.dumps({"type": "object", "properties": {"minutes": {"type": "number", "minimum": 0, "maximum": 300}}})


class NoModel:
    """Embedders of a machine without any model."""

    def get(self, model: Any) -> Any:
        raise SetupError(f"The embedding model {model.name} is not fetched.", where="model")


@pytest.fixture
def flown(tmp_path: Path) -> Iterator[Flown]:
    flown = Flown(tmp_path)
    yield flown
    flown.close()


def reports(flown: Flown, embedders: Embedders = WORDS, **fields: Any) -> DriftReports:
    """Of the application with these declarations, whose release is live since 20 days before noon."""
    figures = (Figure("congestion.delay_2h", step=5), Figure("congestion.departures_2h"))
    watched, world = flown.declare(figures=figures, **fields), flown.world
    release = flown.released(watched) if fields else flown.release
    world.clock.set(LIVE)
    flown.releases.activate(world.scope, "desk", release.id, "me", "it is good")
    world.clock.set(NOON)
    flown.release = release
    texts = Blobs(world.database)
    reader = DriftReader(
        receipts=flown.receipts,
        releases=flown.releases,
        datasets=flown.datasets,
        applications=Declared(watched).get,
        lake=world.lake,
        texts=texts,
        conversations=Conversations(world.database),
        scorer=AnswerScorer(texts, embedders=embedders),
        clock=world.clock,
    )
    return DriftReports(runs=Runs(world.database), releases=flown.releases, reader=reader, clock=world.clock)


def serve(flown: Flown, first: int, last: int, **fields: Any) -> None:
    """An answer each hour since the release went live."""
    blobs, scope = Blobs(flown.world.database), flown.world.scope
    text = {"text_blob": blobs.put(scope, b"It leaves at ten.")}
    for number in range(first, last):
        at = LIVE + number * HOUR
        flown.predict(f"p{number}", at, None, created_at=at, **(text | fields))


def asked(flown: Flown, number: int, words: list[str]) -> dict[str, str]:
    question = f"{words[number % 4]}?".encode()
    return {"question_blob": Blobs(flown.world.database).put(flown.world.scope, question)}


def verdicts(report: DriftReport) -> dict[str, str]:
    return {one.name: one.verdict for one in report.all}


def test_the_reference_is_the_first_week_of_the_live_release_however_many_answers_came_since(
    flown: Flown, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = reports(flown)
    serve(flown, -100, 0)  # before the release went live
    serve(flown, 0, 7 * 24)
    serve(flown, 7 * 24, 20 * 24)
    monkeypatch.setattr("antiphon.learning.outcomes.drift_report.MOST_RECEIPTS", 60)
    found = made.reader.compare(flown.world.scope, "desk", recent=3 * DAY)
    assert (found.reference_since, found.reference_until) == (LIVE, LIVE + 7 * DAY)
    (forecast, *lengths) = found.forecasts
    # Every third of 168, every second of 72: spread over all of their time, not the newest.
    assert (forecast.name, forecast.verdict, forecast.reference, forecast.recent) == (
        "probability of delayed", "too-few", 56, 36,
    )  # fmt: skip
    assert [one.name for one in lengths] == ["tokens of the answer", "tokens of the prompt"]
    assert f"the first week of release {flown.release.id}, 2013-03-21 12:00 to 2013-03-28 12:00 UTC" in found.comparison
    first = flown.receipts.sample(flown.world.scope, "desk", flown.release.id, LIVE, LIVE + 7 * DAY, most=60)
    assert [one.prediction for one in first[:3]] == ["p2", "p5", "p8"]
    assert len(flown.receipts.sample(flown.world.scope, "desk", flown.release.id, LIVE, None, most=1_000)) == 480


def test_features_are_compared_with_what_was_learned_from(flown: Flown) -> None:
    made, scope = reports(flown), flown.world.scope
    serve(flown, 0, 20 * 24)
    before = made.reader.compare(scope, "desk")
    assert (before.reference, before.problems) == ("first week", ())
    assert [(each.name, each.verdict) for each in before.features] == [("congestion.delay_2h", "steady")]
    # Served delays all print 10 minutes; those learned from lie between -5 and 40.
    dataset = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON, origins=("history",)))
    after = made.reader.compare(scope, "desk")
    assert after.reference == dataset.id
    assert f"features with what was learned from, {dataset.id}" in after.comparison
    assert {each.name: each.verdict for each in after.features} == {"congestion.delay_2h": "shifted"}
    # A training set whose file is gone is no reference.
    flown.world.lake.path(dataset.path).unlink()
    assert made.reader.compare(scope, "desk").reference == "first week"


def test_what_is_not_compared_is_said(flown: Flown) -> None:
    made, scope = reports(flown), flown.world.scope
    compare = made.reader.compare
    (said,) = compare(scope, "desk").problems
    assert "gave no user an answer in its first week" in said
    serve(flown, 0, 24)
    (said,) = compare(scope, "desk").problems
    assert "gave no user an answer lately" in said
    flown.world.clock.set(LIVE + DAY)
    (said,) = compare(scope, "desk").problems
    assert "until 2013-03-28 12:00 UTC, are the reference" in said
    assert set(verdicts(compare(scope, "desk")).values()) == {"too-few"}
    with pytest.raises(NotFoundError):
        compare(scope, "gone")


def test_texts_are_compared_by_their_words_where_that_is_asked_for(flown: Flown) -> None:
    made, scope, blobs = reports(flown, outcome=None), flown.world.scope, Blobs(flown.world.database)
    for number in range(20 * 24):
        serve(flown, number, number + 1, **asked(flown, number, WORDED if number < 7 * 24 else WEATHER))
    assert made.reader.compare(scope, "desk").texts == ()
    found = {one.name: one for one in made.reader.compare(scope, "desk", texts=True).texts}
    assert (found["what is asked"].verdict, found["what is asked"].index) == ("shifted", 1.0)
    assert found["what is answered"].verdict == "steady"
    # Erased texts are left out.
    for said in WEATHER:
        blobs.erase(scope, blobs.put(scope, f"{said}?".encode()))
    left = {one.name: (one.verdict, one.recent) for one in made.reader.compare(scope, "desk", texts=True).texts}
    assert left["what is asked"] == ("too-few", 0)


def test_numbers_that_are_said_are_followed(flown: Flown) -> None:
    made = reports(flown, output_schema=NUMBER, classes=(), outcome=Outcome("minutes"), fine_tune=None)
    blobs, scope = Blobs(flown.world.database), flown.world.scope
    for number in range(20 * 24):
        said = number % 10 + (0 if number < 7 * 24 else 40)
        serve(flown, number, number + 1, text_blob=blobs.put(scope, json.dumps({"minutes": said}).encode()))
    found = made.reader.compare(scope, "desk")
    assert verdicts(found)["number of minutes"] == "shifted"
    assert found.forecasts[0].recent == 168


async def test_metrics_without_an_outcome_are_followed_and_those_with_one_are_left_out(flown: Flown) -> None:
    declared = own_metrics([metrics.refusals(), metrics.similarity("text")])
    made = reports(flown, output_schema=None, classes=(), outcome=Outcome(), fine_tune=None, own_metrics=declared)
    blobs, scope = Blobs(flown.world.database), flown.world.scope
    refusal = blobs.put(scope, b"I cannot help with that.")
    serve(flown, 0, 7 * 24)
    serve(flown, 7 * 24, 20 * 24, text_blob=refusal)
    assert made.reader.compare(scope, "desk").metrics == ()
    (found,) = (await made.reader.compare_all(scope, "desk")).metrics
    assert (found.name, found.verdict, found.reference, found.recent) == ("refusals", "shifted", 100, 100)


async def test_metrics_read_the_earlier_turns_of_a_conversation_as_evaluations_do(flown: Flown) -> None:
    declared = own_metrics([metrics.groundedness()])
    made = reports(flown, output_schema=None, classes=(), outcome=None, fine_tune=None, own_metrics=declared)
    database, scope = flown.world.database, flown.world.scope
    conversations, blobs = Conversations(database), Blobs(database)

    # In the first week the words of an answer stand in its question, later in the turn before alone.
    serve(flown, 0, 7 * 24, question_blob=blobs.put(scope, b"It leaves when? At ten?"))
    for number in range(14 * 24, 14 * 24 + 70):
        if number % 7:  # of every seventh the turns are not kept any more
            record = ConversationRecord(f"c{number}", scope, "desk", "", "", flown.release.id, None, 1, LIVE, LIVE)
            conversations.append(record, [ConversationTurn(1, "", "When?", "When?", "It leaves at ten.")])
        serve(flown, number, number + 1, conversation=ConversationReceipt(f"c{number}", 2, None))
    (found,) = (await made.reader.compare_all(scope, "desk")).metrics
    assert (found.name, found.verdict, found.index, found.recent) == ("groundedness", "steady", 0.0, 60)


async def worked(flown: Flown, made: DriftReports) -> Run:
    """A run of the reports, as its schedule orders one."""
    registry, stop, runs = WorkflowRegistry(), asyncio.Event(), made.runs
    run = runs.submit(flown.world.scope, WORKFLOW, {})
    registry.add(WORKFLOW, made.make)
    executor = Executor(flown.world.database, registry, "test", flown.world.scope, poll=0.01)
    working = asyncio.create_task(executor.run_until(stop))
    async with asyncio.timeout(60):
        while (ended := runs.get(flown.world.scope, run)).status not in ENDED:
            await asyncio.sleep(0.01)
    stop.set()
    await working
    return ended


async def test_a_report_says_since_when_something_drifts(flown: Flown, caplog: pytest.LogCaptureFixture) -> None:
    made, scope, clock = reports(flown), flown.world.scope, flown.world.clock
    tokens = UsageReceipt(prompt_tokens=900)
    serve(flown, 0, 13 * 24)
    serve(flown, 13 * 24, 20 * 24, usage=tokens)
    assert made.newest(scope, "desk") is None
    clock.set(NOON)
    with caplog.at_level(logging.WARNING):
        assert (await worked(flown, made)).status == "succeeded"
    assert "desk has drifted: tokens of the prompt; `antiphon outcomes drift desk --kept`" in caplog.text
    found = made.newest(scope, "desk")
    assert found is not None
    assert [(one.name, one.since) for one in found.shifted] == [("tokens of the prompt", NOON)]
    # A day later it drifts still: since then.
    clock.set(NOON + DAY)
    serve(flown, 20 * 24, 21 * 24, usage=tokens)
    await worked(flown, made)
    (warning,) = made.warnings(scope)
    assert (warning.application, warning.variables) == ("desk", ("tokens of the prompt",))
    assert (warning.since, warning.at) == (NOON, NOON + DAY)
    # What has not shifted any more is none.
    steady = msgspec.structs.replace(found, forecasts=())
    assert steady.continuing(found).shifted == ()
    other = msgspec.structs.replace(found, release="rel_other", at=NOON + 2 * DAY)
    assert other.continuing(found).shifted[0].since == NOON + 2 * DAY, "another release has another reference"


async def test_a_broken_model_and_an_application_that_fails_end_in_sentences(
    flown: Flown, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, scope = reports(flown, NoModel()), flown.world.scope
    for number in range(20 * 24):
        serve(flown, number, number + 1, **asked(flown, number, WORDED))
    assert (await worked(flown, made)).status == "succeeded"
    found = made.newest(scope, "desk")
    assert found is not None
    assert "Texts are not compared: The embedding model minilm-l6-v2 is not fetched." in found.problems[0]
    assert verdicts(found)["tokens of the prompt"] == "steady"

    def fails(*asked: Any, **more: Any) -> Any:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(DriftReader, "compare", fails)
    flown.world.clock.advance(DAY)
    assert (await worked(flown, made)).status == "succeeded"
    found = made.newest(scope, "desk")
    assert found is not None
    # What was known before stays, with its moments: one bad day begins no drift anew.
    assert found.problems == ("Nothing is compared: ZeroDivisionError: by nothing",)
    assert verdicts(found)["tokens of the prompt"] == "steady"
