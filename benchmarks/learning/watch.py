"""Live releases after their promotion: bad ones of four kinds, a view that drifts, and good ones over many weeks.

``python -m benchmarks.learning.watch [--size ci|demo|full] [--seed 1]``. Three parts:

- **bad**: a release turns bad some hours after its promotion, over a real catalog with the worker's watcher looking
  once a simulated minute: requests that fail, late first bytes, forecasts that are wrong by their outcomes (some of
  those that come are still of good answers), and answers that all say the same. Told: minutes until it was rolled back
  and people were notified. Its seeds are ``seed`` × 1,000 and up.
- **view**: a source begins to export cents; over the real feature platform. Told: answers until the view was back.
- **good**: weeks of a release that is as it was evaluated, with traffic by the hour and the weekday that grows, errors
  and late answers that come in waves, outcomes that come late, and features that follow the time of day. Looked at
  every hour, with every measure declared to roll back. Told: weeks with a rollback, with the exact 95 % interval.

What makes the rows draws from numpy alone and shares nothing with what judges them. A table, then one JSON line, kept
in ``benchmarks/results/watch.jsonl``; exit code 1 when a bad one was not caught or a good one more often than α.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from benchmarks.durability.kill_harness_command import finish
from scipy.stats import beta
from tests.harness.drifting_view import drifting_view
from tests.harness.outcomes import LATE
from tests.harness.watched_release import WatchedRelease
from tests.unit.catalog.examples import DEV, application, receipt

from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.catalog.releases.watches import MeasureEvidence
from antiphon.catalog.serving.receipt import FeatureReceipt, Receipt
from antiphon.definitions.watches import WATCHED, WatchSpec
from antiphon.learning.watching import evidence
from antiphon.learning.watching.ceilings import ReleaseHistory, ceilings_of, shares_of_alpha

SIZES = {"ci": (2, 100), "demo": (8, 300), "full": (25, 1_000)}
"""Runs of each bad kind, and good weeks."""

A_MINUTE = 60
_MOST_MINUTES = 900
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
_DESK = application(**LATE, features={"congestion": "v1"})
Draw = np.random.Generator


# --- Bad releases. Each writes one minute of what users get, before and after it has turned bad.


def _requests(desk: WatchedRelease, draw: Draw, failed: float, late: float) -> None:
    counted = {"failed": int(draw.binomial(A_MINUTE, failed)), "late_first_byte": int(draw.binomial(A_MINUTE, late))}
    desk.requests(int(draw.poisson(A_MINUTE)) + A_MINUTE, **{name: count for name, count in counted.items() if count})


def failing(desk: WatchedRelease, draw: Draw, bad: bool) -> None:
    _requests(desk, draw, 0.15 if bad else 0.01, 0.01)


def slow(desk: WatchedRelease, draw: Draw, bad: bool) -> None:
    _requests(desk, draw, 0.01, 0.20 if bad else 0.01)


def wrong(desk: WatchedRelease, draw: Draw, bad: bool) -> None:
    """Outcomes of answers of up to two hours ago: the forecast knows the truth, or no more than a coin does."""
    _requests(desk, draw, 0.01, 0.01)
    share = draw.random() if bad else 0.0  # Of the outcomes that come now, some are still of good answers.
    truth = draw.beta(0.6, 0.6, 20)
    late = draw.random(20) < truth
    said = np.where(draw.random(20) < share, draw.beta(0.6, 0.6, 20), truth)
    desk.outcomes([(float(one), bool(came)) for one, came in zip(said, late, strict=True)])


def same(desk: WatchedRelease, draw: Draw, bad: bool) -> None:
    """Answers that all say about the same, whatever is asked."""
    _requests(desk, draw, 0.01, 0.01)
    said = draw.normal(0.97, 0.01, 20).clip(0, 1) if bad else draw.random(20)
    desk.answers([(float(one), int(draw.integers(40))) for one in said])


KINDS: dict[str, Callable[[WatchedRelease, Draw, bool], None]] = {
    "errors": failing, "first byte": slow, "quality": wrong, "same answers": same,
}  # fmt: skip


def bad_release(folder: Path, minute: Callable[[WatchedRelease, Draw, bool], None], seed: int) -> tuple[int, bool, str]:
    """Minutes until it was rolled back (-1: never), whether people were told in that moment, and the measure."""
    draw = np.random.default_rng(seed)
    desk = WatchedRelease(folder, 'outputs="roll_back", calibration="roll_back"')
    desk.answers([(float(draw.random()), int(draw.integers(40))) for _ in range(400)], role="evaluation")
    truth = draw.beta(0.6, 0.6, 600)
    desk.outcomes([(float(one), bool(draw.random() < one)) for one in truth])
    desk.requests(2_000, desk.before, failed=20)
    desk.go_live()
    watcher, good = desk.watcher, int(draw.integers(30, 240))
    for number in range(good + _MOST_MINUTES):
        begun = desk.clock.now()
        minute(desk, draw, number >= good)
        desk.clock.advance(max(timedelta(0), timedelta(minutes=1) - (desk.clock.now() - begun)))
        if watcher.look() and desk.answering() == desk.before:
            notices = desk.store.notifications.page(desk.scope, 0, 100)
            told = any(one.notification.kind == "watch.roll.back" for one in notices)
            measure = desk.report.decisions("desk")[0].measure
            desk.close()
            return (number + 1 - good if number >= good else -2), told, measure
    desk.close()
    return -1, False, ""


def bad_kinds(runs: int, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, minute in KINDS.items():
        results = []
        for run in range(runs):
            with tempfile.TemporaryDirectory(prefix="antiphon-") as folder:
                results.append(bad_release(Path(folder) / "desk", minute, seed * 1_000 + run))
        minutes = [one for one, _, _ in results if one > 0]
        found[name] = {
            "runs": runs,
            "caught": len(minutes),
            "early": sum(one == -2 for one, _, _ in results),
            "told": sum(told for _, told, _ in results),
            "minutes": statistics.median(minutes) if minutes else None,
            "most_minutes": max(minutes, default=None),
            "by": sorted({measure for _, _, measure in results if measure}),
        }
    return found


# --- Good weeks.


def rate_of(hour: int, week: int) -> float:
    """Requests an hour: more by day and on weekdays, and more from week to week."""
    of_day = 1 + 0.8 * math.sin((hour % 24 - 9) * math.pi / 12)
    return 60 * of_day * (0.5 if hour // 24 % 7 >= 5 else 1.0) * (1 + 0.1 * (week % 10))


def good_answers(draw: Draw, at: datetime, count: int) -> Iterator[Receipt]:
    """Answers whose features and forecasts follow the time of day."""
    hour = at.hour + at.minute / 60
    for number in range(count):
        busy = draw.poisson(20 + 6 * math.sin((hour - 9) * math.pi / 12))
        said = float(draw.beta(1.5 + busy / 20, 3.0))
        seen = FeatureReceipt(
            "congestion.departures", int(busy), str(busy), "v1", f"s{at.day}{at.hour}", at, 1.0, "fresh"
        )
        yield receipt(
            f"p{number}", DEV, at, features=(seen,), classes={"late": {"late": said, "on time": 1 - said}}
        )  # fmt: skip


def good_outcomes(draw: Draw, at: datetime, count: int) -> list[OutcomeRecord]:
    """Outcomes that come now, of forecasts that are calibrated but for the time of day."""
    swing = 0.03 * math.sin((at.hour - 9) * math.pi / 12)
    said = draw.beta(1.5, 3.0, count)
    late = draw.random(count) < np.clip(said + swing, 0, 1)
    return [
        OutcomeRecord(
            f"o{number}", DEV, "desk", "label", "joined", "late" if late[number] else "on time", at, at, as_of=at,
            outcome="late", probabilities={"late": float(said[number])},
        )
        for number in range(count)
    ]  # fmt: skip


def good_week(watch: WatchSpec, week: int, seed: int) -> list[str]:
    """The measures that were decided in a week in which nothing is wrong."""
    draw, shape = np.random.default_rng([seed, week]), _DESK.shape
    assert shape is not None
    before = [MONDAY + timedelta(hours=int(hour)) for hour in draw.integers(0, 168, 500)]
    answers = [one for at in before for one in good_answers(draw, at, 1)]
    outcomes = [one for at in before for one in good_outcomes(draw, at, 2)]
    history = ReleaseHistory(_DESK, {}, None, answers, outcomes, {"congestion": "roll_back"})
    measures = ceilings_of(watch, history)
    bound = evidence.bound(watch.alpha, shares_of_alpha(watch, {"congestion": "roll_back"}))
    decided: list[str] = []
    arriving: dict[int, int] = {}
    counts: dict[str, dict[str, tuple[float, float]]] = {"errors": {}, "invalid": {}, "first_byte": {}, "latency": {}}
    wave = float(draw.uniform(0, 2 * math.pi))
    for hour in range(168):
        at, total = MONDAY + timedelta(hours=hour), int(draw.poisson(rate_of(hour, week)))
        for delay in (draw.lognormal(1.0, 0.8, max(total // 3, 0))).astype(int):
            arriving[hour + int(delay)] = arriving.get(hour + int(delay), 0) + 1
        for name, blocks in counts.items():
            # Waves that stay below what is allowed: 0.5 to 3.5 % of 4, of invalid answers of 5.
            share = 0.02 + 0.015 * math.sin(2 * math.pi * hour / 31 + wave)
            blocks[evidence.block_of(at, evidence.COUNTED)] = (float(draw.binomial(total, share)), float(total))
            measures[name] = evidence.with_counts(measures[name], blocks, MONDAY)
        new = good_outcomes(draw, at, arriving.pop(hour, 0))
        for name in ("quality", "calibration"):
            measures[name] = evidence.with_outcomes(measures[name], new, shape)
        sampled = list(good_answers(draw, at, min(total, 20)))
        for name in ("outputs", "view:congestion"):
            measures[name] = evidence.with_answers(measures[name], sampled, _DESK)
        decided += [name for name, one in measures.items() if name not in decided and _crossed(one, bound)]
    return decided


def _crossed(measure: MeasureEvidence, bound: float) -> bool:
    return measure.evidence >= bound


def good_weeks(weeks: int, seed: int) -> dict[str, Any]:
    watch, found = msgspec.structs.replace(WatchSpec("desk"), **dict.fromkeys(WATCHED, "roll_back")), []
    for week in range(weeks):
        found.append(good_week(watch, week, seed))
    wrong_weeks = sum(bool(one) for one in found)
    low, high = exact(wrong_weeks, weeks)
    return {
        "weeks": weeks, "alpha": watch.alpha, "false_rollbacks": wrong_weeks, "share": wrong_weeks / weeks,
        "low": low, "high": high, "by": sorted({name for one in found for name in one}),
    }  # fmt: skip


def exact(events: int, of: int) -> tuple[float, float]:
    """The 95 % interval of Clopper and Pearson."""
    low = 0.0 if events == 0 else float(beta.ppf(0.025, events, of - events + 1))
    return low, 1.0 if events == of else float(beta.ppf(0.975, events + 1, of - events))


async def drifted() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="antiphon-") as folder, drifting_view(Path(folder), "roll_back") as view:
        result = await view.run()
    back = result.snapshots[2] == result.snapshots[0] == result.snapshots[3] != result.snapshots[1]
    return {"answers": result.answers, "seconds": round(result.seconds, 2), "back": back and result.held}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    (runs, weeks), began = SIZES[options.size], time.monotonic()
    bad = bad_kinds(runs, options.seed)
    print(f"{'a live release turns bad':28}{'caught':>10}{'told':>8}{'minutes, middle':>18}{'most':>8}   by")
    for name, one in bad.items():
        shown = f"{one['caught']} of {one['runs']}"
        minutes, most = one["minutes"] or 0, one["most_minutes"] or 0
        print(f"{name:28}{shown:>10}{one['told']:>8}{minutes:>18.0f}{most:>8}   {one['by']}")
    view = asyncio.run(drifted())
    print(f"{'a view turns bad':28}back: {view['back']}, after {view['answers']} answers, in {view['seconds']} s")
    good = good_weeks(weeks, options.seed)
    print(
        f"{'good weeks':28}{good['false_rollbacks']} of {good['weeks']} rolled back ({good['share']:.2%}, 95 % "
        f"{good['low']:.2%} to {good['high']:.2%}; α {good['alpha']:.0%}) {good['by']}"
    )
    holds = (
        all(one["caught"] == one["told"] == one["runs"] for one in bad.values())
        and view["back"]
        and good["share"] <= good["alpha"]
    )
    line = {
        "benchmark": "watch", "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": options.size,
        "seed": options.seed, "bad": bad, "view": view, "good": good,
        "seconds": round(time.monotonic() - began, 1), "holds": bool(holds),
    }  # fmt: skip
    return finish("watch", line, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
