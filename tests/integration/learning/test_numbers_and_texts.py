"""Numbers, texts, corrections and labels as outcomes: told, evaluated, gated, and compared in shadow."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import SCOPE
from tests.integration.learning.help_desk import (
    FREE,
    HELP,
    SORTS_IN_THREE,
    SORTS_IN_TWO,
    HelpDesk,
    constant,
    forecasts_another,
    forecasts_majority,
    forecasts_shares,
    forecasts_well,
    knowing,
    replied,
    shuffled,
    took,
    urgency,
)

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.conversation import Conversation
from antiphon.definitions.learning import MetricGate, Outcome
from antiphon.definitions.own_metrics import OwnMetric
from antiphon.learning.datasets.reader import read_rows
from antiphon.serving.user_functions import UserFunctions

REPLIES: ApplicationSpec = msgspec.structs.replace(HELP, outcome=Outcome("reply"), more_outcomes=msgspec.UNSET)
TEXTS: ApplicationSpec = msgspec.structs.replace(HELP, **FREE)
OUTPUTS: ApplicationSpec = msgspec.structs.replace(HELP, outcome=Outcome(), more_outcomes=msgspec.UNSET)
APPLICATIONS = {"minutes": HELP, "reply": REPLIES, "text": TEXTS, "output": OUTPUTS}
METRIC = {"minutes": "mae", "reply": "chrf", "text": "chrf", "output": "field_f1"}
TITLE = {"mae": "mean absolute error", "chrf": "chrF", "field_f1": "F1 of fields"}

MakeDesk = Callable[..., HelpDesk]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeDesk]:
    made: list[HelpDesk] = []

    def desk(*given: Any) -> HelpDesk:
        made.append(HelpDesk(tmp_path, *given))
        return made[-1]

    yield desk
    for one in made:
        one.close()


async def mirrored(desk: HelpDesk, pairs: int) -> None:
    """Wait until so many answers have a shadow."""
    async with asyncio.timeout(20):
        while desk.answerer.shadows["paired"] < pairs:
            await asyncio.sleep(0.01)


async def served(desk: HelpDesk, tickets: int) -> list[str]:
    """Tickets that were answered and told about."""
    predictions = []
    for number in range(tickets):
        predictions.append((await desk.ask(number)).prediction)
        desk.tell_all(number, predictions[-1])
    return predictions


@pytest.mark.parametrize("name", APPLICATIONS)
async def test_an_answer_that_depends_on_the_ticket_passes_and_one_that_does_not_is_stopped(
    make: MakeDesk, name: str
) -> None:
    """The same tickets, evaluated by the release that answered them and by one that answers all of them alike."""
    desk = make(knowing, constant, APPLICATIONS[name])
    await served(desk, 60)
    dataset = desk.dataset()
    rows = {row.example: row for row in read_rows(dataset, desk.lake)}
    assert dataset.rows == len(rows) == 60
    assert all(row.question and row.question.startswith("ticket ") for row in rows.values())
    good = await desk.evaluate(desk.release, dataset)
    bad_release = desk.candidate()
    bad = await desk.evaluate(bad_release, dataset, against=desk.release.id)
    metric = METRIC[name]
    assert (good.rows, good.labels, good.failed) == (60, {}, {})
    assert [gate.name for gate in good.gates if gate.passed is False and "share" not in gate.name] == []
    failed = {gate.name for gate in bad.gates if gate.passed is False}
    assert {f"{metric}_sure_advantage", f"{metric}_behind_live"} <= failed
    assert good.advantages[metric].low > 0 >= bad.advantages[metric].low
    assert [part.rows for part in good.slices] == [30, 30]
    result = desk.validation.validate(bad_release, bad, principal="author")
    assert not result.passed
    assert any("better than" in reason for reason in result.reasons)
    assert desk.releases.get(SCOPE, bad_release.id).stage == "draft"


@pytest.mark.parametrize("candidate", [forecasts_shares, forecasts_majority, forecasts_another])
@pytest.mark.parametrize("application", [SORTS_IN_TWO, SORTS_IN_THREE], ids=["two", "many"])
async def test_a_forecast_of_labels_that_does_not_depend_on_the_ticket_is_stopped(
    make: MakeDesk, application: ApplicationSpec, candidate: Any
) -> None:
    """Default gates, beside a live release whose forecasts do depend on it, and without one."""
    desk = make(forecasts_well, candidate, application)
    await served(desk, 60)
    dataset = desk.dataset()
    assert dataset.labels == Counter(urgency(number, application.labels) for number in range(60))
    good = await desk.evaluate(desk.release, dataset)
    assert [gate.name for gate in good.gates if gate.passed is False and "share" not in gate.name] == []
    bad_release = desk.candidate()
    first = await desk.evaluate(bad_release, dataset)
    assert "auc_sure_advantage" in {gate.name for gate in first.gates if gate.passed is False}
    bad = await desk.evaluate(bad_release, dataset, against=desk.release.id)
    failed = {gate.name for gate in bad.gates if gate.passed is False}
    assert {"auc_sure_advantage", "brier_behind_live"} <= failed
    assert good.advantages["auc"].low > 0 >= bad.advantages["auc"].low
    result = desk.validation.validate(bad_release, bad, principal="author")
    assert not result.passed
    assert any("better than" in reason for reason in result.reasons)
    assert desk.releases.get(SCOPE, bad_release.id).stage == "draft"


@pytest.mark.parametrize("name", APPLICATIONS)
@pytest.mark.parametrize(("candidate", "decision"), [(knowing, "promote"), (shuffled, "roll_back")])
async def test_the_verdict_in_shadow_is_by_the_declared_outcome(
    make: MakeDesk, name: str, candidate: Any, decision: str
) -> None:
    """The candidate is judged on the tickets that users asked, as agents tell what was true."""
    desk = make(knowing, candidate, APPLICATIONS[name])
    rollout = desk.begin(desk.candidate())
    predictions = [(await desk.ask(number)).prediction for number in range(120)]
    await mirrored(desk, 120)
    assert "0 of 60 pairs have an outcome" in desk.verdict(rollout).sentence
    for number, prediction in enumerate(predictions):
        desk.tell_all(number, prediction)
    said = desk.verdict(rollout)
    assert said.decision == decision, said.sentence
    assert TITLE[METRIC[name]] in said.sentence
    state = desk.rollouts.get(SCOPE, rollout.id).state
    assert state == ("promoted" if decision == "promote" else "rolled_back")


async def test_pairs_decide_nothing_while_the_same_always_comes_true(make: MakeDesk) -> None:
    desk = make(constant, constant)
    rollout = desk.begin(desk.candidate())
    predictions = [(await desk.ask(number)).prediction for number in range(70)]
    await mirrored(desk, 70)
    for prediction in predictions:
        desk.tell(prediction, 110)
    said = desk.verdict(rollout)
    assert said.decision == "hold"
    assert "0 outcomes other than the most frequent one, of 5" in said.sentence


async def test_each_outcome_is_named_joined_and_measured_by_itself(make: MakeDesk) -> None:
    """Minutes have a day to arrive, replies three; the first outcome decides, both are evaluated and shown."""
    desk = make(knowing, knowing)
    predictions = await served(desk, 60)
    assert desk.tell(predictions[0], replied(0), "reply", id="a").status == "duplicate"
    assert desk.tell(predictions[0], "Something else.", "reply", id="b").status == "contradictory"
    assert desk.tell(predictions[0], took(0), id="c").status == "duplicate"
    with pytest.raises(InvalidInputError, match="no outcome named 'mood'"):
        desk.tell(predictions[0], "good", "mood")
    evaluation = await desk.evaluate(desk.release, desk.dataset())
    assert {"mae", "reply.chrf", "reply.rouge_l"} <= set(evaluation.metrics)
    passed = {gate.name for gate in evaluation.gates if gate.passed}
    assert passed >= {"rows", "mae_sure_advantage", "reply.chrf_sure_advantage"}
    minutes = desk.monitor.performance(SCOPE, "help")
    replies = desk.monitor.performance(SCOPE, "help", "reply")
    assert (minutes.outcome, minutes.form, minutes.outcomes) == ("minutes", "number", ("minutes", "reply"))
    assert minutes.whole is not None
    assert replies.whole is not None
    assert minutes.whole.metrics["mae"] == pytest.approx(evaluation.metrics["mae"].value)
    assert replies.whole.metrics["chrf"] == pytest.approx(evaluation.metrics["reply.chrf"].value)
    assert minutes.counts == {
        "number": {"duplicate": 1, "joined": 60}, "reference": {"contradictory": 1, "duplicate": 1, "joined": 60},
    }  # fmt: skip
    assert [one.labelled for one in replies.coverage] == [60]


async def test_an_evaluation_without_the_further_outcome_says_so_and_is_not_held_up(make: MakeDesk) -> None:
    desk = make(knowing, knowing)
    for number in range(60):
        desk.tell((await desk.ask(number)).prediction, took(number))
    evaluation = await desk.evaluate(desk.release, desk.dataset())
    gate = next(one for one in evaluation.gates if one.name == "reply.chrf")
    assert (gate.passed, gate.reason) == (None, "No row of the evaluation has an outcome 'reply'.")


async def test_an_erased_text_is_no_evidence_and_stops_nothing(make: MakeDesk) -> None:
    desk = make(knowing, knowing, TEXTS)
    rollout = desk.begin(desk.candidate())
    predictions = [(await desk.ask(number)).prediction for number in range(70)]
    await mirrored(desk, 70)
    erased = desk.receipts.get(SCOPE, predictions[3])
    desk.blobs.erase(SCOPE, erased.text_blob)
    for number, prediction in enumerate(predictions):
        desk.tell(prediction, replied(number))
    said = desk.verdict(rollout)
    assert said.decision in ("hold", "promote")
    assert said.metrics[0].canary_units == 69


async def test_metrics_of_the_users_own_are_measured_counted_and_gated(make: MakeDesk) -> None:
    """One that is sound, one that raises on some rows, one that is not a number, one that nobody may import."""
    here = "tests.integration.learning.help_metrics"
    own = (
        OwnMetric("names_the_thing", f"{here}:names_the_thing"),
        OwnMetric("flaky", f"{here}:flaky"),
        OwnMetric("nonsense", f"{here}:nonsense", direction="lower"),
        OwnMetric("foreign", "os:getpid", high=1e9),
    )
    bounds = {
        "names_the_thing": MetricGate(value=0.9, behind_live=0.1), "flaky": MetricGate(value=0.0),
        "nonsense": MetricGate(value=1.0), "foreign": MetricGate(behind_live=1.0), "mae": MetricGate(value=20.0),
    }  # fmt: skip
    gates = msgspec.structs.replace(HELP.gates, metrics=bounds)
    desk = make(knowing, constant, msgspec.structs.replace(HELP, own_metrics=own, gates=gates))
    functions = UserFunctions(["tests.integration.learning.help_metrics"])
    desk.evaluator = replace(desk.evaluator, scorer=replace(desk.evaluator.scorer, functions=functions))
    await served(desk, 60)
    dataset = desk.dataset()
    good = await desk.evaluate(desk.release, dataset)
    assert good.metrics["names_the_thing"].value == 1.0
    assert good.metrics["flaky"].value == 0.5
    assert good.own_failures == {"flaky": 20, "foreign": 60, "nonsense": 60}
    verdicts = {gate.name: gate.passed for gate in good.gates}
    assert verdicts["names_the_thing_value"] is verdicts["mae_value"] is True
    assert verdicts["flaky_failures"] is verdicts["nonsense_failures"] is verdicts["nonsense_value"] is False
    reasons = {row.own_failed["foreign"] for row in desk.evaluator.rows_of(good).rows}
    assert len(reasons) == 1
    assert "SetupError" in reasons.pop()
    bad = await desk.evaluate(desk.candidate(), dataset, against=desk.release.id)
    failed = {gate.name for gate in bad.gates if gate.passed is False}
    assert {"names_the_thing_value", "names_the_thing_behind_live", "mae_value"} <= failed


async def test_a_metric_that_the_live_release_does_not_declare_is_compared(make: MakeDesk) -> None:
    desk = make(knowing, knowing, HELP)
    functions = UserFunctions(["tests.integration.learning.help_metrics"])
    desk.evaluator = replace(desk.evaluator, scorer=replace(desk.evaluator.scorer, functions=functions))
    await served(desk, 60)
    dataset = desk.dataset()
    own = (OwnMetric("names_the_thing", "tests.integration.learning.help_metrics:names_the_thing"),)
    gates = msgspec.structs.replace(HELP.gates, metrics={"names_the_thing": MetricGate(behind_live=0.1)})
    application = msgspec.structs.replace(HELP, own_metrics=own, gates=gates, owner="measured")
    found = await desk.evaluate(desk.draft(application), dataset, against=desk.release.id)
    assert found.difference["names_the_thing"].value == 0.0
    assert {gate.name: gate.passed for gate in found.gates}["names_the_thing_behind_live"] is True
    asked = len(desk.requests)
    # An answer of the live release whose text was erased is asked for again, and no other.
    (live, *_) = desk.evaluations.list(SCOPE, release=desk.release.id)
    desk.blobs.erase(SCOPE, desk.evaluator.rows_of(live).rows[0].text)
    again = await desk.evaluate(desk.draft(application), dataset, against=desk.release.id)
    assert (again.difference, len(desk.requests)) == (found.difference, asked + 60 + 1)


async def test_a_later_turn_is_asked_with_the_turns_before_it(make: MakeDesk) -> None:
    desk = make(knowing, knowing, msgspec.structs.replace(HELP, conversation=Conversation()))
    begun = await desk.ask(0)
    assert begun.receipt.conversation is not None
    answers = [begun, await desk.ask(1, conversation=begun.receipt.conversation.id, entity={"customer": "acme"})]
    answers += [await desk.ask(number) for number in range(2, 6)]
    for number, answer in enumerate(answers):
        desk.tell_all(number, answer.prediction)
    dataset = desk.dataset()
    found = await desk.evaluate(desk.release, dataset)
    assert (found.rows, found.left_out) == (6, {})
    turns = {request.question: request.history for request in desk.requests}
    later = turns.pop("ticket 1: my router fails")
    assert [turn.prediction for turn in later.turns] == [begun.prediction]
    assert set(turns.values()) == {None}
    shown = [one.prompt for one in desk.scripted.asked[-6:] if "ticket 1:" in one.prompt]
    assert ["ticket 0:" in prompt for prompt in shown] == [True]
    # Once an earlier turn is erased the later one cannot be asked as it was: it is left out, and said.
    desk.blobs.erase(SCOPE, desk.receipts.get(SCOPE, begun.prediction).text_blob)
    desk.conversations.delete(SCOPE, begun.receipt.conversation.id)
    again = await desk.evaluate(desk.release, dataset)
    assert again.left_out == {"request-gone": 1}


async def test_of_a_sample_the_others_neither_decide_nor_hold_up(make: MakeDesk) -> None:
    """Agents write replies to a third of the tickets: those that are pending, whatever was answered."""
    outcome = Outcome("reply", sample=0.33)
    desk = make(knowing, knowing, msgspec.structs.replace(REPLIES, outcome=outcome))
    rollout = desk.begin(desk.candidate())
    numbers = {(await desk.ask(number)).prediction: number for number in range(240)}
    await mirrored(desk, 240)
    pending = [one.prediction for one in desk.monitor.pending(SCOPE, "help", limit=500)]
    assert 50 < len(pending) < 110
    assert [numbers[one] for one in pending] == sorted(numbers[one] for one in pending)
    others = [one for one in numbers if one not in pending]
    for prediction in others[:40]:
        desk.tell(prediction, "Something quite different.")
    assert "0 of 60 pairs have an outcome" in desk.verdict(rollout).sentence
    for prediction in pending:
        desk.tell(prediction, replied(numbers[prediction]))
    assert desk.monitor.pending(SCOPE, "help") == ()
    said = desk.verdict(rollout)
    assert said.metrics[0].canary_units == len(pending)
    assert said.decision == "promote", said.sentence
