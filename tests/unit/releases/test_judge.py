"""What the judge decides, and that it keeps its promises at the boundary of what it promises about."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
import ville
from tests.unit.catalog.examples import DEV, NOON

from antiphon.catalog.releases.rollouts import Arm, Exposure, JudgedMetric, Judgement, RolloutRecord, ShadowPair
from antiphon.definitions.application import SLO
from antiphon.definitions.learning import Rollout
from antiphon.definitions.signals import THUMBS, Signal
from antiphon.learning.evaluation.pairs import label_pair
from antiphon.releases import eprocess
from antiphon.releases.declaration import declaration, requests_needed
from antiphon.releases.evidence import CLOCKS, SignalEvidence, weights
from antiphon.releases.judge import judge
from antiphon.releases.shadow_pairs import PairedOutcome, quality

PLAN = Rollout(canary=(5, 20), step_units=50)
BOTH = Rollout(canary=(5, 20), step_units=50, shadow=0.5, shadow_pairs=200)


def canary(plan: Rollout = PLAN, **fields: Any) -> RolloutRecord:
    begun = RolloutRecord("roll", DEV, "desk", "next", "live", plan, "canary", 0, False, "r", "me", NOON, NOON, None)
    return msgspec.structs.replace(begun, **fields)


def shadow(plan: Rollout = BOTH) -> RolloutRecord:
    return canary(plan, state="shadow")


def exposure(number: int, arm: Arm, **fields: Any) -> Exposure:
    made = Exposure(
        rollout="roll",
        id=f"req_{number:06}",
        scope=DEV,
        unit=f"user-{number}",
        arm=arm,
        step=0,
        probability=0.05,
        error=None,
        invalid=False,
        generated=True,
        first_byte=0.1,
        seconds=0.4,
        publication=7,
        prediction=None,
        created_at=NOON + timedelta(milliseconds=number),
    )
    return msgspec.structs.replace(made, **fields)


def exposures(units: int = 150, bad: int = 0, control_bad: int = 0, **fields: Any) -> list[Exposure]:
    """As many users in each arm, one after the other; the bad ones, whose ``fields`` differ, come first."""
    made = []
    for number in range(2 * units):
        arm: Arm = "control" if number % 2 else "canary"
        is_bad = number // 2 < (bad if arm == "canary" else control_bad)
        made.append(exposure(number, arm, **(fields if is_bad else {})))
    return made


def pairs(
    number: int = 400, live: float | None = 0.3, beside: float | None = 0.3, late: Any = None
) -> list[PairedOutcome]:
    """Pairs of which every fourth is late, as the live forecast nearly says."""

    def said(probability: float | None) -> dict[str, float]:
        return {} if probability is None else {"late": probability}

    def label(at: int) -> str | None:
        known = at % 4 == 0 if late is None else late(at)
        return None if known is None else "late" if known else "on time"

    return [label_pair(mirrored(at, said(live), said(beside)), label(at)) for at in range(number)]


def mirrored(at: int, live: dict[str, float], beside: dict[str, float]) -> ShadowPair:
    """One pair of forecasts."""
    made = NOON + timedelta(seconds=at)
    return ShadowPair("roll", DEV, f"pred_{at:05}", f"shadow_{at:05}", None, False, live, beside, 0.1, 0.1, made)


def decide(
    rollout: RolloutRecord, seen: Sequence[Exposure] = (), compared: Sequence[PairedOutcome] = (), minutes: float = 60
) -> Judgement:
    return judge(rollout, seen, compared, NOON + timedelta(minutes=minutes), SLO(ttft_p99="1s", latency_p99="2s"))


def test_a_candidate_without_faults_is_promoted_with_its_figures() -> None:
    said = decide(canary(), exposures())
    assert said.decision == "promote"
    assert said.sentence.startswith("Promoted from 5 % to 20 %: 0 of 150 canary users got an error against 0 of 150;")
    assert "Quality was not compared" in said.sentence
    assert all(metric.safe >= said.safe_bound == 20 for metric in said.metrics)
    assert decide(canary(step=1), [*exposures(), *(exposure(n, "canary", step=1, unit=f"user-{2 * n}", probability=0.2,
        id=f"later_{n}") for n in range(60))]).sentence.startswith("Promoted from 20 % to all users")  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"error": "engine_failed", "generated": False}, "got an error"),
        ({"invalid": True}, "got an invalid output"),
        ({"seconds": 2.5}, "waited longer than the service level for a generated answer"),
        ({"seconds": math.nan}, "waited longer than the service level for a generated answer"),
        ({"first_byte": 1.5}, "waited longer than the service level for the first byte"),
    ],
)
def test_each_fault_of_the_canary_rolls_it_back_and_of_the_control_does_not(fault: dict[str, Any], said: str) -> None:
    judgement = decide(canary(), exposures(41, 25, 0, **fault))
    assert judgement.decision == "roll_back"
    assert judgement.sentence.startswith(f"Rolled back at 5 %: 25 of 41 canary users {said}"), judgement.sentence
    assert "against 0 of" in judgement.sentence
    assert decide(canary(), exposures(41, 0, 25, **fault)).decision == "hold"
    assert decide(canary(), exposures(200, 6, 6, **fault)).decision != "roll_back"


def test_holding_says_what_is_missing_and_what_was_seen() -> None:
    said = decide(canary(), exposures(41, 1, 0, error="engine_failed", generated=False))
    assert said.decision == "hold"
    assert said.sentence.startswith(
        "Held at 5 %: 41 canary users of 50; a rate of 4 times the control's and above 5 % is not excluded yet for "
        "errors (0.7), invalid outputs ("
    )
    assert said.sentence.endswith(
        "1 of 41 canary users got an error against 0 of 41; e-value "
        f"{said.harm:.1f} of the 100 that would roll it back."
    )


def unequal() -> list[Exposure]:
    return [one for one in exposures(300) if one.arm == "canary" or int(one.id[-6:]) % 4 == 1]


def of_publications() -> list[Exposure]:
    return [msgspec.structs.replace(one, publication=7 + (one.arm == "canary")) for one in exposures()]


def in_both_arms() -> list[Exposure]:
    return [*exposures(), exposure(900, "control", unit="user-0")]


DOUBTFUL: list[tuple[Callable[[], list[Exposure]], str]] = [
    (list, "no user was seen in the canary or the control"),
    (lambda: [one for one in exposures() if one.arm == "control"], "no user was seen in the canary"),
    (lambda: [one for one in exposures() if one.arm == "canary"], "no user was seen in the control"),
    (lambda: exposures(49), "49 canary users of 50"),
    (unequal, "should be equally large but have 300 and 150 users"),
    (of_publications, "the arms read different features: publication"),
    (in_both_arms, "1 user came into both arms"),
    (lambda: [*exposures(), exposure(900, "canary", probability=0.2)], "contradict each other"),
    (lambda: exposures(150, 150, 150, probability=0.9), "contradict each other"),
    (lambda: [*exposures(), exposure(900, "canary", rollout="other")], "1 exposures are of another rollout"),
    (lambda: [*exposures(), exposure(900, "canary", first_byte=-1.0)], "some recorded times are no times"),
    (lambda: exposures(150, 150, 0, generated=False), "latency over the service level: no generated answers in the ca"),
    (lambda: exposures(150, 0, 150, generated=False), "latency over the service level: no generated answers in the co"),
]


@pytest.mark.parametrize(("made", "reason"), DOUBTFUL)
def test_missing_invalid_or_imbalanced_evidence_never_promotes(made: Callable[[], list[Exposure]], reason: str) -> None:
    said = decide(canary(), made())
    assert said.decision == "hold"
    assert reason in said.sentence, said.sentence
    assert said.sentence.count("nobody was seen") <= 1


def test_a_step_lasts_at_least_its_time_and_needs_its_own_users() -> None:
    plan = Rollout(canary=(5, 20), step_time="30m")
    assert decide(canary(plan), exposures(), minutes=29).decision == "hold"
    assert "the step lasts 60 s more of 30m" in decide(canary(plan), exposures(), minutes=29).sentence
    assert decide(canary(plan), exposures(), minutes=30).decision == "promote"
    assert "0 canary users of 50" in decide(canary(plan, step=1), exposures()).sentence
    assert decide(canary(ended_at=NOON), exposures()).sentence.startswith("Held at 5 %: it has ended")


def test_a_user_counts_once_with_the_first_exposure() -> None:
    """A hundred failures of one user are one failure, and failing later than first is none."""
    fault = {"error": "engine_failed", "generated": False}
    often = [*exposures(), *(exposure(1_000 + n, "canary", unit="user-0", **fault) for n in range(100))]
    said = decide(canary(), often)
    assert said.decision == "promote"
    assert [(one.name, one.canary_units, one.canary_bad) for one in said.metrics[:2]] == [
        ("error", 150, 0),
        ("invalid", 150, 0),
    ]
    # In any order of reading, and over the steps: what was seen at the first step is not seen again at the second.
    later = {"step": 1, "created_at": NOON + timedelta(hours=1), "probability": 0.2}
    again = [msgspec.structs.replace(one, id=f"b{one.id}", **later) for one in exposures(150, 150, 0, **fault)]
    both = decide(canary(step=1), [*again[::-1], *exposures()])
    assert both.metrics[0].canary_bad == 0
    assert both.metrics[0].canary_units == 150


def rated(
    plan: Rollout,
    up: int,
    down: int,
    control_down: int,
    control_up: int | None = None,
    *,
    signal: Signal = THUMBS,
    hours: float = 1.0,
) -> Judgement:
    """After some users of each arm sent values of a signal for their first answers; by default as many good ones."""
    seen = [
        msgspec.structs.replace(one, prediction=f"{one.arm}-{number // 2}") for number, one in enumerate(exposures())
    ]
    good, bad = (side[0] if side else "" for side in (signal.good, signal.bad))
    sent = {f"canary-{number}": good if number >= down else bad for number in range(up + down)}
    above = up if control_up is None else control_up
    sent |= {f"control-{number}": good if number >= control_down else bad for number in range(control_down + above)}
    slo = SLO(ttft_p99="1s", latency_p99="2s")
    signals = [SignalEvidence(signal, sent)] if plan.signals else []
    return judge(canary(plan), seen, (), NOON + timedelta(hours=hours), slo, signals=signals)


RATED = msgspec.structs.replace(PLAN, signals=("thumbs",))


def test_thumbs_down_roll_a_canary_back_and_not_for_its_control() -> None:
    worse = rated(RATED, 10, 20, 2)
    assert worse.decision == "roll_back"
    assert "of 30 canary users who sent thumbs 20 sent a bad value and 10 a good one, against 2 and 10 of 12" in (
        worse.sentence
    )
    assert rated(RATED, 90, 1, 20).decision == "promote"
    assert rated(PLAN, 10, 20, 2).decision == "promote", "the switch: a plan that does not ask for thumbs"


def test_fewer_thumbs_up_roll_a_canary_back_where_half_of_all_are_down_already() -> None:
    """No release gets four times half of all: what becomes a fraction are the likes."""
    assert rated(RATED, 6, 54, 30, 30).decision == "roll_back"
    down_alone = Signal("thumbs", bad="down")
    assert rated(RATED, 6, 54, 30, 30, signal=down_alone).decision != "roll_back", "the switch: dislikes alone"
    assert rated(RATED, 30, 30, 30, 30).decision == "promote"


def test_without_thumbs_a_plan_that_asks_for_them_promotes_nothing() -> None:
    silent = rated(RATED, 0, 0, 0)
    assert silent.decision == "hold"
    assert "is not excluded yet for thumbs" in silent.sentence
    # 150 users of the canary were seen; a thumb that has not come is none that is up.
    few = rated(RATED, 20, 0, 0)
    assert few.decision == "hold"
    assert "is not excluded yet for thumbs" in few.sentence
    assert rated(RATED, 100, 0, 0).decision == "promote"


def test_what_nobody_sends_of_the_live_release_is_waited_for_within_its_window_alone() -> None:
    """Hardly anybody copies an answer: that nearly nobody does of the candidate's either says little."""
    copied = Signal("copied", good="yes", window="2h")
    plan = msgspec.structs.replace(PLAN, signals=("copied",))
    assert rated(plan, 1, 0, 0, 1, signal=copied).decision == "hold"
    assert rated(plan, 1, 0, 0, 1, signal=copied, hours=3).decision == "promote"
    # One that everybody copies is not held because nobody copied the live one's.
    assert rated(plan, 100, 0, 0, 0, signal=copied, hours=3).decision == "promote"
    # Where they do, one that is copied by none is not promoted, however long it is waited.
    fewer = rated(plan, 1, 0, 0, 40, signal=copied, hours=3)
    assert fewer.decision == "roll_back"


