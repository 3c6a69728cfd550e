"""An evaluation with the real model: the same forecasts whether the label alone is asked for or everything."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.integration.learning.evaluated_desk import LEARNS, EvaluatedDesk

from antiphon.core.errors import SetupError
from antiphon.engine import weights
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout

pytestmark = pytest.mark.model

MODEL = "smollm2-135m"


@pytest.fixture(scope="module")
def model_path() -> Path:
    try:
        return weights.pull(MODEL)
    except SetupError as error:
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(str(error))


async def test_twelve_rows_through_the_engine_that_serves(tmp_path: Path, model_path: Path) -> None:
    runtime = LlamaCpp(MODEL, weights.resolve(MODEL), Layout(slots=8, context_tokens=512), threads=2)
    engine = await LocalEngine({MODEL: runtime}).start()
    desk = EvaluatedDesk(tmp_path, engine, msgspec.structs.replace(LEARNS, model=MODEL), rows=12)
    try:
        classes = await desk.evaluator.evaluate(desk.release, desk.dataset, mode="classes", with_attacks=False)
        whole = await desk.evaluator.evaluate(desk.release, desk.dataset, mode="classes", whole=4, with_attacks=False)
        assert (classes.rows, classes.failed, whole.rows, whole.failed) == (12, {}, 12, {})
        assert whole.brier.value == pytest.approx(classes.brier.value, abs=1e-9)
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
