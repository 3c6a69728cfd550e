"""Live releases that turn bad, and those that do not, over a real catalog: who is rolled back, held or told of."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.watched_release import WatchedRelease

from antiphon.catalog.run_holds import RunHold
from antiphon.services.watching.watcher import WATCHER, ReleaseWatcher


@pytest.fixture
def dice() -> random.Random:
    return random.Random(7)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[WatchedRelease]:
    made = WatchedRelease(tmp_path)
    yield made
    made.close()


def calibrated(dice: random.Random, count: int) -> list[tuple[float, bool]]:
    probabilities = [dice.choice((0.1, 0.2, 0.8, 0.9)) for _ in range(count)]
    return [(probability, dice.random() < probability) for probability in probabilities]


def test_a_release_that_fails_is_rolled_back_once_and_says_why(desk: WatchedRelease) -> None:
    desk.requests(2_000, desk.before, failed=10)
    desk.go_live()
    desk.requests(1_000, failed=5)
    assert desk.watcher.look() == 0
    desk.hour(8)
    desk.requests(100, failed=25)
    assert desk.watcher.look() == 1
    assert desk.answering() == desk.before
    (decision,) = desk.report.decisions("desk")
    assert (decision.decision, decision.measure, decision.to) == ("roll_back", "errors", desk.before)
    assert "failed requests: 2.7% of 1,100, at most 4.0%" in decision.sentence
    history = desk.store.releases.history(desk.scope, "desk")
    assert (history[-1].principal, history[-1].reason) == (WATCHER, decision.sentence)
    notices = [one.notification for one in desk.store.notifications.page(desk.scope, 0, 10)]
    assert [(one.kind, one.severity) for one in notices] == [("watch.roll.back", "critical")]
    # Another worker, and the release before failing as well: nothing goes further back or to and fro.
    desk.hour(0.1)
    desk.requests(100, desk.before, failed=60)
    assert desk.watcher.look() == 1
    assert desk.answering() == desk.before
    assert desk.report.decisions("desk")[0].decision == "hold"
    assert desk.watcher.look() == 0


@pytest.mark.parametrize("hours", [0.0, 7.0, 80.0])
def test_a_release_that_is_live_again_is_not_held_to_what_it_did_before(desk: WatchedRelease, hours: float) -> None:
    desk.go_live()
    desk.requests(300, failed=200)
    assert desk.watcher.look() == 1
    desk.go_live()
    assert desk.watcher.look() == 0
    desk.hour(hours)
    desk.requests(300, failed=1)
    assert desk.watcher.look() == 0
    assert desk.answering() == desk.live
    desk.requests(100, failed=80)
    assert desk.watcher.look() == 1


@pytest.mark.parametrize(("event", "measure"), [("late_first_byte", "first_byte"), ("late", "latency")])
def test_late_answers_roll_back(desk: WatchedRelease, event: str, measure: str) -> None:
    desk.go_live()
    desk.requests(300, **{event: 60})
    desk.watcher.look()
    assert desk.answering() == desk.before
    assert desk.report.decisions("desk")[0].measure == measure


def test_nothing_is_rolled_back_while_the_watch_is_off_or_a_dry_run(tmp_path: Path) -> None:
    for mode, decisions in (("off", []), ("tell", ["tell"])):
        made = WatchedRelease(tmp_path / mode, f'mode="{mode}"')
        made.go_live()
        made.requests(300, failed=200)
        made.watcher.look()
        assert made.answering() == made.live
        assert [one.decision for one in made.report.decisions("desk")] == decisions
        made.close()


def test_quality_and_calibration_are_held_against_the_rollout(desk: WatchedRelease, dice: random.Random) -> None:
    desk.outcomes(calibrated(dice, 400))
    desk.go_live()
    desk.outcomes(calibrated(dice, 600))
    assert desk.watcher.look() == 0
    lines = {line.name: line for line in desk.report.of_release(desk.live).measures}
    assert (lines["quality"].status, lines["quality"].units) == ("within", 600)
    assert lines["invalid"].status == "unmeasured"
    desk.hour(7)
    desk.outcomes([(0.9, False) for _ in range(40)])
    assert desk.watcher.look() == 1
    assert desk.answering() == desk.before
    assert desk.report.decisions("desk")[0].measure in ("quality", "calibration")


def test_a_predecessor_that_was_no_better_is_not_gone_back_to(desk: WatchedRelease) -> None:
    desk.watcher.look()
    desk.requests(500, desk.before, failed=100)
    desk.go_live()
    desk.requests(500, failed=100)
    assert desk.watcher.look() == 1
    assert desk.answering() == desk.live
    (decision,) = desk.report.decisions("desk")
    assert decision.decision == "hold"
    assert "before it was no better: 20.0% of 500" in decision.sentence


def test_a_freeze_stops_a_rollback_where_that_is_declared(tmp_path: Path) -> None:
    made = WatchedRelease(tmp_path, 'during_freeze="hold"')
    made.go_live()
    now = made.clock.now()
    made.store.run_holds.add(
        made.scope, RunHold("frz", "freeze", "frz", ("table-job",), now, now + timedelta(hours=9), "a launch", "ada")
    )
    made.requests(300, failed=200)
    made.watcher.look()
    assert made.answering() == made.live
    assert "The freeze frz lasts" in made.report.decisions("desk")[0].sentence
    made.close()


def test_a_release_that_has_been_live_for_long_is_told_of(tmp_path: Path) -> None:
    made = WatchedRelease(tmp_path, 'within="2d"')
    made.go_live()
    made.watcher.look()
    made.hour(72)
    made.requests(300, failed=200)
    made.watcher.look()
    assert (made.answering(), made.report.decisions("desk")[0].decision) == (made.live, "hold")
    made.close()


def test_outputs_that_drift_from_the_evaluation_are_held(desk: WatchedRelease, dice: random.Random) -> None:
    desk.answers([(dice.random(), dice.randrange(40)) for _ in range(300)], role="evaluation")
    desk.go_live()
    desk.answers([(dice.random(), dice.randrange(40)) for _ in range(300)])
    assert desk.watcher.look() == 0
    desk.answers([(0.95, dice.randrange(40)) for _ in range(150)])
    assert desk.watcher.look() == 1
    assert desk.report.decisions("desk")[0].measure == "outputs"
    assert desk.answering() == desk.live


@pytest.mark.parametrize("crash", [False, True])
def test_a_view_that_drifts_goes_back_to_the_snapshot_before(
    tmp_path: Path, dice: random.Random, crash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = WatchedRelease(tmp_path, view="roll_back")
    for snapshot in ("snap_1", "snap_2", "snap_3"):
        made.publish(snapshot)
    made.answers([(0.5, dice.randrange(40)) for _ in range(300)], role="evaluation")
    made.go_live()
    made.answers([(0.5, dice.randrange(40)) for _ in range(150)], snapshot="snap_1")
    assert made.watcher.look() == 0
    made.answers([(0.5, 4_000) for _ in range(60)], snapshot="snap_2")
    if crash:
        # Between the record of the decision and the flip.
        monkeypatch.setattr(ReleaseWatcher, "_finish", lambda self, decision: None)
        assert made.watcher.look() == 1
        assert made.views.moves == []
        assert [one.done_at for one in made.store.watches.pending(made.scope)] == [None]
        monkeypatch.undo()
        made.watcher.look()
    else:
        assert made.watcher.look() == 1
    assert made.views.moves == [("congestion", "snap_1")]
    (decision,) = made.report.decisions("desk")
    assert (decision.decision, decision.to, decision.since_snapshot) == ("roll_back", "snap_1", "snap_2")
    assert decision.done_at is not None
    assert made.store.watches.pending(made.scope) == ()
    made.watcher.look()
    assert len(made.views.moves) == 1
    made.close()