def test_a_candidate_without_a_complaint_is_promoted_once_its_users_had_their_time() -> None:
    escalated = Signal("escalated", bad="phone", window="2h")
    plan = msgspec.structs.replace(PLAN, signals=("escalated",))
    for control in (0, 40):
        assert rated(plan, 0, 0, control, 0, signal=escalated, hours=3).decision == "promote"
    assert rated(plan, 0, 0, 0, 0, signal=escalated).decision == "hold"
    assert rated(plan, 0, 40, 4, 0, signal=escalated, hours=3).decision == "roll_back"


def test_a_release_that_spends_more_than_the_service_level_allows_is_not_promoted() -> None:
    def spent(canary_tokens: int, level: int | msgspec.UnsetType = 200) -> Judgement:
        seen = [
            msgspec.structs.replace(one, tokens=(canary_tokens if one.arm == "canary" else 100) + number % 7)
            for number, one in enumerate(exposures())
        ]
        slo = SLO(ttft_p99="1s", latency_p99="2s", tokens=level)
        return judge(canary(), seen, (), NOON + timedelta(hours=1), slo)

    assert spent(110).decision == "promote"
    assert "a generated answer took 113 tokens in the canary and 103 in the control" in spent(110).sentence
    dear = spent(260)
    assert dear.decision == "roll_back"
    assert "a generated answer took" in dear.sentence
    assert spent(260, msgspec.UNSET).decision == "promote", "the switch: no service level in tokens"
    assert [one.name for one in dear.metrics] == ["error", "invalid", "latency", "first_byte", "cost"]


