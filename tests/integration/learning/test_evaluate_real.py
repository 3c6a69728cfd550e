"""An evaluation with the real model: the same forecasts whether the label alone is asked for or everything."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from tests.harness.base_model import few_layers, model_path
from tests.harness.small_desk import SCHEMA
from tests.integration.learning.evaluated_desk import LEARNS, EvaluatedDesk

from antiphon.definitions.application import Decoding
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.weights import Weights

__all__ = ["few_layers", "model_path"]

pytestmark = pytest.mark.model

MODEL = "smollm2-135m"


async def test_twelve_rows_through_the_engine_that_serves(tmp_path: Path, few_layers: Weights) -> None:
    runtime = LlamaCpp(MODEL, few_layers, Layout(slots=8, context_tokens=512), threads=1)
    engine = await LocalEngine({MODEL: runtime}).start()
    # A notice that ends on its own, whatever the model says.
    notice = {"notice": {"type": "string", "maxLength": 60}}
    schema = json.dumps({**SCHEMA, "properties": {**SCHEMA["properties"], **notice}})
    application = msgspec.structs.replace(LEARNS, model=MODEL, output_schema=schema, decoding=Decoding(max_tokens=80))
    desk = EvaluatedDesk(tmp_path, engine, application, rows=12)
    try:
        classes = await desk.evaluator.evaluate(desk.release, desk.dataset, mode="classes", with_safety=False)
        whole = await desk.evaluator.evaluate(desk.release, desk.dataset, mode="classes", whole=4, with_safety=False)
        assert (classes.rows, classes.failed, whole.rows, whole.failed) == (12, {}, 12, {})
        assert whole.metrics["brier"].value == pytest.approx(classes.metrics["brier"].value, abs=1e-9)
        assert (classes.whole_rows, whole.whole_rows) == (0, 4)
        assert whole.valid_share == 1.0, "the engine's grammar lets nothing else through"
        assert classes.tokens < whole.tokens
        assert 0 < classes.engine_seconds < whole.engine_seconds
        rows = desk.evaluator.rows_of(whole).rows
        assert all(row.prediction and row.texts == row.whole for row in rows)
        # What the guard let pass was not false either: two checkers that share no code agree on served texts.
        assert whole.false_share == 0.0
        assert sum(bool(row.guards) for row in rows) == round(4 * (whole.guard_share or 0))
    finally:
        desk.close()
        await engine.close()
