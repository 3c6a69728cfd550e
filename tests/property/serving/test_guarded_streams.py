"""Streams of guarded texts: no character of a violation is shown, and the pieces together are the answer's text."""

import random
from collections.abc import Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness import adversarial_runs
from tests.harness.adversarial_texts import CLEAN, MODULE, PlantedText, application, unguarded
from tests.harness.small_desk import SmallDesk

from antiphon.serving.answerer import Answerer
from antiphon.serving.answering.guards import patterns, sentences
from antiphon.serving.answering.guards.check import OutputCheck, StreamGate
from antiphon.serving.request import Answer
from antiphon.serving.user_functions import UserFunctions
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

RUNS = 300
"""`make bench-guards SIZE=full` plays 10,000."""


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_character_of_a_violation_is_shown(tmp_path: Path, seed: int) -> None:
    found = await adversarial_runs.run(tmp_path, RUNS, seed)
    assert found.leaks == ()
    assert (found.unguarded, found.differing) == (0, 0)
    assert found.early > RUNS / 5, "most of what is shown is not shown in parts"
    assert found.ends.get("served", 0) > RUNS / 20
    assert found.ends.get("guard_refused", 0) > RUNS / 20


async def _all_pass(self: Any, guard: Any, text: str, end: int) -> str:
    return "passes"


async def _shows_what_came(self: StreamGate, text: str) -> None:
    self._text += text
    self.end = len(self._text)


async def _shows_before_the_guards(self: StreamGate) -> None:
    for end in sentences.ends(self._text, self.end):
        self.end = end  # in the wrong order
        for guard in self._holding:
            if await self._check.beginning(guard, self._text, end) != "passes":
                return


def _nothing_grows(pattern: str, text: str) -> int:
    return len(text)


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (OutputCheck, "beginning", _all_pass),
        (StreamGate, "feed", _shows_what_came),
        (StreamGate, "_sentences", _shows_before_the_guards),
        (patterns, "_open", _nothing_grows),
    ],
)
async def test_the_runs_find_planted_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, fault: Callable[..., Any]
) -> None:
    monkeypatch.setattr(where, name, fault)
    assert (await adversarial_runs.run(tmp_path, RUNS // 2, 1)).unguarded > 0


async def test_a_stream_and_one_piece_are_the_same_text_in_any_chunking(tmp_path: Path) -> None:
    rng = random.Random(11)
    said: list[ScriptedGeneration] = []
    desk = SmallDesk(tmp_path, ScriptedEngine(lambda request: said[-1]), application(rng, structured=False))
    desk.answerer = Answerer(msgspec.structs.replace(desk.services, guard_functions=UserFunctions((MODULE,))))
    for _ in range(60):
        text = rng.choice((" ", "\n\n")).join(rng.choice(CLEAN) for _ in range(rng.randint(1, 6)))
        cut = sorted({0, len(text), *(rng.randrange(len(text)) for _ in range(rng.randrange(30)))})
        pieces = tuple(text[begin:end] for begin, end in pairwise(cut))
        said.append(ScriptedGeneration(text, pieces=pieces))
        whole = await desk.answerer.answer(desk.request())
        shown: list[str] = []
        async with aclosing(desk.answerer.stream(desk.request())) as events:
            async for event in events:
                if isinstance(event, Answer):
                    assert "".join(shown) == event.text == whole.text == text
                else:
                    shown.append(event.text)
    desk.close()


def test_an_attempt_that_was_not_shown_may_begin_with_the_same_words() -> None:
    first = PlantedText("figure", "The delay is 2,500 minutes.", (), 0)
    second = PlantedText("phone", "The delay is 25 minutes now. Call 555-0100.", (), 29)
    assert unguarded([first, second], "The delay is 25 minutes now. ") == 0
    assert unguarded([first, second], "The delay is 2,5") == 16
    assert unguarded([first, second], second.text) == len(second.text) - 29
    assert unguarded([first], "") == unguarded([], "") == 0