def test_stored_answers_say_nothing_about_latency() -> None:
    """A canary that generates twice as often, as slowly as the control, is not rolled back for it."""
    generator, alike = np.random.default_rng(3), []
    for number in range(1_200):
        arm: Arm = "control" if number % 2 else "canary"
        generated = bool(generator.random() < (0.9 if arm == "canary" else 0.3))
        slow = generator.random() < 0.2
        alike.append(exposure(number, arm, generated=generated, seconds=3.0 if slow and generated else 0.2))
    said = decide(canary(), alike)
    assert said.decision != "roll_back"
    latency = said.metrics[2]
    assert latency.canary_units > 2.5 * latency.control_units
    assert latency.harm < 10
    # Counting bad events without their couples would have rolled it back.
    assert eprocess.harm_ratio(latency.canary_bad, latency.control_bad) > math.log(1 / (0.01 * latency.weight))


def test_shadow_decides_by_pairs_alone() -> None:
    assert decide(shadow(), (), pairs()).sentence.startswith(
        "Promoted from shadow to 5 %: Brier score 0.190 against 0.19"
    )
    assert decide(shadow(), (), pairs(beside=0.95)).sentence.startswith(
        "Rolled back in shadow: Brier score 0.678 against"
    )
    few = decide(shadow(), exposures(), pairs(150))
    assert few.decision == "hold"
    assert "150 of 200 pairs have an outcome" in few.sentence
    assert decide(shadow(Rollout(shadow=0.5, shadow_pairs=200)), (), pairs()).sentence.startswith(
        "Promoted from shadow to all users"
    )
    assert [metric.name for metric in few.metrics] == ["quality"]
    assert decide(shadow(PLAN), (), pairs()).decision == "hold"
    assert decide(canary(BOTH), exposures(), ()).sentence.startswith("Held at 5 %: 0 of 200 pairs have an outcome")
    assert decide(canary(BOTH), exposures(), pairs()).decision == "promote"
    stranger = msgspec.structs.replace(pairs(1)[0], rollout="other")
    assert decide(canary(BOTH), exposures(), [*pairs(), stranger]).decision == "hold"


