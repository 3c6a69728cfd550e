"""Time to the first shown sentence with guards and without, by turns in one run, and adversarial texts.

A support desk's free text and an extraction's object are streamed from an engine that writes at a pace of its own: a
prefill, then a token at a time. The unguarded side counts the moment at which the first sentence, or property, is all
there; the guarded one the moment at which it is shown. Then texts with planted violations (``tests/harness``) are
streamed through every kind of guard, and characters of violations that were shown are counted.

    python -m benchmarks.guards [--size ci|demo|full] [--keep]

A table, then one JSON line, kept in ``benchmarks/results/guards.jsonl`` with ``--keep``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from tests.harness import adversarial_runs
from tests.harness.adversarial_texts import MODULE
from tests.harness.small_desk import DESK, SmallDesk

from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.guards import ContentGuard, FigureGuard, FunctionGuard, GroundedGuard, PatternGuard, PIIGuard
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import Answer
from antiphon.serving.user_functions import UserFunctions
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

RESULTS = Path(__file__).parent / "results" / "guards.jsonl"
GOAL = 1.3
SIZES = {"ci": (10, 500), "demo": (40, 2_000), "full": (150, 10_000)}
"""Answers of each side, and adversarial runs."""

PREFILL, TOKEN = 0.15, 0.02
"""Seconds, about those of a small model on a processor."""

REPLY = (
    "Thank you for writing to us about flight B6 1 today. Departures at JFK now run with a delay of 25 minutes. "
    "The wind at the airport is calm. We will write again when anything changes. Please wait at the gate until then."
)
EXTRACT = json.dumps(
    {
        "customer": "A passenger of flight B6 1 who waits at the gate",
        "notice": "Departures at JFK now run with a delay of 25 minutes.",
        "wish": "The passenger asks to be told when anything changes at the airport.",
    }
)
DOCUMENTS = (
    "Thank passengers for writing about a flight today. Tell them of departures that run with a delay, and of calm "
    "wind at the airport. Write again when anything changes, and ask them to please wait at the gate until then.",
)


class PacedEngine(ScriptedEngine):
    """A scripted engine that writes at a pace."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        """See :class:`ScriptedEngine`."""
        await asyncio.sleep(PREFILL)
        async with aclosing(super().generate(request)) as events:
            async for event in events:
                yield event
                await asyncio.sleep(TOKEN)


def applications(structured: bool) -> dict[str, ApplicationSpec]:
    """The two sides of a comparison."""
    properties = {"customer": {"type": "string"}, "notice": {"type": "string"}, "wish": {"type": "string"}}
    schema = json.dumps({"type": "object", "properties": properties, "required": list(properties)})
    never = Reuse(mode="never", identical_prompts=False)
    plain = msgspec.structs.replace(DESK, output_schema=None, classes=(), guards=(), reuse=never)
    guards = (
        FigureGuard("notice" if structured else ""),
        PIIGuard(),
        ContentGuard(forbidden=("refund", "compensation", "guarantee")),
        PatternGuard(pattern=r"INT-\d{4}"),
        GroundedGuard("notice" if structured else "", share=0.3, documents=DOCUMENTS),
        FunctionGuard(function=f"{MODULE}:no_secret"),
    )
    return {
        "unguarded": plain,
        "guarded": msgspec.structs.replace(plain, guards=guards, output_schema=schema if structured else None),
    }


async def first_shown(desk: SmallDesk, first: str) -> tuple[float, float]:
    """Seconds until the first sentence or property was shown, and until the end."""
    began, shown, at = time.perf_counter(), "", 0.0
    async with aclosing(desk.answerer.stream(desk.request())) as events:
        async for event in events:
            if not isinstance(event, Answer):
                shown += event.text
                at = at or (time.perf_counter() - began if shown.startswith(first) else 0.0)
    return at, time.perf_counter() - began


async def compare(folder: Path, answers: int, *, structured: bool) -> dict[str, Any]:
    """Both sides by turns, in alternating order."""
    text = EXTRACT if structured else REPLY
    first = text[: text.index('",') + 1] if structured else text[: text.index(". ") + 1]
    seconds: dict[str, list[float]] = {"unguarded": [], "guarded": []}
    wholes: dict[str, list[float]] = {"unguarded": [], "guarded": []}
    desks = {}
    for side, application in applications(structured).items():
        place = folder / side
        place.mkdir()
        desk = SmallDesk(place, PacedEngine([ScriptedGeneration(text)]), application)
        services = msgspec.structs.replace(desk.services, guard_functions=UserFunctions((MODULE,)))
        desk.answerer = Answerer(services)
        desks[side] = desk
        await first_shown(desk, first)  # what is imported and compiled once
    for turn in range(answers):
        for side in ("unguarded", "guarded") if turn % 2 == 0 else ("guarded", "unguarded"):
            shown, whole = await first_shown(desks[side], first)
            seconds[side].append(shown)
            wholes[side].append(whole)
    for desk in desks.values():
        desk.close()
    medians = {side: statistics.median(taken) for side, taken in seconds.items()}
    ratios = [guarded / bare for guarded, bare in zip(seconds["guarded"], seconds["unguarded"], strict=True)]
    return {
        "answers": answers,
        "unguarded_seconds": round(medians["unguarded"], 4),
        "guarded_seconds": round(medians["guarded"], 4),
        "whole_seconds": round(statistics.median(wholes["guarded"]), 4),
        "ratio": round(medians["guarded"] / medians["unguarded"], 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


async def measure(size: str, seed: int) -> dict[str, Any]:
    """Every figure of the benchmark."""
    answers, runs = SIZES[size]
    figures: dict[str, Any] = {}
    for name, structured in (("sentences", False), ("properties", True)):
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = await compare(Path(folder), answers, structured=structured)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = await adversarial_runs.run(Path(folder), runs, seed)
        figures["adversarial"] = msgspec.to_builtins(found) | {"seconds": round(time.perf_counter() - began, 1)}
    return figures


def main() -> int:
    """Measure, print, keep; returns 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.size, options.seed))
    adversarial = figures["adversarial"]
    for name in ("sentences", "properties"):
        row = figures[name]
        low, high = row["ratio_range"]
        print(
            f"{name:<12} shown {row['guarded_seconds']:.3f} s guarded, {row['unguarded_seconds']:.3f} s unguarded, "
            f"{row['ratio']:.3f} × (turns {low:.2f} to {high:.2f}); all of it {row['whole_seconds']:.3f} s"
        )
    print(
        f"{'adversarial':<12} {adversarial['runs']} runs: {adversarial['unguarded']} unguarded characters shown, "
        f"{adversarial['differing']} texts differ from their pieces, {adversarial['early']} shown in parts, "
        f"ends {adversarial['ends']}"
    )
    met = {
        "first_sentence": all(figures[name]["ratio"] <= GOAL for name in ("sentences", "properties")),
        "unguarded": adversarial["unguarded"] == 0 and adversarial["differing"] == 0,
    }
    line = json.dumps(
        {
            "benchmark": "guards",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "size": options.size,
            "seed": options.seed,
            "load": round(os.getloadavg()[0], 1),
            **figures,
            "met": met,
        }
    )
    if options.keep:
        with RESULTS.open("a") as kept:
            kept.write(line + "\n")
    print(line)
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
