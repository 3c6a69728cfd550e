"""Turns at a machine's idle time: shares, deadlines, and nobody left without."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.batch.fair_queue import MAX_WAIT_SECONDS
from antiphon.orchestration.idle_turns import Contender, IdleTurns, IdleWork, next_turn

SHARES = {"features": 4.0, "backfill": 1.0, "training": 1.0, "batch": 1.0}
KINDS: tuple[IdleWork, ...] = ("features", "backfill", "training", "batch")


def simulated(
    contenders: list[Contender], looks: int, shares: dict[str, float] = SHARES, look: float = 1.0
) -> tuple[Counter[str], IdleTurns, dict[str, float]]:
    """Seconds had by each kind, and the longest that each was without a turn."""
    state, had = IdleTurns(), Counter[str]()
    since, longest = dict.fromkeys((one.work for one in contenders), 0.0), dict.fromkeys(KINDS, 0.0)
    for number in range(looks):
        now = number * look
        state = next_turn(state, contenders, now, shares, 5.0)
        assert state.turn is not None
        had[state.turn] += 1
        since[state.turn] = now
        for work, at in since.items():
            longest[work] = max(longest[work], now - at)
    return had, state, longest


def test_kinds_that_always_have_work_get_their_shares() -> None:
    had, state, _ = simulated([Contender(one) for one in KINDS], 1_200)
    assert had["features"] / 1_200 == pytest.approx(4 / 7, abs=0.02)
    assert had["training"] / 1_200 == pytest.approx(1 / 7, abs=0.02)
    assert sum(state.had.values()) == pytest.approx(1_199)
    assert "least of the idle time" in state.why


def test_work_that_is_worth_more_gets_so_many_times_its_kind_s_share() -> None:
    had, state, _ = simulated([Contender("training", value=3.0), Contender("batch")], 1_200)
    assert had["training"] / 1_200 == pytest.approx(3 / 4, abs=0.02)
    had, state, _ = simulated([Contender("features", value=0.25), Contender("batch", value=2.0)], 1_200)
    assert had["features"] / 1_200 == pytest.approx(1 / 3, abs=0.02)
    assert state.why.startswith("it has had least of the idle time by its share, and is worth")


def test_a_value_counts_from_when_it_changes() -> None:
    state, had = IdleTurns(), Counter[str]()
    for now in range(800):
        worth = 1.0 if now < 400 else 3.0
        state = next_turn(state, [Contender("training", value=worth), Contender("batch")], float(now), SHARES, 5.0)
        had[state.turn or ""] += now >= 400
    assert had["training"] / 400 == pytest.approx(3 / 4, abs=0.04)


def test_one_kind_alone_has_everything_and_owes_nothing_for_it() -> None:
    state = IdleTurns()
    for now in range(500):
        state = next_turn(state, [Contender("batch")], float(now), SHARES, 5.0)
        assert state.turn is None
    both = [Contender("batch"), Contender("training")]
    had = Counter[str]()
    for now in range(500, 600):
        state = next_turn(state, both, float(now), SHARES, 5.0)
        had[state.turn or ""] += 1
    assert abs(had["batch"] - had["training"]) <= 5


def test_who_comes_back_is_owed_nothing() -> None:
    state, both = IdleTurns(), [Contender("batch"), Contender("training")]
    for now in range(300):
        state = next_turn(state, [*both, Contender("features")] if now < 10 else both, float(now), SHARES, 5.0)
    turns = []
    for now in range(300, 330):
        state = next_turn(state, [*both, Contender("features")], float(now), SHARES, 5.0)
        turns.append(state.turn)
    assert turns.count("features") <= 4 / 6 * 30 + 5


def test_short_laxity_takes_the_turn_at_once_and_names_what_is_due() -> None:
    state = next_turn(IdleTurns(), [Contender("batch"), Contender("training")], 0.0, SHARES, 5.0)
    first = state.turn
    due = Contender("features", 60.0, 5.0, "run run_1")
    state = next_turn(state, [Contender("batch"), Contender("training"), due], 1.0, SHARES, 5.0)
    assert (first, state.turn, state.why) != ("features", "features", "")
    assert state.turn == "features"
    assert state.why == "run run_1 is due soon"
    # A nearer deadline goes before it; a later one does not.
    nearer = Contender("batch", 30.0, 5.0, "batch job job_1")
    state = next_turn(state, [nearer, Contender("training"), due], 2.0, SHARES, 5.0)
    assert state.turn == "batch"
    state = next_turn(state, [nearer, Contender("training", 50.0, 5.0), due], 3.0, SHARES, 5.0)
    assert state.turn == "batch"


def test_a_turn_that_was_given_for_a_long_wait_is_not_taken_back() -> None:
    state, contenders, turns = IdleTurns(), [Contender("features", 1.0, 9.0, "run run_1"), Contender("training")], []
    for now in range(200):
        state = next_turn(state, contenders, float(now), SHARES, 5.0)
        turns.append((state.turn, state.why))
    waited = [why for turn, why in turns if turn == "training"]
    assert len(waited) >= 10
    assert set(waited) == {"it has waited for longer than a minute"}


def test_a_deadline_far_away_changes_nothing() -> None:
    had, _, _ = simulated([Contender("batch", 1e9, 60.0), Contender("training")], 400)
    assert abs(had["batch"] - had["training"]) <= 5


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(KINDS), min_size=2, max_size=4, unique=True),
    st.lists(st.sampled_from([inf, 1.0, 200.0, 1e6]), min_size=4, max_size=4),
    st.lists(st.floats(0.01, 100.0), min_size=4, max_size=4),
)
def test_nobody_who_waits_is_left_without_for_long(
    kinds: list[IdleWork], deadlines: list[float], weights: list[float]
) -> None:
    contenders = [Contender(one, deadline, 10.0) for one, deadline in zip(kinds, deadlines, strict=False)]
    _, _, longest = simulated(contenders, 400, dict(zip(KINDS, weights, strict=True)))
    assert all(longest[one] <= MAX_WAIT_SECONDS + 3 * 5.0 + 1.0 for one in kinds)