def test_what_the_shadow_does_not_answer_counts_as_worst() -> None:
    assert decide(shadow(), (), pairs(beside=None)).decision == "roll_back"
    # Nor can it be promoted where live was not measured, or nothing was.
    assert decide(shadow(), (), pairs(live=None)).decision == "hold"
    nothing = decide(shadow(), (), pairs(live=None, beside=None))
    assert nothing.decision == "hold"
    assert "no pair with an outcome" in nothing.sentence
    given = ShadowPair("roll", DEV, "pred", "pred_2", None, True, {"late": math.nan}, {"late": 0.4}, 0.1, 0.1, NOON)
    loss = 0.6**2
    assert label_pair(given, "late") == PairedOutcome("roll", "pred", 1.0, loss, loss - 1, loss, "True", NOON)
    failed = msgspec.structs.replace(given, error="engine_failed", live_probabilities={"late": 0.5})
    assert (label_pair(failed, None).least, label_pair(failed, None).most) == (0.75, 0.75)


def test_labels_that_are_late_because_of_what_they_are_do_not_decide() -> None:
    """Every early label is negative, which flatters a shadow that always says so."""
    early = pairs(400, 0.25, 0.02, lambda at: None if at % 4 == 0 else False)
    said = decide(shadow(), (), early)
    assert said.decision == "hold"
    assert decide(shadow(), (), pairs(400, 0.25, 0.02)).decision == "roll_back"
    # Leaving out what is missing, as if it were like the rest, would have promoted it.
    known = [one.shadow - one.live for one in early if one.shadow is not None and one.live is not None]
    assert eprocess.safe_mean(known, margin=BOTH.quality_margin)[-1] > math.log(20)


