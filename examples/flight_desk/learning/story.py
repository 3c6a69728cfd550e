"""The story of learning, phase by phase, against a platform of its own.

Everything a person would do is done as a person would: by the command line and over HTTP. Only the measurement at the
end (the same flights of all April asked with fresh and with dawn features) reads what no desk would have known.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from antiphon.core.errors import AntiphonError
from examples.flight_desk import data, host
from examples.flight_desk.data import Events
from examples.flight_desk.desk_client import Desk
from examples.flight_desk.host import Platform, Say
from examples.flight_desk.learning.schedule import UNPLANNED, Schedule
from examples.flight_desk.learning.traffic import APPLICATION, Traffic, span
from examples.flight_desk.records import Answered
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
    """What happened: the phases in order, every answer, what became of the outcomes."""

    phases: tuple[Phase, ...]
    answers: tuple[Answered, ...]
    outcomes: dict[str, int]

    def phase(self, name: str) -> Phase:
        """The phase of this name."""
        return next(phase for phase in self.phases if phase.name == name)

    def has(self, name: str) -> bool:
        """True when the phase was told, and not left out."""
        return any(phase.name == name for phase in self.phases)


class StoryError(AntiphonError):
    """A phase did not come to the end that the story needs."""


class Teller:
    """Tells the story once. ``project`` is prepared, ``platform`` runs on it."""

    def __init__(
        self,
        settings: Settings,
        size: LearningSize,
        events: Events,
        project: Path,
        platform: Platform,
        say: Say,
        schedule: Schedule = UNPLANNED,
    ) -> None:
        self._settings = settings
        self._size = size
        self._events = events
        self._project = project
        self._platform = platform
        self._say = say
        self._schedule = schedule
        self._phases: list[Phase] = []

    async def tell(self) -> Story:
        """Every phase, in order.

        Raises:
            StoryError: a phase ended otherwise than the story needs.
        """
        async with Desk(self._platform.url, self._platform.key, verify=self._platform.verify) as desk:
            traffic = Traffic(self._settings, self._size, self._events, desk)
            await desk.refresh(traffic.now)
            await self._phase("train on history", self._train("--cutoff", traffic.now.isoformat(), *self._examples()))
            await self._phase("first release", self._release_trained(traffic, "fine-tuned on history"))
            if self._size.learns_again and self._schedule.in_time("collect outcomes", self._say):
                await self._phase("collect outcomes", self._collect(traffic))
                await self._phase("learn from outcomes", self._delta(traffic))
                await self._phase("second release", self._release_trained(traffic, "learned from outcomes"))
            await self._phase("bad release", self._bad_release(traffic))
            await self._phase("roll back and forth", self._flip(traffic))
            return Story(tuple(self._phases), tuple(traffic.answered), dict(traffic.statuses))

    async def _phase(self, name: str, work: Awaitable[dict[str, Any]]) -> None:
        self._schedule.begin(name, self._say)
        started = time.monotonic()
        found = await work
        self._phases.append(Phase(name, time.monotonic() - started, found))

    def _examples(self) -> tuple[str, ...]:
        return ("--examples", str(self._size.train_examples))

    async def _train(self, *options: str) -> dict[str, Any]:
        found = await self._command(
            "train", APPLICATION, *options, "--rows", str(self._size.gate_rows), "--texts", str(self._size.gate_texts),
            say=self._say,
        )  # fmt: skip
        auc, brier = found["metrics"]["auc"], found["metrics"]["brier"]
        self._say(
            f"{found['model']}: trained {found['seconds']:.0f} s on {found['examples']['new']} new examples and"
            f" {found['examples']['replayed']} earlier ones; AUC {_interval(auc)}, Brier {_interval(brier)};"
            f" {found['stage']}"
        )
        for reason in found["reasons"]:
            self._say(f"not passed: {reason}")
        return found

    async def _delta(self, traffic: Traffic) -> dict[str, Any]:
        examples = ("--examples", str(self._size.delta_examples))
        return await self._train("--delta", "--cutoff", self._dawn_after(traffic), *examples)

    async def _release_trained(self, traffic: Traffic, reason: str) -> dict[str, Any]:
        """Send what was trained last on its way. The story goes on past a gate that was not passed, and says so."""
        trained = self._phases[-1].found
        force: tuple[str, ...] = ()
        if trained["stage"] != "validated":
            self._say("a desk in earnest would stop here; the story goes on with --force")
            force, reason = ("--force",), f"{reason}; past its gates, for the story: {'; '.join(trained['reasons'])}"
        found = await self._roll_out(traffic, str(trained["release"]), reason, *force)
        return {**found, "forced": bool(force)}

    async def _roll_out(
        self, traffic: Traffic, release: str, reason: str, *force: str, most: int = 0
    ) -> dict[str, Any]:
        """Send a release on its way and let passengers ask until it is decided."""
        begun = await self._command("releases", "rollout", release, "--reason", reason, *force)
        rollout = str(begun["rollout"])

        before = len(traffic.answered)

        async def decided() -> bool:
            standing = await traffic.desk.rollout(rollout)
            if standing["state"] == "shadow":
                # Shadow answers wait for an idle engine. These passengers leave no pause between them; real ones do.
                asked = len(traffic.answered) - before
                await self._until(lambda: self._mirrored(traffic, rollout, asked - LEFT_BEHIND))
            return bool(standing["ended_at"])

        asked = await traffic.ask(rollout, most or self._size.rollout_questions, decided)
        await traffic.close_day()
        ended = await self._until(decided)
        state = await self._rollout(rollout)
        self._say(f"{state['state']} after {len(asked)} questions: {state['judgement'] or state['reason']}")
        if not ended:
            await self._command("releases", "abort", APPLICATION, "--reason", "the story's passengers are used up")
        return {**state, "release": release, "questions": len(asked), "decided": ended}

    async def _collect(self, traffic: Traffic) -> dict[str, Any]:
        asked = len(await traffic.ask("collect", self._size.collected_questions))
        # By the next dawn only what was asked the day before has matured: a rollout decided early leaves nothing.
        while traffic.days < 2:
            asked += len(await traffic.ask("collect", 1))
        await traffic.close_day()
        return {"questions": asked, "outcomes": dict(traffic.statuses)}

    async def _bad_release(self, traffic: Traffic) -> dict[str, Any]:
        """A prompt that mixes up two figures, sent past its gates by somebody in a hurry."""
        definitions = self._project / "definitions.py"
        good = definitions.read_text(encoding="utf-8")
        definitions.write_text(_broken(good), encoding="utf-8")
        try:
            applied = await self._command("apply", "--no-activate")
            release = next(
                one["id"] for one in applied["releases"] if one["bundle"]["application"]["name"] == APPLICATION
            )
            return await self._roll_out(
                traffic, release, "another prompt, in a hurry", "--force", most=self._size.bad_questions
            )
        finally:
            definitions.write_text(good, encoding="utf-8")

    async def _flip(self, traffic: Traffic) -> dict[str, Any]:
        """Back to the release before and forth again while passengers ask."""
        before = await self._live()
        half = self._size.flip_questions // 2
        asking = asyncio.ensure_future(traffic.ask("rolled back", half))
        back = await self._command("rollback", APPLICATION, "--reason", "to see that it can be done")
        asked = await asking
        asking = asyncio.ensure_future(traffic.ask("live again", half))
        await self._command("releases", "activate", APPLICATION, before, "--reason", "and back")
        asked += await asking
        return {
            "from": before,
            "to": back["release"],
            "questions": len(asked),
            "failed": sum(bool(answer.error) for answer in asked),
            "answered_by": _counted(answer.release for answer in asked),
            "live": await self._live(),
        }

    def _dawn_after(self, traffic: Traffic) -> str:
        """The next dawn, as event time: everything asked the day before has matured by then."""
        today = traffic.now.astimezone(ZoneInfo(self._settings.zone)).date()
        return self._settings.local(today + timedelta(days=1), self._settings.dawn).isoformat()

    async def _live(self) -> str:
        listed = await self._command("releases", "list", APPLICATION)
        return str(next(one["release"] for one in listed if one["stage"] == "live"))

    async def _rollout(self, rollout: str) -> dict[str, Any]:
        listed = await self._command("releases", "rollouts", APPLICATION)
        return dict(next(one for one in listed if one["rollout"] == rollout))

    async def _mirrored(self, traffic: Traffic, rollout: str, least: int) -> bool:
        return await traffic.desk.mirrored(rollout) >= least

    async def _until(self, condition: Callable[[], Awaitable[bool]]) -> bool:
        deadline = time.monotonic() + DECISION_SECONDS
        while time.monotonic() < deadline:
            if await condition():
                return True
            await asyncio.sleep(0.5)
        return False

    async def _command(self, *words: str, say: Say | None = None) -> Any:
        arguments = (*words, "--json", "--project", str(self._project))
        return json.loads(await host.command(*arguments, timeout=3_600.0, say=say))


def prepare(folder: Path, settings: Settings, events: Events) -> Path:
    """The story's project: history until its start, flights' outcomes included.

    Raises:
        SetupError: the disk is full.
    """
    start, _ = span(settings)
    project = host.prepare(folder, events, start)
    outcomes = project / "sources" / "outcomes.parquet"
    if not outcomes.exists():
        first, last = settings.learning.history_first, settings.learning.start
        data.write_outcomes(events, settings, start, outcomes, first=first, last=last)
    return project


def _broken(definitions: str) -> str:
    """The definitions with delay and wind mixed up in the prompt, and no shadow: figures in the wrong role."""
    delay, wind = "features.congestion.delay_2h", "features.weather.wind"
    mixed = f"TUNED = '{delay}'.join(part.replace('{delay}', '{wind}') for part in TUNED.split('{wind}'))\n"
    hurried = definitions.replace("shadow=1.0, shadow_pairs=25, ", "", 1)
    return hurried.replace("NOTICE = ", f"{mixed}NOTICE = ", 1)


def _interval(measure: dict[str, float] | None) -> str:
    return "none" if measure is None else f"{measure['value']:.3f} [{measure['low']:.3f}, {measure['high']:.3f}]"


def _counted(names: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[str(name)] = counts.get(str(name), 0) + 1
    return counts
