"""What learning is worth on the flight desk: fine-tuning, fresh features, and delta beside full retraining.

One platform of its own, three trainings by the command line: a first version on what was known on the 4th of March;
then, with what was known on the 1st of April, once only what is new, going on from that version and replaying some
earlier examples (*delta*), and once everything from the base weights (*full*). All are then asked about the same
declared sample of April's flights through the function that serves, beside the untuned model, the full one with the
features of dawn, a logistic regression and the base rate on identical rows; and the untuned and the full one for whole
notices. *Forgetting* is measured by the delta's own run: on the week that was held out to evaluate the first version,
before and after.

The share of the gain is (delta − from) / (full − from) in AUC, once from the first version and once from the untuned
model, with an interval from a bootstrap by flight. It says little when the full retraining's own gain is not shown.

A run that was stopped goes on where it was, as long as declarations and sizes are the same; ``--fresh`` begins anew.

    python -m benchmarks.flight_desk.outlook [--size ci|demo|full] [--fresh]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy
from examples.flight_desk import data, host, settings, truth
from examples.flight_desk.learning import measure, story
from examples.flight_desk.learning.traffic import APPLICATION
from examples.flight_desk.run import OUT, Steps

from antiphon.learning.evaluation import metrics
from antiphon.learning.evaluation.metrics import LabelForecasts

RESULTS = Path(__file__).parents[1] / "results"
FIRST_CUTOFF, CUTOFF = "2013-03-04T05:00:00Z", "2013-04-01T04:00:00Z"
FIRST, DELTA, FULL = "first version", "delta", measure.TUNED
ROUNDS = 2_000


class Sizes(msgspec.Struct, frozen=True):
    """Examples of the first version and new ones of the delta (the full retraining has both), and what is measured."""

    first: int
    new: int
    flights: int
    notices: int
    gate_rows: int


SIZES = {
    "ci": Sizes(first=64, new=32, flights=40, notices=8, gate_rows=20),
    "demo": Sizes(first=640, new=240, flights=300, notices=60, gate_rows=100),
    "full": Sizes(first=1_600, new=400, flights=1_000, notices=200, gate_rows=100),
}


def main(arguments: list[str] | None = None) -> int:
    """Train thrice, ask, compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="demo")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run that was stopped")
    options = parser.parse_args(arguments)
    folder = OUT / "outlook" / options.size
    if options.fresh or not host.same_declaration(folder):
        host.forget(folder)
        host.same_declaration(folder)
    found = run(SIZES[options.size], folder, Steps())
    line = {
        "benchmark": "outlook", "size": options.size, "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(), "declared": msgspec.to_builtins(SIZES[options.size]), **found,
    }  # fmt: skip
    print(table(found))
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "outlook.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line))
    return 0