def test_one_label_that_never_comes_does_not_hide_the_others() -> None:
    for at in (0, 200, 399):
        missing = pairs(400, 0.3, 0.3, lambda number, at=at: None if number == at else number % 4 == 0)
        assert decide(shadow(), (), missing).decision == "promote"
        worse = pairs(400, 0.3, 0.95, lambda number, at=at: None if number == at else number % 4 == 0)
        assert decide(shadow(), (), worse).decision == "roll_back"


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        BOTH,
        Rollout(shadow=0.1, shadow_pairs=1),
        Rollout(canary=(5,), shadow=1, shadow_pairs=1, signals=("thumbs", "copied")),
    ],
)
@pytest.mark.parametrize("tokens", [msgspec.UNSET, 200])
def test_weights_share_the_whole_of_alpha(plan: Rollout, tokens: int | msgspec.UnsetType) -> None:
    given = weights(plan, SLO(tokens=tokens))
    assert math.isclose(sum(given.values()), 1.0)
    clocked = [name for clock in CLOCKS for name in clock if name in given]
    assert sorted([*clocked, *(plan.signals or ())]) == sorted(given)


# Promises, on 400 seeded runs that are looked at after every user.
RUNS, REQUESTS = 400, 1_500


def simulated(seed: int, control: float, ratio: float) -> tuple[np.ndarray[Any, Any], ...]:
    draw = np.random.default_rng(seed)
    arm = draw.random((RUNS, REQUESTS)) < 0.5
    bad = draw.random((RUNS, REQUESTS)) < np.where(arm, control * ratio, control)
    return np.cumsum(bad & arm, 1), np.cumsum(bad & ~arm, 1), np.cumsum(arm, 1)


def ever(crossed: np.ndarray[Any, Any]) -> float:
    return float(crossed.any(axis=1).mean())


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_the_null_holds_where_a_peeked_z_test_breaks_it(rate: float) -> None:
    bad, good, units = simulated(11, rate, 1.0)
    alpha = 0.05
    assert ever(eprocess.harm_ratio(bad, good) >= math.log(1 / alpha)) <= alpha
    others = np.arange(1, REQUESTS + 1) - units
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = (bad + good) / (units + others)
        score = (bad / units - good / others) / np.sqrt(pooled * (1 - pooled) * (1 / units + 1 / others))
    assert ever(score > 1.645) > 4 * alpha


def test_what_must_be_excluded_seldom_passes_and_harm_is_found() -> None:
    beta = 0.05
    for control in (0.02, 0.05):
        bad, good, units = simulated(12, control, 4.0)
        assert ever(eprocess.safe_both(bad, good, units, ratio=4.0, floor=0.05) >= math.log(1 / beta)) <= beta
        assert ever(eprocess.harm_ratio(bad, good) >= math.log(100)) > 0.95
        bad, good, units = simulated(13, control, 1.0)
        assert ever(eprocess.safe_both(bad, good, units, ratio=4.0, floor=0.05) >= math.log(1 / beta)) > 0.9


def test_the_paired_test_keeps_its_promises() -> None:
    draw = np.random.default_rng(14)
    rises = draw.random((RUNS, REQUESTS)) < 0.5
    same = np.where(rises, 0.15, -0.15)
    assert ever(eprocess.harm_mean(same) >= math.log(100)) <= 0.01
    assert ever(eprocess.safe_mean(same + 0.02, margin=0.02) >= math.log(20)) <= 0.05
    assert ever(eprocess.safe_mean(same, margin=0.02) >= math.log(20)) > 0.8
    assert ever(eprocess.harm_mean(same + 0.05) >= math.log(100)) > 0.95


def test_mismatch_is_the_beta_binomial_of_the_oracle() -> None:
    draw = np.random.default_rng(15)
    arm = draw.random(500) < 0.6
    oracle = ville.BernoulliTest(0.5).update(arm.astype(float))
    ours = eprocess.mismatch(np.cumsum(arm), np.cumsum(~arm))
    np.testing.assert_allclose(ours, np.asarray(oracle.log_e_values_), rtol=1e-9, atol=1e-9)


