"""Tells the story of learning from beginning to end, and keeps what came of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from antiphon.app.wiring import open_learning
from antiphon.catalog.releases.evidence import Judgements
from antiphon.catalog.releases.rollouts import Judgement
from examples.flight_desk import data, host, truth
from examples.flight_desk.host import Say
from examples.flight_desk.learning import measure, report, story
from examples.flight_desk.learning.schedule import UNPLANNED, Schedule
from examples.flight_desk.settings import Settings


def tell(out: Path, size_name: str, settings: Settings, say: Say, schedule: Schedule = UNPLANNED) -> dict[str, Any]:
    """Run the story of this size in a folder of its own; prints a table, writes ``learning.html``.

    The story is told anew each time: its releases and rollouts are its own, so an earlier one's are removed.

    Args:
        schedule: how long each phase was predicted to take, and what is left out when too little time is left.
    """
    size = settings.learning.size(size_name)
    events = data.prepare(out / "events", settings.sources, settings.zone)
    folder = out / size_name / "learning"
    host.forget(folder)
    started = time.monotonic()
    project = story.prepare(folder, settings, events)
    with host.running(project, say) as platform:
        told = asyncio.run(story.Teller(settings, size, events, project, platform, say, schedule).tell())
        before = time.monotonic()
        schedule.begin("measurement", say)
        releases = {
            measure.UNTUNED: str(told.phase("first release").found["control"]),
            measure.TUNED: str(told.phase("first release").found["release"]),
        }
        if told.has("second release"):
            releases[measure.LEARNED] = str(told.phase("second release").found["release"])
        measured = asyncio.run(
            measure.measure(project, settings, size, events, truth.read(events), releases, say)
        )  # fmt: skip
        say(f"measured in {time.monotonic() - before:.0f} s")
        judged = asyncio.run(_judgements(project, told))
    everything = report.Told(told, measured, judged)
    page = folder / "learning.html"
    report.write(everything, page)
    print(f"\n{report.table(everything)}\n")
    for sentence in report.verdict(everything):
        print(sentence)
    print(f"\nreport: {page}")
    return {**report.summary(everything), "wall_seconds": round(time.monotonic() - started, 1), "report": str(page)}


async def _judgements(project: Path, told: story.Story) -> dict[str, tuple[Judgement, ...]]:
    """What the judge said of each rollout, by its phase."""
    async with open_learning(project) as (_, store):
        judgements = Judgements(store.database)
        return {
            phase.name: tuple(judgements.of(store.scope, str(phase.found["rollout"])))
            for phase in told.phases
            if "rollout" in phase.found and "state" in phase.found
        }