def run(sizes: Sizes, folder: Path, say: host.Say) -> dict[str, Any]:
    """The three trainings and what they came to."""
    declared = settings.load()
    events = data.prepare(OUT / "events", declared.sources, declared.zone)
    project = story.prepare(folder, declared, events)
    # Both trainings of the 1st of April may learn from the same days: only a day is held out.
    definitions = project / "definitions.py"
    text = definitions.read_text(encoding="utf-8")
    definitions.write_text(text.replace('embargo="14d"', 'embargo="1d"', 1), encoding="utf-8")
    kept = _Kept(folder / f"{sizes.first}-{sizes.new}-{sizes.gate_rows}.json")
    with host.running(project, say):
        untuned = kept.once("untuned", lambda: {"release": asyncio.run(story.live_release(project))})["release"]
        trained = {FIRST: kept.once(FIRST, lambda: _train(project, say, FIRST_CUTOFF, sizes.first, sizes))}
        kept.once("first live", lambda: _activate(project, trained[FIRST]))
        trained[DELTA] = kept.once(DELTA, lambda: _train(project, say, CUTOFF, sizes.new, sizes, "--delta"))
        # What is live, what was before and the newest draft are served: so all three are when they are asked.
        kept.once("delta live", lambda: _activate(project, trained[DELTA]))
        trained[FULL] = kept.once(FULL, lambda: _train(project, say, CUTOFF, sizes.first + sizes.new, sizes))
        flights = measure.sample(declared, sizes.flights, events)
        subjects = [
            measure.Subject(measure.UNTUNED, untuned, notices=sizes.notices),
            measure.Subject(FULL, trained[FULL]["release"], notices=sizes.notices),
            measure.Subject(measure.DAWN, trained[FULL]["release"], dawn=True),
            *(measure.Subject(name, trained[name]["release"]) for name in (FIRST, DELTA)),
        ]
        asked = asyncio.run(measure.ask(project, declared, events, flights, subjects, say))
    late = measure.lateness(flights, declared)
    forecasts = {name: one.forecasts for name, one in asked.items()}
    measured = measure.compare(declared, flights, events, truth.read(events), asked)
    return {
        "flights": len(flights),
        "late": measured.late,
        "forecasters": {one.name: msgspec.to_builtins(one) for one in measured.forecasters},
        "differences": msgspec.to_builtins(measured.differences),
        "notices": msgspec.to_builtins(measured.notices),
        "versions": {name: _version(trained[name], forecasts[name], late, declared.seed) for name in trained},
        "gain_of_full": _difference(forecasts, FULL, FIRST, late, declared.seed),
        "gain_of_delta": _difference(forecasts, DELTA, FIRST, late, declared.seed),
        "share_of_gain": share_of_gain(forecasts, late, declared.seed),
        "share_of_gain_over_untuned": share_of_gain(forecasts, late, declared.seed, over=measure.UNTUNED),
        "share_of_time": round(trained[DELTA]["seconds"] / trained[FULL]["seconds"], 3),
        "forgetting": trained[DELTA]["forgetting"],
    }


class _Kept:
    """What was done already, so that a run that was stopped goes on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._done: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def once(self, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What doing it gave, now or in an earlier run."""
        if name not in self._done:
            self._done[name] = do()
            draft = self._file.with_suffix(".partial")
            draft.write_text(json.dumps(self._done), encoding="utf-8")
            draft.replace(self._file)
        found: dict[str, Any] = self._done[name]
        return found


def share_of_gain(forecasts: Mapping[str, Any], late: Any, seed: int, *, over: str = FIRST) -> dict[str, float]:
    """(delta − over) / (full − over) in AUC; the interval over resamples in which the full retraining gains."""
    drawn = numpy.random.default_rng(seed)
    read = {name: LabelForecasts.yes_or_no(forecasts[name], late, "late") for name in (over, DELTA, FULL)}
    shares = []
    for places in (numpy.arange(len(late)), *(drawn.integers(0, len(late), len(late)) for _ in range(ROUNDS))):
        first, delta, full = (metrics.LABEL_METRICS["auc"].of(read[name].at(places)) for name in (over, DELTA, FULL))
        shares.append((delta - first) / (full - first) if full > first else float("nan"))
    sampled = numpy.array(shares[1:])
    known = sampled[~numpy.isnan(sampled)]
    low, high = numpy.percentile(known, (2.5, 97.5)) if len(known) else (float("nan"), float("nan"))
    return {
        "value": _rounded(shares[0]),
        "low": _rounded(low),
        "high": _rounded(high),
        "resamples_with_a_gain": round(len(known) / ROUNDS, 3),
    }