def test_a_fixed_bet_is_the_product_that_it_says() -> None:
    """The mixtures, written out event by event."""
    draw = np.random.default_rng(16)
    bad, good = 9, 4
    shares = [1.5 / 2.5, 2.5 / 3.5, 4 / 5, 8 / 9, 30 / 31]
    expected = sum((2 * share) ** bad * (2 * (1 - share)) ** good for share in shares) / len(shares)
    assert math.isclose(float(eprocess.harm_ratio(bad, good)), math.log(expected), rel_tol=1e-9)
    differences = draw.uniform(-1, 1, 40)
    expected = sum(math.prod(1 + bet * one for one in differences) for bet in (0.03, 0.08, 0.2, 0.45, 0.9)) / 5
    assert math.isclose(float(eprocess.harm_mean(differences)[-1]), math.log(expected), rel_tol=1e-9)


def test_a_rollout_declares_what_it_can_decide() -> None:
    needed = requests_needed(PLAN, 0.02, 4.0)
    assert needed == requests_needed(PLAN, 0.02, 4.0)
    assert needed.roll_back is not None
    assert needed.roll_back_most is not None
    assert 100 < needed.roll_back < needed.roll_back_most < 1_000
    slight = requests_needed(PLAN, 0.02, 2.0)
    assert slight.roll_back is not None
    assert slight.roll_back > 3 * needed.roll_back
    assert slight.promote == needed.promote
    assert requests_needed(PLAN, 0.02, 1.2).roll_back_most is None
    assert (needed.pairs is None, requests_needed(BOTH, 0.02, 4.0).pairs is None) == (True, False)
    said = declaration(BOTH, 300, base_rate=0.05)
    assert "With 300 canary users" in said
    assert "finds errors at 4× in 9 of 10 runs" in said
    assert "will mostly miss 2×" in said
    assert "at least 200 paired shadow answers" in said
    assert "Quality is not compared" in declaration(PLAN, 300)
    assert "no canary" in declaration(Rollout(), 300)
    with pytest.raises(ValueError, match="base rate"):
        requests_needed(PLAN, 0.0, 4.0)


def asked_again(draw: np.random.Generator, users: int, worse: float, again_after_bad: float) -> list[PairedOutcome]:
    """Up to six pairs a user: whether a user asks again depends on whether the live answer was bad."""
    found = []
    for user in range(users):
        bad_live, bad_shadow = draw.beta(2, 6), 0.0
        bad_shadow = min(1.0, bad_live + worse)
        for number in range(6):
            live, shadow = (float(draw.random() < rate) for rate in (bad_live, bad_shadow))
            at = NOON + timedelta(seconds=number * users + user)
            apart = shadow - live
            found.append(
                PairedOutcome("roll", f"p{user}-{number}", live, shadow, apart, apart, str(number % 2), at, f"u{user}")
            )
            if draw.random() >= (again_after_bad if live else 1.0 - again_after_bad):
                break
    return found


@pytest.mark.parametrize("again_after_bad", [0.0, 0.95])
def test_who_asks_again_because_of_an_answer_breaks_no_promise(again_after_bad: float) -> None:
    """100 rollouts of 200 users who leave after a bad answer, or ask again after one: α where releases are alike, β
    where the candidate is worse by the margin and more."""
    draw = np.random.default_rng(5)

    def evidence(worse: float) -> JudgedMetric:
        return quality(shadow(), asked_again(draw, 200, worse, again_after_bad), 1.0).metric

    rolled_back = [evidence(0.0).harm >= 20 for _ in range(100)]
    passed = [evidence(0.08).safe >= 20 for _ in range(100)]
    assert np.mean(rolled_back) <= 0.05
    assert np.mean(passed) <= 0.05


def test_a_users_first_pair_counts() -> None:
    told = pairs(200)
    again = [msgspec.structs.replace(one, prediction=f"{one.prediction}-again", shadow=1.0, least=1.0, most=1.0,
                                     created_at=one.created_at + timedelta(hours=1), unit=one.prediction)
             for one in told]  # fmt: skip
    first = [msgspec.structs.replace(one, unit=one.prediction) for one in told]
    assert quality(shadow(), [*again, *first], 1.0).metric == quality(shadow(), told, 1.0).metric
    few = decide(shadow(), (), [*first[:150], *again[:150]])
    assert "150 of 200 pairs have an outcome (of 300 a user's first counts)" in few.sentence
