"""Answering only the leading property gives the class probabilities of the whole answer, with the base model itself."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.harness.small_desk import DESK, SCHEMA, SCOPE, START, SmallDesk

from antiphon.definitions.application import Decoding
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.weights import Weights

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

LABELS = {"flat": ["on_time", "delayed"], "sharing a beginning": ["delayed", "delisted", "on_time", "on_hold"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(few_layers: Weights) -> AsyncIterator[LocalEngine]:
    runtime = LlamaCpp("base", few_layers, Layout(slots=4, context_tokens=512), threads=1)
    engine = await LocalEngine({"base": runtime}).start()
    yield engine
    await engine.close()


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
async def test_class_probabilities_are_those_of_the_whole_answer(
    engine: LocalEngine, tmp_path: Path, labels: list[str]
) -> None:
    schema: dict[str, Any] = {
        **SCHEMA,
        "properties": {"outlook": {"enum": labels}, "notice": {"type": "string", "maxLength": 60}},
    }
    application = msgspec.structs.replace(
        DESK, model="base", output_schema=json.dumps(schema), decoding=Decoding(max_tokens=80)
    )
    desk = SmallDesk(tmp_path, engine, application)
    try:
        for delay in (3.0, 26.0, 61.0):
            desk.features.set(START, congestion__delay=delay)
            asked = {"role": "evaluation", "path": "batch", "release": desk.release.id}
            whole = await desk.answerer.answer(desk.request(**asked))
            part = await desk.answerer.answer(desk.request(**asked, only=("outlook",)))
            outlook = json.loads(part.text)
            assert list(outlook) == ["outlook"]
            assert part.receipt.classes == whole.receipt.classes
            assert sum(part.receipt.classes["outlook"].values()) == pytest.approx(1.0)
            assert whole.receipt.attempts[0].prompt_blob == part.receipt.attempts[0].prompt_blob
            first = desk.blobs.get(SCOPE, whole.receipt.attempts[0].text_blob).decode()
            assert outlook["outlook"] == json.loads(first)["outlook"]
            assert part.usage.completion_tokens < whole.usage.completion_tokens
        assert (await desk.replay(part.receipt)).identical
    finally:
        desk.close()
