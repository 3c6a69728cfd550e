"""An application answers from store alone for a time: no engine is asked, and what is not in store is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.harness.small_desk import DESK, SCOPE, SmallDesk

from antiphon.catalog.serving.precomputed_modes import PrecomputedMode, PrecomputedModes
from antiphon.core.errors import PrecomputedOnlyError
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.degradation import WhenUnavailable
from antiphon.serving.answerer import Answerer
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

GOOD = json.dumps({"outlook": "delayed", "notice": "Delays now average 25 minutes."})
CHANGING = msgspec.structs.replace(DESK, reuse=Reuse("fingerprint", identical_prompts=False))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[SmallDesk]:
    yield from opened(tmp_path, CHANGING)


def opened(folder: Path, application: ApplicationSpec) -> Iterator[SmallDesk]:
    desk = SmallDesk(folder, ScriptedEngine([ScriptedGeneration(GOOD)]), application)
    modes = PrecomputedModes(desk.database)
    desk.answerer = Answerer(msgspec.structs.replace(desk.services, precomputed=modes.find))
    yield desk
    desk.close()


def begin(desk: SmallDesk) -> PrecomputedMode:
    mode = PrecomputedMode(DESK.name, "ada", "users wait", desk.clock.now() + timedelta(minutes=10))
    with desk.database.transaction() as connection:
        PrecomputedModes(desk.database).put(SCOPE, mode, within=connection)
    return mode


async def test_stored_answers_are_served_and_told_and_the_rest_is_refused(desk: SmallDesk) -> None:
    made = await desk.answerer.answer(desk.request())
    asked = len(desk.scripted.asked)
    begin(desk)
    same = await desk.answerer.answer(desk.request())
    assert (same.text, same.receipt.cache.origin, same.receipt.role) == (GOOD, "stored", "live"), "it is as good as new"
    desk.features.set(None, congestion__delay=90.0)
    answer = await desk.answerer.answer(desk.request())
    receipt = answer.receipt
    assert (answer.text, receipt.role, receipt.engine) == (GOOD, "degraded", None)
    assert receipt.degraded is not None
    assert (receipt.degraded.policy, receipt.degraded.release) == ("precomputed", desk.release.id)
    assert receipt.cache.prediction == made.prediction
    assert receipt.fallback == ()
    with pytest.raises(PrecomputedOnlyError, match="answers from store alone until") as refused:
        await desk.answerer.answer(desk.request(question="Another one?"))
    assert (refused.value.http_status, refused.value.retry_after) == (503, 600.0)
    assert len(desk.scripted.asked) == asked
    desk.clock.advance(timedelta(minutes=10, seconds=1))
    assert (await desk.answerer.answer(desk.request(question="Another one?"))).receipt.role == "live"


async def test_batch_rows_are_made_as_ever_and_the_declared_age_bounds_what_is_served(tmp_path: Path) -> None:
    rule = WhenUnavailable("precomputed", max_age="1h")
    for desk in opened(tmp_path, msgspec.structs.replace(CHANGING, when_unavailable=rule)):
        made = await desk.answerer.answer(desk.request())
        begin(desk)
        desk.features.set(None, congestion__delay=90.0)
        with pytest.raises(PrecomputedOnlyError):
            await desk.answerer.answer(desk.request(as_of=made.receipt.as_of + timedelta(hours=2)))
        row = await desk.answerer.answer(desk.request(question="A row?", path="batch"))
        assert row.receipt.engine == "main"
