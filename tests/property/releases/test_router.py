"""Arms keep their users while they grow, are disjoint, and have the shares that the weights say."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.unit.catalog.examples import DEV, NOON, bundle

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.releases.rollouts import RolloutRecord, RolloutState
from antiphon.definitions.learning import Rollout
from antiphon.releases.router import assign, position


def release(name: str) -> Release:
    return Release(name, DEV, 1, bundle(), "h", "live", "me", "r", NOON)


LIVE, CANDIDATE = release("rel_live"), release("rel_next")


def rollout(name: str, steps: tuple[int, ...], shadow: float = 0.0, state: RolloutState = "canary") -> RolloutRecord:
    plan = Rollout(canary=steps, shadow=shadow)
    return RolloutRecord(name, DEV, "desk", CANDIDATE.id, LIVE.id, plan, state, 0, False, "r", "me", NOON, NOON, None)


steps = some.lists(some.integers(1, 50), min_size=1, max_size=6, unique=True).map(lambda given: tuple(sorted(given)))
names = some.text(max_size=40)


@given(names, names.map("roll_".__add__), steps)
def test_nobody_changes_arms_while_the_weights_grow(unit: str, name: str, weights: tuple[int, ...]) -> None:
    begun = rollout(name, weights)
    seen = []
    for step, weight in enumerate(weights):
        assigned = assign(LIVE, msgspec.structs.replace(begun, step=step), CANDIDATE, unit, "req")
        seen.append(assigned.role)
        if assigned.role != "live":
            assert (assigned.rollout, assigned.step, assigned.probability) == (begun.id, step, weight / 100)
        assert assigned.release is (CANDIDATE if assigned.role == "canary" else LIVE)
    first = next((at for at, role in enumerate(seen) if role != "live"), len(seen))
    assert len(set(seen[first:])) <= 1, seen
    held = assign(LIVE, msgspec.structs.replace(begun, step=len(weights) - 1, held=True), CANDIDATE, unit, "req")
    assert held.role == seen[-1]


@given(names, names.map("roll_".__add__), some.floats(0, 1), some.sampled_from(["shadow", "canary"]))
def test_nobody_in_the_canary_is_mirrored_and_the_request_decides(
    unit: str, name: str, share: float, state: RolloutState
) -> None:
    begun = rollout(name, (20,), share, state)
    for number in range(8):
        assigned = assign(LIVE, begun, CANDIDATE, unit, f"req_{number}")
        if assigned.role == "canary":
            assert state == "canary"
            assert assigned.mirror is None
            continue
        assert (assigned.mirror is CANDIDATE) == (position(begun.id, "request", f"req_{number}") < share)
        if assigned.mirror is not None:
            assert assigned.rollout == begun.id


@settings(max_examples=15)
@given(some.uuids().map(str), some.integers(1, 50))
def test_shares_are_within_binomial_bounds(name: str, weight: int) -> None:
    begun, users, share = rollout(f"roll_{name}", (weight,), 0.3), 4_000, weight / 100
    assigned = [assign(LIVE, begun, CANDIDATE, f"user-{n}", f"req-{n}") for n in range(users)]
    # Seven standard deviations: a false alarm would be a surprise in a lifetime of runs.
    for role in ("canary", "control"):
        count = sum(one.role == role for one in assigned)
        assert abs(count - users * share) < 7 * math.sqrt(users * share * (1 - share)), (role, count)
    outside = [one for one in assigned if one.role != "canary"]
    mirrored = sum(one.mirror is not None for one in outside)
    assert abs(mirrored - 0.3 * len(outside)) < 7 * math.sqrt(0.21 * len(outside))


def test_two_rollouts_draw_anew() -> None:
    users = [f"user-{n}" for n in range(4_000)]
    arms = [
        {user for user in users if assign(LIVE, rollout(name, (20,)), CANDIDATE, user, "r").role == "canary"}
        for name in ("roll_a", "roll_b")
    ]
    assert abs(len(arms[0] & arms[1]) - 160) < 7 * math.sqrt(4_000 * 0.04 * 0.96)


def test_a_rollout_against_something_else_than_what_is_live_routes_nobody() -> None:
    begun = rollout("roll_a", (50,), 1.0)
    other = release("rel_other")
    for given_live, given_rollout in (
        (other, begun),
        (LIVE, None),
        (LIVE, msgspec.structs.replace(begun, ended_at=NOON)),
    ):
        for user in range(50):
            assigned = assign(given_live, given_rollout, CANDIDATE, str(user), "r")
            assert (assigned.release, assigned.role, assigned.rollout) == (given_live, "live", None)
            assert assigned.mirror is None
