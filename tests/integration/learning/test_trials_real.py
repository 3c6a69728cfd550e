"""Trials through the engine that serves: production's bytes, whatever else is being answered (the short form of
``python -m benchmarks.learning.workbench``)."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import msgspec
import pytest
from tests.harness.base_model import few_layers, model_path
from tests.harness.small_desk import DESK, SCHEMA, START
from tests.integration.learning.tried_desk import TriedDesk

from antiphon.definitions.application import Decoding, Reuse
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.weights import Weights
from antiphon.learning.workbench.trials import SampleQuery

__all__ = ["few_layers", "model_path"]

pytestmark = pytest.mark.model

MODEL = "smollm2-135m"
NUMBER = int(os.environ.get("TRIAL_REQUESTS", "20"))


async def test_the_real_model_says_again_what_it_said(tmp_path: Path, few_layers: Weights) -> None:
    runtime = LlamaCpp(MODEL, few_layers, Layout(slots=8, context_tokens=512), threads=1)
    engine = await LocalEngine({MODEL: runtime}).start()
    notice = {"notice": {"type": "string", "maxLength": 16}}
    application = msgspec.structs.replace(
        DESK,
        model=MODEL,
        output_schema=json.dumps({**SCHEMA, "properties": {**SCHEMA["properties"], **notice}}),
        decoding=Decoding(max_tokens=60, temperature=0.8, seed=7),
        reuse=Reuse("never", identical_prompts=False),
    )
    desk = TriedDesk(tmp_path, engine, application)
    try:
        asked: list[str] = []
        for number in range(NUMBER):
            desk.features.set(START, congestion__delay=float(5 * number))
            asked.append(await desk.ask(f"How long? {number}"))
        desk.features.set(START, congestion__delay=995.0)
        beside = [asyncio.create_task(desk.ask(f"Something else {number}")) for number in range(4)]
        trial = await desk.tried(desk.release, SampleQuery(predictions=tuple(asked)))
        await asyncio.gather(*beside)
        assert trial.identical == len(trial.answers) == NUMBER
        assert len({desk.text(one) for one in asked}) > 1
        draft = await desk.tried(desk.told("Answer in one word."), SampleQuery(size=4))
        assert draft.identical < 4
    finally:
        desk.close()
        await engine.close()
