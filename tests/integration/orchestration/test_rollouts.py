"""The keeper over a real catalog: it does what the judge says, fails closed, and goes on after a crash anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.outcomes import LATE, pair_scorer
from tests.unit.catalog.examples import DEV, NOON, bundle, open_database

from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.releases.evidence import Exposures, Judgements, ShadowPairs
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import Exposure, JudgedMetric, Judgement, RolloutRecord, Rollouts, ShadowPair
from antiphon.core.clock import ManualClock
from antiphon.core.scope import Scope
from antiphon.definitions.application import SLO, Decoding
from antiphon.definitions.learning import Rollout
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.governance.audit.log import AuditLog
from antiphon.orchestration.rollouts import SECONDS, UNITS, EvidenceReader, RolloutKeeper
from antiphon.releases.rollout import RolloutTransitions

PLAN = Rollout(shadow=0.5, shadow_pairs=2, canary=(10, 50), patience="2h")


def says(rollout: RolloutRecord, decision: Any, sentence: str, now: datetime, units: int = 0) -> Judgement:
    metric = JudgedMetric("error", units, 0, 0, 0, 1.0, 1.0, 1.0)
    return Judgement(
        rollout.id, 0, rollout.scope, rollout.state, rollout.step, decision, sentence, (metric,), 1.0, 100, 20, now
    )


class Judge:
    """Decides by what it is told to; remembers what it saw."""

    def __init__(self) -> None:
        self.decide: Callable[[RolloutRecord, Sequence[Exposure], Sequence[Any]], str] = lambda *seen: "hold"
        self.seen: list[tuple[Sequence[Exposure], Sequence[Any]]] = []
        self.wording = "Held."

    def __call__(
        self,
        rollout: RolloutRecord,
        exposures: Sequence[Exposure],
        pairs: Sequence[Any],
        now: datetime,
        slo: SLO,
        outcome: OutcomeShape,
        thumbs: Mapping[str, bool],
    ) -> Judgement:
        assert slo.ttft_p99 == "123ms"
        self.seen.append((exposures, pairs))
        return says(rollout, self.decide(rollout, exposures, pairs), self.wording, now, len(exposures))


class World:
    """A catalog with a rollout under way, a scripted judge, and keepers."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NOON)
        self.database = open_database(folder, self.clock)
        self.releases, self.rollouts = Releases(self.database), Rollouts(self.database)
        self.exposures, self.pairs = Exposures(self.database), ShadowPairs(self.database)
        self.judgements, self.judge = Judgements(self.database), Judge()
        self.labels: dict[str, str] = {}
        self.asked: list[str] = []
        self.transitions = RolloutTransitions(
            self.database,
            self.releases,
            self.rollouts,
            audit=AuditLog(self.database, b"s" * 32),
            feature_exists=lambda *asked: True,
        )
        control, self.candidate = (
            self.releases.add(
                bundle(decoding=Decoding(max_tokens=n), rollout=PLAN, slo=SLO(ttft_p99="123ms"), **LATE), DEV, "me", "r"
            ).id
            for n in (1, 2)
        )
        self.releases.activate(DEV, "desk", control, "me", "first")
        self.control = control
        self.rollout = self.transitions.begin(DEV, self.candidate, principal="me", reason="try", force=True)
        self.keeper = self.another_keeper()

    def another_keeper(self, judge: Any = None) -> RolloutKeeper:
        def outcomes(scope: Scope, predictions: Sequence[str], name: str) -> Mapping[str, str]:
            self.asked += predictions
            return {name: self.labels[name] for name in predictions if name in self.labels}

        scorer = pair_scorer(self.database, outcomes)
        reader = EvidenceReader(self.exposures, self.pairs, scorer, Outcomes(self.database))
        return RolloutKeeper(
            DEV, self.database, self.releases, self.rollouts, self.judgements, self.transitions, reader,
            judge or self.judge,             every=0.01,
        )  # fmt: skip

    @property
    def now(self) -> RolloutRecord:
        return self.rollouts.get(DEV, self.rollout.id)

    def live(self) -> str:
        live = self.releases.live(DEV, "desk")
        assert live is not None
        return live.id

    def told(self) -> list[tuple[str, str]]:
        return [(one.decision, one.sentence) for one in self.judgements.of(DEV, self.rollout.id)]

    def expose(self, name: str) -> None:
        self.exposures.add(
            Exposure(
                self.rollout.id, name, DEV, name, "canary", 0, 0.1, None, False, True, 0.1, 0.2, 1, None,
                self.clock.now(),
            )
        )  # fmt: skip

    def mirror(self, prediction: str) -> None:
        pair = ShadowPair(
            self.rollout.id, DEV, prediction, None, None, True, {"late": 0.5}, {"late": 0.5}, 0.1, 0.1, self.clock.now()
        )
        self.pairs.add(pair)


@pytest.fixture
def world(tmp_path: Path) -> Any:
    world = World(tmp_path)
    yield world
    world.database.close()


def test_it_promotes_step_by_step_and_each_judgement_is_kept(world: World) -> None:
    world.judge.decide = lambda *seen: "promote"
    world.judge.wording = "Safe."
    seen = []
    for _ in range(4):
        world.keeper.look()
        seen.append((world.now.state, world.now.step))
    assert seen == [("canary", 0), ("canary", 1), ("promoted", 1), ("promoted", 1)]
    assert (world.live(), world.now.reason, world.now.principal) == (world.candidate, "Safe.", "judge")
    assert world.told() == [("promote", "Safe.")] * 3
    assert len(world.judge.seen) == 3, "an ended rollout was judged"


