"""A metric of the answers alone decides in shadow, where no outcome will ever say which was better."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.outcomes import pair_scorer
from tests.harness.small_desk import SCOPE
from tests.integration.learning.help_desk import HELP, PLAN, THINGS, HelpDesk
from tests.integration.learning.test_numbers_and_texts import mirrored

from antiphon.catalog.releases.rollouts import Judgement, RolloutRecord
from antiphon.definitions import shipped_metrics
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.own_metrics import OwnMetric
from antiphon.definitions.shipped_metrics import groundedness
from antiphon.orchestration.rollouts import EvidenceReader, RolloutKeeper
from antiphon.releases.judge import judge
from antiphon.serving.user_functions import UserFunctions

METRICS = "tests.integration.learning.help_metrics"
TICKETS = 100


def decided_by(metric: OwnMetric) -> ApplicationSpec:
    """The help desk without an outcome, writing free text."""
    plan = msgspec.structs.replace(PLAN, metric=metric.name)
    return msgspec.structs.replace(
        HELP, output_schema=None, outcome=None, more_outcomes=msgspec.UNSET, own_metrics=(metric,), rollout=plan
    )


def on_topic(number: int) -> tuple[int, str]:
    """Says what the ticket is about."""
    return 0, f"Your {THINGS[number % len(THINGS)]} fails."


def worded_anew(number: int) -> tuple[int, str]:
    """Says the same in another order."""
    return 0, f"It fails, your {THINGS[number % len(THINGS)]}."


def off_topic(number: int) -> tuple[int, str]:
    """Says what nobody asked."""
    return 0, "Yesterday's weather was remarkably pleasant."


def wordy(number: int) -> tuple[int, str]:
    """Says the same at length."""
    return 0, " ".join([worded_anew(number)[1]] * 12)


MakeDesk = Callable[..., HelpDesk]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeDesk]:
    made: list[HelpDesk] = []

    def desk(candidate: Any, metric: OwnMetric, live: Any = on_topic) -> HelpDesk:
        one = HelpDesk(tmp_path, live, candidate, decided_by(metric))
        one.keeper = RolloutKeeper(
            SCOPE, one.database, one.releases, one.rollouts, one.judgements, one.transitions,
            EvidenceReader(
                one.exposures, one.pairs, pair_scorer(one.database, functions=UserFunctions([METRICS])), one.outcomes
            ),
            judge,
        )  # fmt: skip
        made.append(one)
        return one

    yield desk
    for one in made:
        one.close()


async def judged(desk: HelpDesk, tickets: int = TICKETS, **fields: Any) -> tuple[RolloutRecord, Judgement]:
    """A rollout after so many tickets were answered by both."""
    rollout = desk.begin(desk.candidate())
    for number in range(tickets):
        await desk.ask(number, **fields)
    await mirrored(desk, tickets)
    return rollout, await asyncio.to_thread(desk.verdict, rollout)


@pytest.mark.parametrize(("candidate", "decision"), [(worded_anew, "promote"), (off_topic, "roll_back")])
async def test_the_verdict_in_shadow_is_by_the_named_metric(make: MakeDesk, candidate: Any, decision: str) -> None:
    desk = make(candidate, groundedness())
    rollout, said = await judged(desk)
    assert said.decision == decision, said.sentence
    assert "groundedness" in said.sentence
    assert "outcome" not in said.sentence
    state = desk.rollouts.get(SCOPE, rollout.id).state
    assert state == ("promoted" if decision == "promote" else "rolled_back")


@pytest.mark.parametrize(("candidate", "decision"), [(worded_anew, "promote"), (wordy, "roll_back")])
async def test_a_function_with_bounds_of_its_own_decides_lower_is_better(
    make: MakeDesk, candidate: Any, decision: str
) -> None:
    metric = OwnMetric("words", f"{METRICS}:words", direction="lower", high=60.0)
    _, said = await judged(make(candidate, metric))
    assert said.decision == decision, said.sentence
    # In the metric's own unit, not in losses.
    assert f"words {48 if candidate is wordy else 4}.000 against 3.000 live, by 100 users" in said.sentence


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("nonsense", "words has no value of 40 pairs: returned nan, no number from 0 to 60"),
        ("names_the_thing", "words has no value of 40 pairs: raised TypeError"),
        ("gone", "words has no value of 40 pairs: raised AttributeError"),
    ],
)
async def test_a_metric_without_a_value_decides_nothing_and_says_why(
    make: MakeDesk, function: str, reason: str
) -> None:
    desk = make(off_topic, OwnMetric("words", f"{METRICS}:{function}", high=60.0))
    rollout, said = await judged(desk, 40)
    assert said.decision == "hold"
    assert "0 of 60 pairs have a value of words" in said.sentence
    assert reason in said.sentence
    assert desk.rollouts.get(SCOPE, rollout.id).state == "shadow"


async def test_answers_that_the_metric_fails_on_promote_no_candidate(make: MakeDesk) -> None:
    """Every third one raises, and the others are equal: as many good pairs as the plan asks for are not enough."""
    _, said = await judged(make(worded_anew, OwnMetric("words", f"{METRICS}:flaky")), TICKETS)
    assert said.decision == "hold"
    assert "raised KeyError: 'gone'" in said.sentence
    assert said.metrics[0].safe < said.safe_bound


async def test_a_user_counts_once_and_erased_texts_are_said(make: MakeDesk) -> None:
    desk = make(worded_anew, groundedness())
    rollout, said = await judged(desk, 70, exposure_unit="one")
    assert "1 of 60 pairs have a value of groundedness (of 70 a user's first counts)" in said.sentence
    for pair in desk.pairs.of(SCOPE, rollout.id):
        desk.blobs.erase(SCOPE, desk.receipts.get(SCOPE, pair.prediction).text_blob)
    fresh = EvidenceReader(desk.exposures, desk.pairs, pair_scorer(desk.database), desk.outcomes)
    found = await asyncio.to_thread(fresh.read, rollout)
    assert {pair.unscored for pair in found.pairs} == {"a text of the request or of an answer was erased"}
    assert {(pair.least, pair.most, pair.truth) for pair in found.pairs} == {(-1.0, 1.0, None)}


async def test_a_failed_shadow_is_the_worst_and_many_pairs_are_measured_over_several_looks(make: MakeDesk) -> None:
    desk = make(off_topic, groundedness())
    rollout, _ = await judged(desk, 3)
    (pair, *_) = desk.pairs.of(SCOPE, rollout.id)
    for number in range(120):
        name, now = f"pred_gone_{number:03}", desk.clock.now()
        desk.pairs.add(msgspec.structs.replace(pair, prediction=name, shadow=None, error="engine", created_at=now))
    reader = EvidenceReader(desk.exposures, desk.pairs, pair_scorer(desk.database), desk.outcomes)
    looks = [len((await asyncio.to_thread(reader.read, rollout)).pairs) for _ in range(3)]
    assert looks == [100, 123, 123]
    failed = msgspec.structs.replace(pair, shadow=None, error="engine")
    scored = await asyncio.to_thread(pair_scorer(desk.database).measure, rollout, failed, groundedness())
    assert (scored.live, scored.shadow, scored.truth) == (pytest.approx(1 / 3), 1.0, "groundedness")


def test_the_module_of_shipped_metrics_says_which_need_an_outcome() -> None:
    assert shipped_metrics.needs_outcome(shipped_metrics.similarity("text"))
    assert not shipped_metrics.needs_outcome(groundedness())
