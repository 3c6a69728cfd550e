from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER, bundle

from antiphon.catalog.database import Database
from antiphon.catalog.releases.evidence import Exposures, Judgements, ShadowPairs
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import (
    Exposure,
    JudgedMetric,
    Judgement,
    RolloutRecord,
    Rollouts,
    RoutingState,
    ShadowPair,
)
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.application import Decoding
from antiphon.definitions.learning import Rollout

PLAN = Rollout(shadow=0.5, shadow_pairs=10, canary=(1, 5, 20))
Start = Callable[..., RolloutRecord]


@pytest.fixture
def start(database: Database) -> Start:
    releases, rollouts = Releases(database), Rollouts(database)

    def begin(application: str = "desk", scope: Scope = DEV, **fields: Any) -> RolloutRecord:
        control, candidate = (
            releases.add(bundle(application, decoding=Decoding(max_tokens=n)), scope, "me", "r").id for n in (1, 2)
        )
        given = {"state": "shadow", "candidate": candidate, "control": control} | fields
        return rollouts.start(scope, application, plan=PLAN, principal="me", reason="better", **given)

    return begin


def test_a_rollout_comes_back_as_it_was_started(database: Database, start: Start) -> None:
    rollouts = Rollouts(database)
    started = start()
    assert rollouts.get(DEV, started.id) == started
    assert (started.state, started.step, started.held, started.ended_at) == ("shadow", 0, False, None)
    assert (started.plan, started.created_at, started.entered_at) == (PLAN, NOON, NOON)
    assert rollouts.active(DEV, "desk") == started
    assert [(m.sequence, m.state, m.reason, m.principal) for m in rollouts.moves(DEV, started.id)] == [
        (1, "shadow", "better", "me")
    ]


def test_one_rollout_of_an_application_is_under_way(database: Database, start: Start) -> None:
    rollouts = Rollouts(database)
    first = start()
    with pytest.raises(ConflictError, match="under way already"):
        start()
    elsewhere = [start("other"), start(scope=OTHER)]
    assert {rollout.id for rollout in rollouts.list_active(DEV)} == {first.id, elsewhere[0].id}
    rollouts.move(
        DEV, first.id, state="aborted", step=0, held=False, reason="r", principal="me", expected=("shadow", 0)
    )
    assert rollouts.active(DEV, "desk") is None
    second = start()
    assert second.id != first.id
    assert {rollout.id for rollout in rollouts.list(DEV, "desk")} == {first.id, second.id}
    assert len(rollouts.list(DEV, limit=1)) == 1


def test_a_rollout_of_releases_that_do_not_exist_is_refused(start: Start) -> None:
    with pytest.raises(NotFoundError, match="rel_none"):
        start(candidate="rel_none")


def test_a_move_is_a_compare_and_swap(database: Database, start: Start, clock: ManualClock) -> None:
    rollouts = Rollouts(database)
    rollout = start()
    clock.advance(timedelta(minutes=5))
    moved = rollouts.move(
        DEV, rollout.id, state="canary", step=0, held=False, reason="pairs", principal="judge", expected=("shadow", 0)
    )
    assert (moved.entered_at, moved.ended_at, moved.weight) == (NOON + timedelta(minutes=5), None, 0.01)
    with pytest.raises(ConflictError, match=r"in the canary at 1 % \(step 1 of 3\).*judge moved it \(pairs\)"):
        rollouts.move(
            DEV, rollout.id, state="canary", step=0, held=False, reason="again", principal="x", expected=("shadow", 0)
        )
    clock.advance(timedelta(minutes=5))
    held = rollouts.move(
        DEV, rollout.id, state="canary", step=0, held=True, reason="look", principal="me", expected=("canary", 0)
    )
    assert held.entered_at == moved.entered_at
    ended = rollouts.move(
        DEV, rollout.id, state="promoted", step=0, held=False, reason="r", principal="me", expected=("canary", 0)
    )
    assert ended.ended_at == NOON + timedelta(minutes=10)
    assert rollouts.get(DEV, rollout.id) == ended
    with pytest.raises(ConflictError, match="promoted"):
        rollouts.move(
            DEV, rollout.id, state="canary", step=1, held=False, reason="r", principal="me", expected=("promoted", 0)
        )
    assert [(m.sequence, m.state, m.held) for m in rollouts.moves(DEV, rollout.id)] == [
        (1, "shadow", False), (2, "canary", False), (3, "canary", True), (4, "promoted", False),
    ]  # fmt: skip