def table(found: Mapping[str, Any]) -> str:
    """Forecasters, versions, then what is compared, as aligned text."""
    lines = [f"{found['flights']} flights, {found['late']:.0%} late: AUC and Brier score [95 %]"]
    for name, one in found["forecasters"].items():
        lines.append(f"{name:<28}{_words(one['auc'])}  {_words(one['brier'])}")
    lines += [f"{words} in AUC: {_words(one)}" for words, one in found["differences"].items()]
    lines += [
        f"{one['name']}: the guard stepped in for {one['guarded']:.0f} of 1,000 notices ({one['notices']} written),"
        f" {one['false']:.0f} per 1,000 false"
        for one in found["notices"]
    ]
    lines += ["", f"{'version':<16}{'new':>6}{'earlier':>9}{'trained':>10}{'in all':>9}  AUC [95 %]            Brier"]
    for name, one in found["versions"].items():
        lines.append(
            f"{name:<16}{one['new']:>6}{one['replayed']:>9}{one['seconds']:>8.0f} s{one['wall_seconds']:>7.0f} s"
            f"  {_words(one['auc'])}  {one['brier']['value']:.3f}"
        )
    lines += [
        f"gain of full retraining in AUC: {_words(found['gain_of_full'])}; of delta: {_words(found['gain_of_delta'])}",
        *(
            f"delta: {share['value']} [{share['low']}, {share['high']}] of the gain over {over}"
            f" ({share['resamples_with_a_gain']:.0%} of resamples have one)"
            for over, share in (
                ("the first version", found["share_of_gain"]),
                ("the untuned model", found["share_of_gain_over_untuned"]),
            )
        ),
        f"in {found['share_of_time']:.0%} of the full retraining's time",
    ]
    forgetting = found["forgetting"]
    if forgetting:
        before, after = forgetting["before"], forgetting["after"]
        lines.append(
            f"on the week held out before: AUC {_words(before['auc'])} before, {_words(after['auc'])} after;"
            f" Brier {before['brier']['value']:.3f} before, {after['brier']['value']:.3f} after"
        )
    return "\n".join(lines)


def _activate(project: Path, trained: Mapping[str, Any]) -> dict[str, Any]:
    words = ("releases", "activate", APPLICATION, trained["release"], "--force", "--reason", "to go on")
    asyncio.run(story.run(project, *words))
    return {"release": trained["release"]}


def _train(project: Path, say: host.Say, cutoff: str, examples: int, sizes: Sizes, *more: str) -> dict[str, Any]:
    say(f"training {' '.join(more) or 'in full'} on {examples} examples until {cutoff}")
    began = time.monotonic()
    order = ("--cutoff", cutoff, "--examples", str(examples), "--rows", str(sizes.gate_rows), "--texts", "1", *more)
    found = asyncio.run(story.run(project, "train", APPLICATION, *order, say=say))
    return {**found, "wall_seconds": time.monotonic() - began}


def _version(trained: Mapping[str, Any], forecasts: Any, late: Any, seed: int) -> dict[str, Any]:
    found = metrics.intervals(LabelForecasts.yes_or_no(forecasts, late, "late"), resamples=ROUNDS, seed=seed)
    return {
        "new": trained["examples"]["new"],
        "replayed": trained["examples"]["replayed"],
        "seconds": round(trained["seconds"], 1),
        "wall_seconds": round(trained["wall_seconds"], 1),
        "auc": msgspec.to_builtins(found["auc"]),
        "brier": msgspec.to_builtins(found["brier"]),
    }


def _difference(forecasts: Mapping[str, Any], one: str, other: str, late: Any, seed: int) -> dict[str, float]:
    first, second = (LabelForecasts.yes_or_no(forecasts[name], late, "late") for name in (one, other))
    return msgspec.to_builtins(metrics.differences(first, second, resamples=ROUNDS, seed=seed)["auc"])


def _words(measure: Mapping[str, float] | None) -> str:
    return "none" if measure is None else f"{measure['value']:+.3f} [{measure['low']:+.3f}, {measure['high']:+.3f}]"


def _rounded(value: float) -> float | None:
    return None if numpy.isnan(value) else round(float(value), 3)


if __name__ == "__main__":
    sys.exit(main())
