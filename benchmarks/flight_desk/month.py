"""Thirty days of the flight desk without a person: the loop that the conductor turns, beside never training again and
a training by hand.

One platform on a clock in time lapse (``time_lapse.py``). Every day of June passengers ask, each at their own moment;
events arrive as they did, and what became of a flight is told when it has left. Nobody orders anything: the views are
refreshed, and the declared ``Retrain`` trains, evaluates, holds against the gates, begins rollouts, and the judge ends
them. June is the month in which the season changes: a desk that learned in April and May has not seen its storms.

For some days somebody else's feed goes wrong: it tells the opposite of what happened. A candidate that is *bad* has
been trained after these outcomes began to come in and forecasts worse than the release that was live, surely, by pairs
on flights that nobody learned from. It must not become live.

Afterwards a declared sample of the month's flights is asked of every release through the function that serves, at the
moment somebody would have asked, and three desks are put together from it on identical flights:

- ``loop``: by the release that was live at that moment;
- ``never``: by the first release;
- ``by hand``: by the first, and from a day in the middle by one that was trained in full on that morning.

    python -m benchmarks.flight_desk.month [--size ci|demo|full] [--keep] [--resume]

Where the month stands is kept after every step in ``standing.json`` beside the project, and what its days came to in
``lived.json``. ``--resume`` goes on from there: a run that was stopped or killed loses one step of some hours.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy
from benchmarks.durability.kill_harness_command import finish
from benchmarks.flight_desk.time_lapse import TimeLapse, within_time_lapse
from examples.flight_desk import data, demand, host, settings
from examples.flight_desk.data import Events
from examples.flight_desk.demand import Flight, Question
from examples.flight_desk.desk_client import Desk, Platform
from examples.flight_desk.drive import CONCURRENCY, Feed, Tick, ticks
from examples.flight_desk.learning import measure, story
from examples.flight_desk.learning.traffic import APPLICATION
from examples.flight_desk.records import Answered
from examples.flight_desk.run import OUT, Steps
from examples.flight_desk.settings import Settings

from antiphon.core.errors import SetupError, UnavailableError
from antiphon.learning.evaluation import metrics
from antiphon.learning.evaluation.metrics import LabelForecasts

FIRST_DAY = date(2013, 6, 1)
HISTORY_FIRST = date(2013, 4, 1)
ROUNDS = 2_000
LOOP, NEVER, BY_HAND = "loop", "never", "by hand"
LOOK_SECONDS = 5.5
"""In which a worker has looked at its schedules at least once."""
PATIENCE = 900.0
"""Seconds of this machine that one order may keep the clock from going on."""
LONGEST_LOAD_SECONDS = 120.0
LATER = timedelta(minutes=30)
"""After the last step that is known a month goes on: no clock goes back, wherever in the next step it was stopped."""


class Sizes(msgspec.Struct, frozen=True):
    """What is declared beforehand.

    Attributes:
        outcomes: after so many new ones the desk trains again. full: after so long it trains in full.
        embargo: the days before a training on which its candidate is evaluated.
        first_examples: of the first release, and of the one that is trained by hand.
        wrong: days, counted from 0, on which the feed tells the opposite.
        hand: the day on whose morning the training by hand is done.
        measured: flights that every release is asked about afterwards.
    """

    days: int
    flights_a_day: int
    tick_minutes: int
    outcomes: int
    full: str
    embargo: str
    first_examples: int
    gate_rows: int
    gate_texts: int
    probes: int
    wrong: tuple[int, int]
    hand: int
    measured: int


SIZES = {
    "ci": Sizes(4, 24, 240, 24, "60d", "1d", 256, 20, 2, 1, (2, 2), 2, 40),
    # Gates are kept as the desk declares them: with fewer rows and texts no candidate could pass.
    "demo": Sizes(30, 80, 240, 400, "21d", "4d", 1_600, 300, 30, 4, (10, 14), 15, 600),
    "full": Sizes(30, 160, 120, 800, "21d", "4d", 1_600, 600, 60, 8, (10, 14), 15, 1_200),
}


class Live(msgspec.Struct, frozen=True):
    """The release that was live from a moment on."""

    since: datetime
    release: str


class Retraining(msgspec.Struct, frozen=True):
    """What one order of the loop came to.

    Attributes:
        day: of the month, from 0. cause: why it was due.
        seconds: of the machine, from its begin to its verdict. reasons: for which it was not passed.
        state: of its rollout, or why there was none. pairs: answers in shadow.
    """

    day: int
    cause: str
    seconds: float
    full: bool
    examples: int
    release: str
    stage: str
    reasons: tuple[str, ...]
    state: str
    sentence: str
    pairs: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Turn, measure, print; returns 1 when the loop did not turn by itself or a bad candidate became live."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="demo")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(words)
    sizes, declared = SIZES[options.size], _declared()
    start = declared.local(FIRST_DAY, "00:00")
    events = data.prepare(OUT / "events", declared.sources, declared.zone)
    clock = Path(tempfile.gettempdir()) / f"antiphon-month-{options.size}" / "clock"
    folder = OUT / "month" / options.size
    standing = _standing(folder) if options.resume else None
    begin = start if standing is None else standing.now + LATER
    within_time_lapse("benchmarks.flight_desk.month", words, clock, begin)
    found = run(sizes, declared, events, folder, Steps(), standing)
    line = {
        "benchmark": "month", "size": options.size, "machine": platform.machine(),
        "declared": msgspec.to_builtins(sizes), **found,
    }  # fmt: skip
    print(table(found))
    return finish("month", line, keep=options.keep)


def run(
    sizes: Sizes, declared: Settings, events: Events, folder: Path, say: Steps, standing: Standing | None = None
) -> dict[str, Any]:
    """The whole month, and what it came to; or what is left of one that stands somewhere."""
    known, project = folder / "lived.json", folder / "project"
    if standing is None:
        host.forget(folder)
        project = story.prepare(folder, declared, events)
        _declare_loop(project, sizes)
    with host.running(project, say) as platform:
        if not known.is_file():
            turned = asyncio.run(Month(sizes, declared, events, project, platform, say, standing).live())
            _put(known, turned)
        lived = msgspec.json.decode(known.read_bytes(), type=Lived)
        days = declared.days(settings.Size(FIRST_DAY, sizes.days, sizes.tick_minutes))
        flights = tuple(one for one in measure.sample(declared, 10**9, events) if one.day in days)
        flights = flights[:: max(len(flights) // sizes.measured, 1)]
        by_hand = folder / "hand.json"
        if not by_hand.is_file():
            _put(by_hand, asyncio.run(_train_by_hand(project, declared, sizes, say)))
        hand = msgspec.json.decode(by_hand.read_bytes(), type=ByHand)
        releases = {one.release for one in lived.live} | {hand.release}
        releases |= {one.release for one in lived.trainings if one.stage != "missing"}
        asked: dict[str, measure.Asked] = {}
        for release in sorted(releases):
            asked |= asyncio.run(_ask(project, declared, events, flights, release, say))
    return _found(sizes, declared, flights, lived, hand, asked)


class ByHand(msgspec.Struct, frozen=True):
    """The training by hand: what came of it, the moment as of which it was done, and seconds of the machine."""

    release: str
    stage: str
    moment: datetime
    seconds: float


async def _ask(
    project: Path, declared: Settings, events: Events, flights: Sequence[Flight], release: str, say: Steps
) -> dict[str, measure.Asked]:
    """Ask one release. It is made live, since engines serve no release for long that its gates have stopped."""
    await story.run(
        project, "releases", "activate", APPLICATION, release, "--force", "--reason", "asked afterwards", say=say
    )
    deadline = time.monotonic() + LONGEST_LOAD_SECONDS
    while True:
        try:
            return await measure.ask(project, declared, events, flights, [measure.Subject(release, release)], say)
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(5)


class Standing(msgspec.Struct):
    """Where a month stands that is not over.

    Attributes:
        reached: the end of the last step. now: what the clock said after it.
        unknown: questions whose flights had not left, and the predictions that answered them.
        told_since: outcomes since the last training began. resumed: moments at which it went on after a stop.
    """

    first: str
    reached: datetime
    now: datetime
    live: list[Live]
    unknown: dict[str, str] = {}
    statuses: dict[str, int] = {}
    asked: int = 0
    failed: int = 0
    told_since: int = 0
    resumed: list[datetime] = []


def _standing(folder: Path) -> Standing:
    """Where the month of a folder stands.

    Raises:
        SetupError: there is nothing to go on from.
    """
    known = folder / "standing.json"
    if not known.is_file():
        raise SetupError("No month has begun.", where=str(known), next_step="Begin one, without --resume.")
    return msgspec.json.decode(known.read_bytes(), type=Standing)


def _put(path: Path, content: Any) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.encode(content))
    draft.replace(path)


class Lived(msgspec.Struct, frozen=True):
    """The month as it went by."""

    first: str
    live: tuple[Live, ...]
    trainings: tuple[Retraining, ...]
    asked: int
    failed: int
    statuses: dict[str, int]
    resumed: tuple[datetime, ...]
    refreshes: int
    began: dict[str, datetime]


class Month:
    """Lets the days go by. It plays passengers, sources and feed, and orders nothing after the first release."""

    def __init__(
        self,
        sizes: Sizes,
        declared: Settings,
        events: Events,
        project: Path,
        platform: Platform,
        say: Steps,
        standing: Standing | None = None,
    ) -> None:
        self._sizes, self._declared, self._events = sizes, declared, events
        self._project, self._platform, self._say = project, platform, say
        self._clock = TimeLapse()
        self._start = declared.local(FIRST_DAY, "00:00")
        self._limit = asyncio.Semaphore(CONCURRENCY)
        self._standing = standing or Standing("", self._start, self._start, [])
        self._dawn_hour = declared.local(FIRST_DAY, declared.dawn).hour
        size = settings.Size(FIRST_DAY, sizes.days, sizes.tick_minutes)
        one_each = msgspec.structs.replace(declared.demand, flights_per_day=sizes.flights_a_day, asks_per_flight=1e-9)
        asking = msgspec.structs.replace(declared, demand=one_each)
        questions = demand.questions(asking, size, demand.read_flights(events, declared.days(size)))
        self._questions = {question.id: question for question in questions}
        self._ticks = tuple(ticks(asking, size, questions))

    async def live(self) -> Lived:
        """Every day that is left, in order."""
        standing, end = self._standing, self._start + timedelta(days=self._sizes.days + 1)
        async with Desk(self._platform) as desk:
            if standing.first:
                standing.resumed.append(standing.reached)
            else:
                standing.first = await self._first_release(desk)
                standing.live.append(Live(self._start, standing.first))
                self._keep(self._start)
            feed = Feed(self._events, desk, standing.reached, end + timedelta(days=1))
            day = None
            for tick in self._ticks:
                if tick.end <= standing.reached:
                    continue
                if tick.day != day:
                    day = tick.day
                    await self._reach(desk, feed, max(self._declared.local(day, self._declared.dawn), standing.reached))
                    self._say(f"{day:%d %B}: {standing.asked} asked, live {standing.live[-1].release}")
                await self._play(desk, feed, tick)
            await self._reach(desk, feed, end)
            self._keep(end)
            return await self._told(desk)

    def _keep(self, reached: datetime) -> None:
        self._standing.reached, self._standing.now = reached, datetime.now(UTC)
        _put(self._project.parent / "standing.json", self._standing)

    async def _first_release(self, desk: Desk) -> str:
        """Trained on what was known, by hand; made live at once, since every desk begins with it."""
        sizes = self._sizes
        await desk.refresh(self._start)
        found = await story.run(
            self._project, "train", APPLICATION, "--examples", str(sizes.first_examples), "--rows",
            str(sizes.gate_rows), "--texts", str(sizes.gate_texts), "--probes", str(sizes.probes),
            "--reason", "the first release", say=self._say,
        )  # fmt: skip
        for reason in found["reasons"]:
            self._say(f"the first release did not pass: {reason}")
        await story.run(
            self._project, "releases", "activate", APPLICATION, found["release"], "--force", "--reason", "the first"
        )
        return str(found["release"])

    async def _play(self, desk: Desk, feed: Feed, tick: Tick) -> None:
        await self._reach(desk, feed, tick.end)
        answers = await asyncio.gather(*(self._ask(desk, question) for question in tick.questions))
        standing = self._standing
        standing.asked += len(answers)
        standing.failed += sum(bool(answer.error) for answer in answers)
        answered = zip(tick.questions, answers, strict=True)
        standing.unknown |= {question.id: answer.prediction or "" for question, answer in answered}
        await self._settle(desk)
        self._keep(tick.end)

    async def _ask(self, desk: Desk, question: Question) -> Answered:
        async with self._limit:
            return await desk.ask("month", APPLICATION, question)

    async def _reach(self, desk: Desk, feed: Feed, until: datetime) -> None:
        await self._clock.advance(until)
        await feed.advance(until)
        self._standing.told_since += await self._tell_outcomes(desk, until)
        if self._standing.told_since >= self._sizes.outcomes or until.hour == self._dawn_hour:
            await asyncio.sleep(LOOK_SECONDS)  # In which a schedule that is due orders its run.
        await self._settle(desk)

    async def _tell_outcomes(self, desk: Desk, until: datetime) -> int:
        waiting = {self._questions[name]: prediction for name, prediction in self._standing.unknown.items()}
        known = [pair for pair in waiting.items() if pair[0].flight.departed <= until]
        first, last = self._sizes.wrong
        wrong = first <= (until - self._start).days <= last
        outcomes = {
            question.id: {
                "application": APPLICATION,
                "id": f"{question.id}/{prediction}",
                "prediction": prediction,
                "value": "delayed" if _is_late(question.flight, self._declared) != wrong else "on_time",
                "available_at": question.flight.departed.isoformat(),
            }
            for question, prediction in known
            if question.flight.dep_delay is not None and prediction
        }
        told = dict(zip(outcomes, await desk.tell_outcomes(list(outcomes.values())), strict=True))
        self._standing.statuses = dict(Counter(self._standing.statuses) + Counter(told.values()))
        for question, _ in known:
            # One that a gateway refuses, whose clock has not been read anew, is told again with the next ones.
            if told.get(question.id) != "refused":
                del self._standing.unknown[question.id]
        return len(outcomes)

    async def _settle(self, desk: Desk) -> None:
        """Wait until what was ordered has ended and the judge has seen what there is; note who is live."""
        deadline = time.monotonic() + PATIENCE
        while await desk.is_working():
            self._standing.told_since = 0 if await desk.is_training() else self._standing.told_since
            if time.monotonic() > deadline:
                self._say("the clock goes on beside work that has not ended")
                break
            await asyncio.sleep(0.5)
        deadline, before = time.monotonic() + story.DECISION_SECONDS, -1
        while (rollout := await desk.rollout_under_way(APPLICATION)) is not None and time.monotonic() < deadline:
            pairs = (await desk.rollout(rollout))["pairs"]["pairs"]
            if pairs == before:
                break
            before = pairs
            await asyncio.sleep(2.5)
        release, live = await desk.live(APPLICATION), self._standing.live
        if live and release != live[-1].release:
            self._say(f"{release} is live")
            live.append(Live(datetime.now(UTC), release))

    async def _told(self, desk: Desk) -> Lived:
        trainings: list[Retraining] = []
        began: dict[str, datetime] = {}
        rollouts = {one["candidate"]: one for one in await desk.rollouts(APPLICATION)}
        runs = await desk.runs(1_000)
        for run in reversed(runs):
            if run["workflow"] != "train" or not run.get("schedule"):
                continue
            created, ended = (datetime.fromisoformat(run[name]) for name in ("created_at", "ended_at"))
            told = await story.run(self._project, "runs", "show", run["id"])
            result = told["run"].get("result") or {}
            rollout = rollouts.get(result.get("release", ""))
            standing = None if rollout is None else await desk.rollout(rollout["id"])
            judged = [] if standing is None else standing["judgements"]
            began[result.get("release", run["id"])] = created
            trainings.append(
                Retraining(
                    (created - self._start).days,
                    str(run["cause"]),
                    (ended - created).total_seconds(),
                    result.get("parent") is None,
                    (result.get("examples") or {}).get("new", 0),
                    result.get("release", run["id"]),
                    result.get("stage", "missing"),
                    tuple(result.get("reasons") or ([run["error"]] if run.get("error") else [])),
                    str(result.get("no_rollout") or "no rollout") if rollout is None else rollout["state"],
                    "" if not judged else judged[-1]["sentence"],
                    0 if standing is None else standing["pairs"]["pairs"],
                )
            )
        standing = self._standing
        return Lived(
            standing.first,
            tuple(standing.live),
            tuple(trainings),
            standing.asked,
            standing.failed,
            standing.statuses,
            tuple(standing.resumed),
            sum(run["workflow"] == "refresh" for run in runs),
            began,
        )


async def _train_by_hand(project: Path, declared: Settings, sizes: Sizes, say: Steps) -> ByHand:
    """A full training with what was known on a morning, as somebody does it once a month."""
    moment = declared.local(FIRST_DAY + timedelta(days=sizes.hand), declared.dawn)
    began = time.monotonic()
    found: dict[str, Any] = await story.run(
        project, "train", APPLICATION, "--cutoff", moment.isoformat(), "--examples", str(sizes.first_examples),
        "--rows", str(sizes.gate_rows), "--texts", str(sizes.gate_texts), "--probes", str(sizes.probes),
        "--reason", "once a month", say=say,
    )  # fmt: skip
    return ByHand(found["release"], found["stage"], moment, time.monotonic() - began)


def _found(
    sizes: Sizes,
    declared: Settings,
    flights: Sequence[Flight],
    lived: Lived,
    hand: ByHand,
    asked: Mapping[str, measure.Asked],
) -> dict[str, Any]:
    late = measure.lateness(flights, declared)
    moments = next(iter(asked.values())).moments
    start = declared.local(FIRST_DAY, "00:00")

    def at(moment: datetime) -> str:
        return [one.release for one in lived.live if one.since <= moment or one is lived.live[0]][-1]

    chosen = {
        NEVER: [lived.first for _ in moments],
        BY_HAND: [hand.release if moment >= hand.moment else lived.first for moment in moments],
        LOOP: [at(moment) for moment in moments],
    }
    forecasts = {
        name: numpy.array([asked[release].forecasts[row] for row, release in enumerate(releases)])
        for name, releases in chosen.items()
    }
    weeks = numpy.array([(moment - start).days // 7 for moment in moments])

    def scored(forecast: Any, rows: Any) -> LabelForecasts:
        return LabelForecasts.yes_or_no(forecast[rows], late[rows], "late")

    def quality(rows: Any) -> dict[str, Any]:
        options = {"resamples": ROUNDS, "seed": declared.seed}
        return {
            "flights": int(rows.sum()),
            "late": float(late[rows].mean()),
            **{
                name: msgspec.to_builtins(metrics.intervals(scored(one, rows), **options))
                for name, one in forecasts.items()
            },
            "differences": {
                f"{LOOP} − {other}": msgspec.to_builtins(
                    metrics.differences(scored(forecasts[LOOP], rows), scored(forecasts[other], rows), **options)
                )
                for other in (NEVER, BY_HAND)
            },
        }

    everything = numpy.ones(len(flights), dtype=bool)
    bad = _bad(sizes, declared, lived, asked, late, moments)
    became_live = {one.release for one in lived.live}
    # Beside the others the clock went on, so that it does not tell what they took.
    timed = [one for one in lived.trainings if one.seconds <= PATIENCE]
    return {
        "month": quality(everything),
        "weeks": [quality(weeks == week) for week in range(int(weeks.max()) + 1) if (weeks == week).sum() > 20],
        "trainings": msgspec.to_builtins(lived.trainings),
        "live": msgspec.to_builtins(lived.live),
        "bad": sorted(bad),
        "bad_live": sorted(bad & became_live),
        "asked": lived.asked,
        "failed": lived.failed,
        "outcomes": lived.statuses,
        "refreshes": lived.refreshes,
        "resumed": msgspec.to_builtins(lived.resumed),
        "seconds": {
            LOOP: sum(one.seconds for one in timed), NEVER: 0.0, BY_HAND: hand.seconds,
        },
        "untimed": len(lived.trainings) - len(timed),
        "shadow_answers": sum(one.pairs for one in lived.trainings),
        "by_hand_passes": hand.stage == "validated",
        "holds": bool(len(lived.live) > 1 and not bad & became_live and not lived.failed),
    }  # fmt: skip


def _bad(
    sizes: Sizes,
    declared: Settings,
    lived: Lived,
    asked: Mapping[str, measure.Asked],
    late: Any,
    moments: Sequence[datetime],
) -> set[str]:
    """Candidates that are surely worse than what was live when they were made, on flights after that."""
    bad = set()
    for one in lived.trainings:
        began = lived.began.get(one.release)
        if one.release not in asked or began is None or one.day < sizes.wrong[0]:
            continue
        before = [live.release for live in lived.live if live.since < began or live is lived.live[0]][-1]
        rows = numpy.array([moment >= began for moment in moments])
        if rows.sum() < 20 or before == one.release:
            continue
        worse = metrics.differences(
            LabelForecasts.yes_or_no(asked[one.release].forecasts[rows], late[rows], "late"),
            LabelForecasts.yes_or_no(asked[before].forecasts[rows], late[rows], "late"),
            resamples=ROUNDS,
            seed=declared.seed,
        )["brier"]
        if worse.low > 0:
            bad.add(one.release)
    return bad


def table(found: Mapping[str, Any]) -> str:
    """What happened, in lines."""
    lines = [f"{found['asked']} questions, {found['failed']} failed; {found['refreshes']} refreshes", ""]
    for one in found["trainings"]:
        kind = "full" if one["full"] else "delta"
        why = "; ".join(one["reasons"]) or one["sentence"] or one["state"]
        mark = "  BAD" if one["release"] in found["bad"] else ""
        lines.append(
            f"day {one['day']:2d}  {kind:5}  {one['examples']:4d} examples  {one['seconds']:5.0f} s  {one['stage']:10}"
            f" {one['state'][:14]:14}{mark}  {why[:110]}"
        )
    lines.append("")
    for name, one in (("month", found["month"]), *((f"week {n}", one) for n, one in enumerate(found["weeks"]))):
        figures = "   ".join(
            f"{arm} {one[arm]['brier']['value']:.4f} / {one[arm]['auc']['value']:.3f}" for arm in (LOOP, NEVER, BY_HAND)
        )
        lines.append(f"{name:7} {one['flights']:4d} flights, {one['late']:.2f} late   Brier / AUC: {figures}")
    for words, one in found["month"]["differences"].items():
        brier = one["brier"]
        lines.append(f"{words}: Brier {brier['value']:+.4f} [{brier['low']:+.4f}, {brier['high']:+.4f}]")
    seconds = found["seconds"]
    words = ", ".join(f"{arm} {seconds[arm]:.0f}" for arm in seconds)
    lines.append(f"seconds of trainings and gates: {words}; {found['untimed']} of the loop's are not in it")
    return "\n".join(lines)


def _declared() -> Settings:
    declared = settings.load()
    learning = msgspec.structs.replace(declared.learning, start=FIRST_DAY, history_first=HISTORY_FIRST)
    return msgspec.structs.replace(declared, learning=learning)


def _is_late(flight: Flight, declared: Settings) -> bool:
    return (flight.dep_delay or 0) > declared.analysis.late_after_minutes


def _declare_loop(project: Path, sizes: Sizes) -> None:
    """The desk's own definitions, and what an owner adds so that it learns by itself."""
    definitions = project / "definitions.py"
    text = definitions.read_text(encoding="utf-8")
    text = text.replace("    Prompt,\n", "    Prompt,\n    Retrain,\n", 1).replace(
        "    count,\n", "    count,\n    every,\n", 1
    )
    text = text.replace("    mean,\n", "    mean,\n    outcomes,\n", 1)
    text = text.replace('embargo="1d"', f'embargo="{sizes.embargo}"', 1)
    text = text.replace("examples=1_600", f"examples={sizes.first_examples}", 1)
    text = text.replace("rows=100", f"rows={min(100, sizes.gate_rows)}", 1)
    # Streams bring what is new; every snapshot that is published keeps the clock from going on.
    text = text.replace('refresh="15m"', 'refresh="6h"')
    # This desk is asked some dozen times a day: a rollout takes days.
    text = text.replace("step_units=20,", 'step_units=20, patience="96h",', 1)
    text += (
        f"\nRetrain(fingerprint, when=outcomes({sizes.outcomes}), full_when=every({sizes.full!r}),"
        f" rows={sizes.gate_rows}, texts={sizes.gate_texts}, probes={sizes.probes})\n"
    )
    definitions.write_text(text, encoding="utf-8")
    own = project / "antiphon.toml"
    toml = own.read_text(encoding="utf-8").replace("refresh = false", 'refresh = true\npoll = "5s"', 1)
    own.write_text(toml, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
