"""Ten turns with the base model: what of the earlier tokens is not computed again, and that replay gives the bytes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.harness import conversation_runs
from tests.harness.conversation_runs import application, converse

from antiphon.definitions.conversation import Conversation
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.weights import Weights

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(few_layers: Weights) -> AsyncIterator[LocalEngine]:
    models = {
        "base": LlamaCpp("base", few_layers, Layout(slots=2, context_tokens=2_048), threads=1),
        "short": LlamaCpp("short", few_layers, Layout(slots=2, context_tokens=512), threads=1),
    }
    engine = await LocalEngine(models).start()
    yield engine
    await engine.close()


async def test_nine_of_ten_earlier_tokens_are_not_computed_again(engine: LocalEngine, tmp_path: Path) -> None:
    for by_messages in (False, True):
        folder = tmp_path / str(by_messages)
        folder.mkdir()
        made = await converse(folder, engine, application("base"), 1, by_messages=by_messages)
        assert made.kept == made.turns == conversation_runs.TURNS - 1
        assert made.of_all >= 0.9
        assert made.identical == made.answers == conversation_runs.TURNS


async def test_a_conversation_beyond_the_context_goes_on_and_is_replayed(engine: LocalEngine, tmp_path: Path) -> None:
    rule = Conversation(keep=1, summary_tokens=48)
    made = await converse(tmp_path, engine, application("short", conversation=rule), 1)
    assert made.summaries > 0
    # A prompt begins with the one before except where turns were summarized.
    assert made.kept >= made.turns - made.summaries
    assert made.identical == made.answers
