"""Runs of adversarial texts through the whole answerer, as streams; what was shown is held against what was planted."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import aclosing
from pathlib import Path

import msgspec
from tests.harness.adversarial_texts import MODULE, PlantedText, application, free_text, structured_text, unguarded
from tests.harness.small_desk import SmallDesk

from antiphon.core.errors import InvalidOutputError
from antiphon.engine.api.messages import GenerationRequest
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import Answer
from antiphon.serving.user_functions import UserFunctions
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

PER_APPLICATION = 50
"""Runs between changes of the application."""


class AdversarialRuns(msgspec.Struct, frozen=True):
    """Result of runs.

    Attributes:
        unguarded: characters of violations that were shown, of all runs.
        differing: runs whose pieces together were not the answer's text.
        early: runs without violation or that had a part shown before the end.
        ends: number of runs by how they ended.
        leaks: what was planted and shown, some of it.
    """

    runs: int
    unguarded: int
    differing: int
    early: int
    ends: dict[str, int]
    leaks: tuple[str, ...]


async def run(folder: Path, runs: int, seed: int) -> AdversarialRuns:
    """Stream so many adversarial texts."""
    rng = random.Random(seed)
    written: list[PlantedText] = []
    structured = False

    def script(request: GenerationRequest) -> ScriptedGeneration:
        written.append(structured_text(rng) if structured else free_text(rng))
        return ScriptedGeneration(written[-1].text, pieces=written[-1].pieces)

    desk = SmallDesk(folder, ScriptedEngine(script), application(rng, structured))
    services = msgspec.structs.replace(desk.services, guard_functions=UserFunctions((MODULE,)))
    desk.answerer = Answerer(services)
    unguarded_characters = differing = early = 0
    ends: Counter[str] = Counter()
    leaks: list[str] = []
    try:
        for number in range(runs):
            if number % PER_APPLICATION == 0:
                structured = bool(rng.getrandbits(1))
                desk.publish(application(rng, structured))
            written.clear()
            pieces: list[str] = []
            text: str | None = None
            try:
                async with aclosing(desk.answerer.stream(desk.request())) as events:
                    async for event in events:
                        if isinstance(event, Answer):
                            text = event.text
                            actions = [action.action for action in event.receipt.guards]
                            ends["template" if "template" in actions else "served"] += 1
                        else:
                            pieces.append(event.text)
            except InvalidOutputError as error:
                ends[error.code] += 1
            shown = "".join(pieces)
            early += len(pieces) > 1
            found = unguarded(written, shown)
            unguarded_characters += found
            differing += text is not None and text != shown
            if found:
                leaks.append(f"{[one.kind for one in written]} {written[0].text!r} showed {shown!r}")
    finally:
        desk.close()
    return AdversarialRuns(runs, unguarded_characters, differing, early, dict(sorted(ends.items())), tuple(leaks[:5]))