def test_what_routes_is_read_in_one_go(database: Database, start: Start) -> None:
    rollouts, releases = Rollouts(database), Releases(database)
    assert rollouts.routing_state(DEV, "desk") == RoutingState(None)
    rollout = start()
    releases.activate(DEV, "desk", rollout.control, "me", "first")
    assert rollouts.routing_state(DEV, "desk") == RoutingState(rollout.control, rollout)
    assert rollouts.routing_state(OTHER, "desk") == RoutingState(None)
    # A transaction that has not ended is not seen half.
    with database.transaction() as connection:
        rollouts.move(
            DEV, rollout.id, state="promoted", step=0, held=False, reason="r", principal="me",
            expected=("shadow", 0), within=connection,
        )  # fmt: skip
        releases.activate(DEV, "desk", rollout.candidate, "me", "promoted", within=connection)
        assert rollouts.routing_state(DEV, "desk") == RoutingState(rollout.control, rollout)
    assert rollouts.routing_state(DEV, "desk") == RoutingState(rollout.candidate)


def exposure(number: int, **fields: Any) -> Exposure:
    given: dict[str, Any] = {
        "rollout": "roll_1",
        "id": f"req_{number:03}",
        "scope": DEV,
        "unit": f"u{number}",
        "arm": "canary",
        "step": 1,
        "probability": 0.05,
        "error": None,
        "invalid": False,
        "generated": True,
        "first_byte": 0.25,
        "seconds": 0.5,
        "publication": 7,
        "prediction": f"pred_{number}",
        "created_at": NOON + timedelta(seconds=number),
    }
    return Exposure(**(given | fields))


def test_exposures_come_in_order_and_once(database: Database) -> None:
    exposures = Exposures(database)
    failed = exposure(1, arm="control", error="engine_failed", prediction=None, publication=None)
    kept = [failed, exposure(2, invalid=True, generated=False), exposure(3)]
    for one in reversed(kept):
        exposures.add(one)
    exposures.add(exposure(1, arm="canary"))
    exposures.add(exposure(4, rollout="roll_2"))
    exposures.add(exposure(5, scope=OTHER))
    assert exposures.of(DEV, "roll_1") == kept
    assert exposures.of(DEV, "roll_1", since=NOON + timedelta(seconds=2)) == kept[1:]


def test_pairs_are_kept_once_a_prediction(database: Database) -> None:
    pairs = ShadowPairs(database)
    whole = ShadowPair("roll_1", DEV, "pred_1", "pred_9", None, True, {"late": 0.75}, {"late": 0.5}, 0.2, 0.4, NOON)
    failed = ShadowPair("roll_1", DEV, "pred_2", None, "engine_failed", False, {}, {}, 0.2, 0.0, NOON)
    for pair in (failed, whole, ShadowPair("roll_1", DEV, "pred_1", None, "late", False, {}, {}, 0, 0, NOON)):
        pairs.add(pair)
    assert pairs.of(DEV, "roll_1") == [whole, failed]
    assert pairs.of(DEV, "roll_1", since=NOON + timedelta(seconds=1)) == []
    assert pairs.of(OTHER, "roll_1") == []


def judgement(sentence: str, **fields: Any) -> Judgement:
    metric = JudgedMetric("error", 41, 1.0, 39, 0.0, 1.8, 0.3, 0.5, "note")
    given: dict[str, Any] = {
        "rollout": "roll_1", "sequence": 0, "scope": DEV, "state": "canary", "step": 1, "decision": "hold",
        "sentence": sentence, "metrics": (metric,), "harm": 1.8, "harm_bound": 100.0, "safe_bound": 20.0,
        "created_at": NOON,
    }  # fmt: skip
    return Judgement(**(given | fields))


def test_judgements_are_numbered_and_keep_their_figures(database: Database) -> None:
    judgements = Judgements(database)
    assert judgements.latest(DEV, "roll_1") is None
    first = judgements.add(judgement("Held."))
    second = judgements.add(judgement("Rolled back.", decision="roll_back", harm=math.inf))
    assert (first.sequence, second.sequence) == (1, 2)
    assert judgements.of(DEV, "roll_1") == [first, second]
    assert judgements.of(DEV, "roll_1", 1) == [second] == [judgements.latest(DEV, "roll_1")]
    assert second.harm > 1e300, "an overwhelming e-value came back as something else"
    assert judgements.of(OTHER, "roll_1") == []
    with pytest.raises(ValueError, match="not a number"):
        judgements.add(judgement("?", harm=math.nan))