def test_it_rolls_back_on_harm(world: World) -> None:
    world.judge.decide = lambda rollout, *seen: "promote" if rollout.state == "shadow" else "roll_back"
    world.judge.wording = "8 of 40 failed."
    world.keeper.look()
    world.keeper.look()
    assert (world.now.state, world.now.reason, world.live()) == ("rolled_back", "8 of 40 failed.", world.control)
    assert world.releases.get(DEV, world.candidate).stage == "rolled_back"


def test_a_hold_is_written_down_when_it_says_something_new(world: World) -> None:
    for _ in range(3):
        world.keeper.look()
    assert world.told() == [("hold", "Held.")]
    for number in range(UNITS - 1):
        world.expose(f"e{number:02}")
    world.keeper.look()
    assert len(world.told()) == 1
    world.expose("e99")
    world.keeper.look()
    assert len(world.told()) == 2
    world.judge.wording = "Held: 1 of 41."
    world.keeper.look()
    assert len(world.told()) == 2
    world.clock.advance(timedelta(seconds=SECONDS))
    world.keeper.look()
    assert world.told()[2:] == [("hold", "Held: 1 of 41.")]


def test_a_judge_that_fails_holds(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*seen: Any) -> str:
        raise ZeroDivisionError("no users")

    world.judge.decide = fail
    world.keeper.look()
    world.keeper.look()
    assert (world.now.state, world.now.held) == ("shadow", False)
    ((decision, sentence),) = world.told()
    assert decision == "hold"
    assert "cannot be judged (ZeroDivisionError: no users)" in sentence
    assert "cannot be judged" in caplog.text
    world.judge.decide = lambda *seen: "promote"
    world.keeper.look()
    assert world.now.state == "canary"
    world.judge.decide = fail
    world.clock.advance(timedelta(hours=2, seconds=1))
    world.keeper.look()
    assert world.now.state == "rolled_back", "a judge that cannot judge held users in the canary for ever"


def test_a_judgement_of_something_else_moves_nothing(world: World) -> None:
    stale = msgspec.structs.replace(world.rollout, state="canary", step=1)
    world.another_keeper(lambda rollout, exposures, pairs, now, slo: says(stale, "promote", "Safe.", now)).look()
    assert world.now.state == "shadow"
    assert world.told()[0][0] == "hold"


def test_patience_ends_but_not_while_held(world: World) -> None:
    world.clock.advance(timedelta(hours=1))
    world.transitions.hold(DEV, world.rollout.id, principal="me", reason="look")
    world.judge.decide = lambda *seen: "promote"
    world.clock.advance(timedelta(hours=5))
    world.keeper.look()
    assert (world.now.state, world.now.held) == ("shadow", True)
    assert world.told() == [("promote", "Held.")], "what the judge thinks of a held rollout is not to be seen"
    world.transitions.resume(DEV, world.rollout.id, principal="me", reason="on")
    world.judge.decide = lambda *seen: "hold"
    world.clock.advance(timedelta(hours=2))
    world.keeper.look()
    assert world.now.state == "shadow"
    world.clock.advance(timedelta(seconds=1))
    world.keeper.look()
    assert world.now.reason == "Rolled back: in shadow, nothing was decided for 2h."
    assert world.told()[-1] == ("roll_back", world.now.reason)


def test_a_rollout_that_lost_its_control_is_aborted(world: World) -> None:
    third = world.releases.add(bundle(decoding=Decoding(max_tokens=3)), DEV, "me", "r").id
    world.releases.activate(DEV, "desk", third, "somebody", "past the transitions")
    world.keeper.look()
    assert (world.now.state, world.live()) == ("aborted", third)
    assert world.releases.get(DEV, world.candidate).stage == "draft"


def test_evidence_grows_also_by_what_is_committed_late(world: World) -> None:
    world.mirror("p1")
    world.expose("e2")
    world.keeper.look()
    world.clock.advance(timedelta(seconds=30))
    world.mirror("p3")
    world.keeper.look()
    early = Exposure(
        world.rollout.id, "e1", DEV, "u", "control", 0, 0.1, None, False, True, 0.1, 0.2, 1, None,
        NOON - timedelta(seconds=20),
    )  # fmt: skip
    world.exposures.add(early)
    world.labels = {"p1": "late"}
    world.keeper.look()
    exposures, pairs = world.judge.seen[-1]
    assert [one.id for one in exposures] == ["e1", "e2"]
    assert [(one.prediction, one.truth) for one in pairs] == [("p1", "True"), ("p3", None)]
    world.asked.clear()
    world.keeper.look()
    assert world.asked == ["p3"], "a label that is known was asked for again"
    fresh = world.another_keeper()
    fresh.look()
    assert world.judge.seen[-1] == (exposures, pairs), "a worker that started anew sees other evidence"


def test_of_two_keepers_one_moves(world: World) -> None:
    other = world.another_keeper()

    def decide(rollout: RolloutRecord, *seen: Any) -> str:
        if rollout.state == "shadow" and len(world.judge.seen) == 1:
            other.look()  # judges and moves while the first one is still judging
        return "promote"

    world.judge.decide = decide
    world.keeper.look()
    assert (world.now.state, world.now.step) == ("canary", 0)
    assert len(world.told()) == 1, "the judgement of the one that lost was kept as if it had moved something"
    assert len(world.rollouts.moves(DEV, world.rollout.id)) == 2


async def test_it_goes_on_until_it_is_told_to_stop(world: World) -> None:
    stop = asyncio.Event()
    world.judge.decide = lambda *seen: "promote"
    async with asyncio.timeout(20):
        running = asyncio.create_task(world.keeper.run_until(stop))
        while world.now.ended_at is None:
            await asyncio.sleep(0.01)
        stop.set()
        await running
    assert world.live() == world.candidate
