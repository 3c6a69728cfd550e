"""The keeper with the real judge over a real catalog: harm ends a canary by itself, and a sound release goes live."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from sqlalchemy.engine import Connection
from tests.harness.outcomes import LATE, pair_scorer
from tests.unit.catalog.examples import DEV, NOON, bundle, open_database

from antiphon.catalog.learning.outcomes import OutcomeRecord, Outcomes
from antiphon.catalog.releases.evidence import Exposures, Judgements, ShadowPairs
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import Arm, Exposure, RolloutRecord, Rollouts, ShadowPair
from antiphon.core.clock import ManualClock
from antiphon.definitions.application import Decoding
from antiphon.definitions.learning import Rollout
from antiphon.governance.audit.log import AuditLog
from antiphon.orchestration.rollouts import EvidenceReader, RolloutKeeper
from antiphon.releases.judge import judge
from antiphon.releases.rollout import RolloutTransitions

PLAN = Rollout(shadow=0.5, shadow_pairs=40, canary=(10, 50), step_units=20, quality_margin=0.2)


class World:
    def __init__(self, folder: Path, plan: Rollout = PLAN) -> None:
        self.clock = ManualClock(NOON)
        self.database = open_database(folder, self.clock)
        self.releases, self.rollouts = Releases(self.database), Rollouts(self.database)
        self.exposures, self.pairs = Exposures(self.database), ShadowPairs(self.database)
        self.judgements = Judgements(self.database)
        self.labels: dict[str, str] = {}
        transitions = RolloutTransitions(
            self.database, self.releases, self.rollouts,
            audit=AuditLog(self.database, b"s" * 32), feature_exists=lambda *asked: True,
        )  # fmt: skip
        control, self.candidate = (
            self.releases.add(bundle(decoding=Decoding(max_tokens=n), rollout=plan, **LATE), DEV, "me", "r").id
            for n in (1, 2)
        )
        self.control = control
        self.releases.activate(DEV, "desk", control, "me", "first")
        self.rollout = transitions.begin(DEV, self.candidate, principal="me", reason="try", force=True)
        reader = EvidenceReader(
            self.exposures,
            self.pairs,
            pair_scorer(
                self.database,
                lambda scope, asked, name: {one: self.labels[one] for one in asked if one in self.labels},
            ),
            Outcomes(self.database),
        )
        self.keeper = RolloutKeeper(
            DEV, self.database, self.releases, self.rollouts, self.judgements, transitions, reader, judge
        )

    @property
    def now(self) -> RolloutRecord:
        return self.rollouts.get(DEV, self.rollout.id)

    def live(self) -> str:
        live = self.releases.live(DEV, "desk")
        assert live is not None
        return live.id

    def look(self) -> str:
        self.keeper.look()
        latest = self.judgements.latest(DEV, self.rollout.id)
        assert latest is not None
        return latest.sentence

    def mirror_all(self, shadow: tuple[float, float], known: bool = True) -> None:
        """Eighty pairs, every second one positive; ``shadow`` is what was said of a negative and of a positive."""
        with self.database.transaction() as connection:
            for number in range(80):
                self._mirror(connection, number, shadow[number % 2], bool(number % 2) if known else None)

    def expose_all(self, numbers: range) -> None:
        """So many users in each arm, who were answered."""
        with self.database.transaction() as connection:
            for number in numbers:
                self.expose(number, "canary", within=connection)
                self.expose(number, "control", within=connection)

    def _mirror(self, connection: Connection, number: int, shadow: float, positive: bool | None) -> None:
        name = f"pred_{number:04}"
        self.clock.advance(timedelta(milliseconds=100))
        self.pairs.add(
            ShadowPair(
                self.rollout.id,
                DEV,
                name,
                f"s{number}",
                None,
                False,
                {"late": 0.5},
                {"late": shadow},
                0.1,
                0.1,
                self.clock.now(),
            ),
            within=connection,
        )
        if positive is not None:
            self.labels[name] = "late" if positive else "on time"

    def rate(self, prediction: str, thumb: str) -> None:
        self.clock.advance(timedelta(milliseconds=100))
        at = self.clock.now()
        Outcomes(self.database).add(
            OutcomeRecord(f"o-{prediction}", DEV, "desk", "thumbs", "joined", thumb, at, at, prediction=prediction)
        )

    def expose(
        self, number: int, arm: Arm, error: str | None = None, *, prediction: str | None = None,
        within: Connection | None = None,
    ) -> None:  # fmt: skip
        now = self.rollouts.get(DEV, self.rollout.id, within=within)
        self.clock.advance(timedelta(milliseconds=100))
        self.exposures.add(
            Exposure(
                now.id, f"req_{number:04}_{arm}", DEV, f"{arm}-{number}", arm, now.step, now.weight, error, False,
                error is None, 0.1, 0.2, 1, prediction, self.clock.now(),
            ),
            within=within,
        )  # fmt: skip

    def through_shadow(self) -> None:
        self.mirror_all((0.1, 0.9))
        self.keeper.look()
        assert self.now.state == "canary", self.look()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.database.close()


def test_a_sound_release_goes_all_the_way(world: World) -> None:
    world.through_shadow()
    for first in range(0, 600, 25):
        world.expose_all(range(first, first + 25))
        world.keeper.look()
        if world.now.ended_at is not None:
            break
    assert (world.now.state, world.live()) == ("promoted", world.candidate), world.look()
    assert [move.state for move in world.rollouts.moves(DEV, world.rollout.id)] == [
        "shadow", "canary", "canary", "promoted",
    ]  # fmt: skip


def test_a_release_that_fails_is_rolled_back_without_anybody(world: World) -> None:
    world.through_shadow()
    for number in range(60):
        world.expose(number, "canary", "output_invalid" if number % 2 else None)
        world.expose(number, "control")
        world.keeper.look()
        if world.now.ended_at is not None:
            break
    assert (world.now.state, world.now.principal, world.live()) == ("rolled_back", "judge", world.control)
    assert "Rolled back at 10 %" in world.now.reason
    assert "got an error" in world.now.reason


def test_a_release_that_users_dislike_is_rolled_back_by_their_thumbs(tmp_path: Path) -> None:
    world = World(tmp_path, msgspec.structs.replace(PLAN, signals=("thumbs",)))
    world.through_shadow()
    for number in range(40):
        world.expose(number, "canary", prediction=f"canary-{number}")
        world.expose(number, "control", prediction=f"control-{number}")
        if number < 25:
            world.rate(f"canary-{number}", "down" if number % 5 else "up")
            world.rate(f"control-{number}", "up")
        world.look()
    assert world.now.state == "rolled_back"
    assert "canary users who sent thumbs" in world.now.reason
    assert world.live() == world.control
    world.database.close()


def test_a_release_that_knows_less_never_leaves_shadow(world: World) -> None:
    world.mirror_all((0.9, 0.1))
    world.keeper.look()
    assert (world.now.state, world.live()) == ("rolled_back", world.control)
    assert "Brier score" in world.now.reason


def test_without_outcomes_shadow_waits_until_they_come(world: World) -> None:
    world.mirror_all((0.1, 0.9), known=False)
    assert "0 of 40 pairs have an outcome" in world.look()
    assert world.now.state == "shadow"
    world.labels = {f"pred_{number:04}": "late" if number % 2 else "on time" for number in range(80)}
    assert world.look().startswith("Promoted from shadow to 10 %")
    assert world.now.state == "canary"
