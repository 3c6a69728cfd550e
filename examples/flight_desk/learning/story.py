"""The story of learning, phase by phase, against a platform of its own.

What the desk learns from, the gates, shadow and canary are declared in ``definitions.py``. Everything a person would do
is done as a person would: by the command line and over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from examples.flight_desk import data, host
from examples.flight_desk.data import Events
from examples.flight_desk.desk_client import Desk, Platform
from examples.flight_desk.host import Say
from examples.flight_desk.learning.traffic import APPLICATION, Traffic
from examples.flight_desk.plan import UNPLANNED, Schedule
from examples.flight_desk.settings import LearningSize, Settings

LEFT_BEHIND = 3
"""Questions whose shadow answers need not have come when the next passengers ask."""
DECISION_SECONDS = 20.0
"""How long a decision is waited for once the last passenger has asked."""


class Phase(msgspec.Struct, frozen=True):
    """One part of the story: what was done, how long it took, and what came of it."""

    name: str
    seconds: float
    found: dict[str, Any]


class Story(msgspec.Struct, frozen=True):
    """What happened: the phases in order, and what became of the outcomes."""

    phases: tuple[Phase, ...]
    outcomes: dict[str, int]

    def found(self, name: str) -> dict[str, Any]:
        """What came of the phase of this name; nothing when it was left out."""
        return next((phase.found for phase in self.phases if phase.name == name), {})

    @property
    def judged(self) -> dict[str, list[dict[str, Any]]]:
        """The judgements of each rollout, by the phase it belongs to."""
        return {phase.name: phase.found["judgements"] for phase in self.phases if phase.found.get("judgements")}


def prepare(folder: Path, settings: Settings, events: Events) -> Path:
    """The story's project: history until its start, flights' outcomes included.

    Raises:
        OSError: it cannot be written.
    """
    declared = settings.learning
    start = settings.local(declared.start, "00:00")
    project = host.prepare(folder, events, start)
    outcomes = project / "sources" / "outcomes.parquet"
    if not outcomes.exists():
        data.write_outcomes(events, settings, start, outcomes, first=declared.history_first, last=declared.start)
    return project


async def run(project: Path, *words: str, say: Say | None = None) -> Any:
    """Run a command of ``antiphon`` in a project; what it says as JSON."""
    return json.loads(await host.command(*words, "--json", "--project", str(project), timeout=7_200.0, say=say))


async def live_release(project: Path) -> str:
    """The release that answers."""
    listed = await run(project, "releases", "list", APPLICATION)
    return str(next(one["release"] for one in listed if one["stage"] == "live"))


@dataclass
class Teller:
    """Tells the story once. ``project`` is prepared, ``platform`` runs on it."""

    settings: Settings
    size: LearningSize
    events: Events
    project: Path
    platform: Platform
    say: Say
    schedule: Schedule = UNPLANNED
    _phases: list[Phase] = field(default_factory=list)

    async def tell(self) -> Story:
        """Every phase, in order.

        Raises:
            CommandError: a command failed.
        """
        size = self.size
        async with Desk(self.platform) as desk:
            traffic = Traffic(self.settings, size, self.events, desk)
            await desk.refresh(traffic.now)
            history = (size.train_examples, "fine-tuned on history", "--cutoff", traffic.now.isoformat())
            await self._phase("train on history", self._train(*history))
            await self._phase("first release", self._release_trained(desk, traffic))
            if size.learns_again and self.schedule.in_time(self.say):
                await self._phase("collect outcomes", self._collect(traffic))
                dawn = self._dawn_after(traffic)
                new = (size.delta_examples, "learned from outcomes", "--delta", "--cutoff", dawn)
                await self._phase("learn from outcomes", self._train(*new))
                await self._phase("second release", self._release_trained(desk, traffic))
            await self._phase("bad release", self._bad_release(desk, traffic))
            await self._phase("roll back and forth", self._flip(traffic))
            return Story(tuple(self._phases), dict(traffic.statuses))

    async def _phase(self, name: str, work: Awaitable[dict[str, Any]]) -> None:
        self.schedule.begin(name, self.say)
        started = time.monotonic()
        found = await work
        self._phases.append(Phase(name, time.monotonic() - started, found))

    async def _train(self, examples: int, reason: str, *options: str) -> dict[str, Any]:
        """Train, evaluate, hold against the gates; what passes them begins its rollout."""
        found: dict[str, Any] = await run(
            self.project, "train", APPLICATION, *options, "--examples", str(examples), "--rows",
            str(self.size.gate_rows), "--texts", str(self.size.gate_texts), "--rollout", "--reason", reason,
            say=self.say,
        )  # fmt: skip
        auc, brier = found["metrics"].get("auc"), found["metrics"].get("brier")
        self.say(
            f"{found['model']}: trained {found['seconds']:.0f} s on {found['examples']['new']} new examples and"
            f" {found['examples']['replayed']} earlier ones; AUC {_interval(auc)}, Brier {_interval(brier)};"
            f" {found['stage']}"
        )
        for reason in found["reasons"]:
            self.say(f"not passed: {reason}")
        return found

    async def _release_trained(self, desk: Desk, traffic: Traffic) -> dict[str, Any]:
        """Follow what was trained last on its way. The story goes on past a gate that was not passed, and says so."""
        trained, most = self._phases[-1].found, self.size.rollout_questions
        if trained["rollout"] is not None:
            return await self._follow(desk, traffic, trained["rollout"], most)
        self.say("a desk in earnest would stop here; the story goes on with --force")
        reason = f"past its gates, for the story: {'; '.join(trained['reasons']) or trained['no_rollout']}"
        return await self._force(desk, traffic, trained["release"], most, reason)

    async def _force(self, desk: Desk, traffic: Traffic, release: str, most: int, reason: str) -> dict[str, Any]:
        begun = await run(self.project, "releases", "rollout", release, "--force", "--reason", reason)
        return await self._follow(desk, traffic, begun["rollout"], most)

    async def _follow(self, desk: Desk, traffic: Traffic, name: str, most: int) -> dict[str, Any]:
        """Let passengers ask until the judge has decided about a rollout."""
        before = traffic.asked

        def has_ended(found: dict[str, Any]) -> bool:
            return found["rollout"]["ended_at"] is not None

        def has_caught_up(found: dict[str, Any]) -> bool:
            # Shadow answers wait for an idle engine. These passengers leave no pause between them; real ones do.
            mirrored = found["pairs"]["pairs"] >= traffic.asked - before - LEFT_BEHIND
            return bool(mirrored or found["rollout"]["state"] != "shadow")

        async def is_decided() -> bool:
            return has_ended(await _standing(desk, name, has_caught_up))

        asked = await traffic.ask(name, most, is_decided)
        await traffic.close_day()
        standing = await _standing(desk, name, has_ended)
        rollout, judgements = standing["rollout"], standing["judgements"]
        said = judgements[-1]["sentence"] if judgements else rollout["reason"]
        self.say(f"{rollout['state']} after {len(asked)} questions: {said}")
        if not has_ended(standing):
            await run(self.project, "releases", "abort", APPLICATION, "--reason", "the story's passengers are used up")
        return {
            "release": rollout["candidate"],
            "control": rollout["control"],
            "state": rollout["state"],
            "questions": len(asked),
            "judgements": judgements,
        }

    async def _collect(self, traffic: Traffic) -> dict[str, Any]:
        asked = len(await traffic.ask("collect", self.size.collected_questions))
        # By the next dawn only what was asked the day before has matured: a rollout decided early leaves nothing.
        while traffic.days < 2:
            asked += len(await traffic.ask("collect", 1))
        await traffic.close_day()
        return {"questions": asked, "outcomes": dict(traffic.statuses)}

    async def _bad_release(self, desk: Desk, traffic: Traffic) -> dict[str, Any]:
        """A prompt that mixes up two figures, sent past its gates by somebody in a hurry."""
        definitions = self.project / "definitions.py"
        good = definitions.read_text(encoding="utf-8")
        definitions.write_text(_broken(good), encoding="utf-8")
        try:
            made = (await run(self.project, "apply", "--no-activate"))["releases"]
            release = next(one["id"] for one in made if one["bundle"]["application"]["name"] == APPLICATION)
            return await self._force(desk, traffic, release, self.size.bad_questions, "another prompt, in a hurry")
        finally:
            definitions.write_text(good, encoding="utf-8")

    async def _flip(self, traffic: Traffic) -> dict[str, Any]:
        """Back to the release before and forth again while passengers ask."""
        before, half = await live_release(self.project), self.size.flip_questions // 2
        asked, _ = await asyncio.gather(
            traffic.ask("rolled back", half),
            run(self.project, "rollback", APPLICATION, "--reason", "to see that it can be done"),
        )
        again, _ = await asyncio.gather(
            traffic.ask("live again", half),
            run(self.project, "releases", "activate", APPLICATION, before, "--reason", "and back"),
        )
        told = asked + again
        return {
            "questions": len(told),
            "failed": sum(bool(answer.error) for answer in told),
            "answered_by": dict(Counter(str(answer.release) for answer in told)),
        }

    def _dawn_after(self, traffic: Traffic) -> str:
        """The next dawn, as event time: everything asked the day before has matured by then."""
        today = traffic.now.astimezone(ZoneInfo(self.settings.zone)).date()
        return self.settings.local(today + timedelta(days=1), self.settings.dawn).isoformat()


async def _standing(desk: Desk, rollout: str, enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """A rollout once it is as wanted, or as it stands after some seconds."""
    deadline = time.monotonic() + DECISION_SECONDS
    while not enough(found := await desk.rollout(rollout)) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    return found


def _broken(definitions: str) -> str:
    """The definitions with delay and wind mixed up in the prompt, and no shadow: figures in the wrong role."""
    delay, wind = "features.congestion.delay_2h", "features.weather.wind"
    mixed = f"TUNED = '{delay}'.join(part.replace('{delay}', '{wind}') for part in TUNED.split('{wind}'))\n"
    hurried = definitions.replace("shadow=1.0, shadow_pairs=25, ", "", 1)
    return hurried.replace("NOTICE = ", f"{mixed}NOTICE = ", 1)


def _interval(measure: dict[str, float] | None) -> str:
    return "none" if measure is None else f"{measure['value']:.3f} [{measure['low']:.3f}, {measure['high']:.3f}]"
