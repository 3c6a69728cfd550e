"""The local engine over llama.cpp and the base model."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from antiphon.core.errors import EngineError, PromptTooLongError, SetupError, UnsatisfiableSchemaError
from antiphon.engine import weights
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.weights import Weights

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "outlook": {"enum": ["on_time", "delayed"]},
            "notice": {"type": "string", "maxLength": 60},
            "minutes": {"type": "integer", "minimum": 0, "maximum": 240},
        },
        "required": ["outlook", "notice", "minutes"],
        "additionalProperties": False,
    }
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model_path: Path) -> AsyncIterator[LocalEngine]:
    runtime = LlamaCpp("base", weights.resolve("smollm2-135m"), Layout(slots=4, context_tokens=512), threads=1)
    engine = await LocalEngine({"base": runtime}).start()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def short(few_layers: Weights) -> AsyncIterator[LocalEngine]:
    """For what holds whatever a model says."""
    runtime = LlamaCpp("base", few_layers, Layout(slots=4, context_tokens=512), threads=1)
    engine = await LocalEngine({"base": runtime}).start()
    yield engine
    await engine.close()


def asking(question: str = "Name three rivers.", **changes: object) -> GenerationRequest:
    fields: dict[str, object] = {"id": "r", "model": "base", "prompt": CHAT.format(question), "max_tokens": 40}
    return GenerationRequest(**{**fields, **changes})  # type: ignore[arg-type]


async def collect(engine: LocalEngine, request: GenerationRequest) -> tuple[list[Delta], GenerationResult]:
    events = [event async for event in engine.generate(request)]
    assert isinstance(events[-1], GenerationResult)
    return [event for event in events if isinstance(event, Delta)], events[-1]


async def test_it_knows_the_capital_of_france(engine: LocalEngine) -> None:
    _, finished = await collect(engine, asking(prompt="The capital of France is", max_tokens=1))
    assert finished.text == " Paris"
    assert finished.reason == "length"


async def test_a_chat_ends_at_the_models_end_token(engine: LocalEngine) -> None:
    deltas, finished = await collect(engine, asking("Hello 0\n", max_tokens=200))
    assert finished.reason == "stop"
    assert finished.text == "".join(delta.text for delta in deltas)
    assert "<|im_end|>" not in finished.text
    assert finished.usage.completion_tokens == len(finished.token_ids) < 200


async def test_special_tokens_in_a_prompt_are_one_token_each(engine: LocalEngine) -> None:
    _, finished = await collect(engine, asking(prompt="<|im_start|>a<|im_end|>", max_tokens=1))
    assert finished.usage.prompt_tokens == 3


async def test_a_schema_is_met_greedily_and_at_any_temperature(short: LocalEngine) -> None:
    requests = [asking(json_schema=SCHEMA, max_tokens=80, temperature=heat, seed=3) for heat in (0.0, 1.0, 2.0)]
    for _, finished in await asyncio.gather(*(collect(short, request) for request in requests)):
        answer = json.loads(finished.text)
        assert list(answer) == ["outlook", "notice", "minutes"]
        assert answer["outlook"] in ("on_time", "delayed")
        assert len(answer["notice"]) <= 60
        assert 0 <= answer["minutes"] <= 240
        assert finished.reason == "stop"
        # The fixed parts of the object cost no sampling step.
        assert finished.usage.forced_tokens >= 12


async def test_class_probabilities_come_from_the_unmasked_distribution(short: LocalEngine) -> None:
    _, finished = await collect(short, asking(json_schema=SCHEMA, max_tokens=80, branches=True))
    branch = next(branch for branch in finished.branches if finished.text[: branch.offset].endswith('"outlook": "'))
    labels = ("on_time", "delayed")
    assert all(any(label.startswith(option.text) for label in labels) for option in branch.options)
    assert len({option.token for option in branch.options}) == len(branch.options) > 2
    total = sum(math.exp(option.logprob) for option in branch.options)
    assert 0 < total < 1


async def test_log_probabilities_are_those_of_the_model(engine: LocalEngine) -> None:
    deltas, finished = await collect(engine, asking(prompt="The capital of France is", max_tokens=4, logprobs=5))
    tokens = [token for delta in deltas for token in delta.tokens]
    assert "".join(token.text for token in tokens) == finished.text
    first = tokens[0]
    assert first.logprob == first.alternatives[0].logprob
    assert [a.logprob for a in first.alternatives] == sorted((a.logprob for a in first.alternatives), reverse=True)
    assert {a.text for a in first.alternatives} >= {" Paris", " the"}
    # The golden logits differ by 2.54, whatever the normalizer is.
    by_text = {a.text: a.logprob for a in first.alternatives}
    assert by_text[" Paris"] - by_text[" the"] == pytest.approx(2.54, abs=0.3)


async def test_seeds_repeat_and_differ(short: LocalEngine) -> None:
    warm = {"temperature": 1.2, "top_p": 0.95, "max_tokens": 25}
    texts = [(await collect(short, asking(**warm, seed=seed)))[1].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


async def test_a_stop_sequence_over_several_tokens_is_never_half_shown(engine: LocalEngine) -> None:
    _, whole = await collect(engine, asking("Write one long sentence about the sea."))
    words = whole.text.split(" ")
    stop = f"{words[4][-2:]} {words[5]} {words[6][:1]}"
    deltas, cut = await collect(engine, asking("Write one long sentence about the sea.", stop=(stop,)))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.text == "".join(delta.text for delta in deltas) == "".join(t.text for d in deltas for t in d.tokens)
    assert cut.reason == "stop"


async def test_bounds_of_the_context(short: LocalEngine) -> None:
    with pytest.raises(PromptTooLongError, match="512"):
        await collect(short, asking("word " * 500))
    with pytest.raises(UnsatisfiableSchemaError, match="max_tokens"):
        await collect(short, asking(json_schema=SCHEMA, max_tokens=3))
    _, finished = await collect(short, asking(prompt="word " * 400, max_tokens=100))
    assert finished.usage.prompt_tokens > 350


async def test_a_broken_model_file_is_a_clear_error(model_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model_path.read_bytes()[: 1 << 20])
    with pytest.raises(SetupError, match="cannot read this model"):
        LlamaCpp("broken", weights.resolve(str(broken)), Layout(slots=1), threads=1)


async def test_golden_logits_that_are_not_met_stop_the_load(model_path: Path) -> None:
    found = weights.resolve("smollm2-135m")
    assert found.golden is not None
    shifted = {token: value + 3 for token, value in found.golden.logits.items()}
    golden = weights.Golden(found.golden.prompt, found.golden.most_probable, shifted, found.golden.tolerance)
    with pytest.raises(SetupError, match="golden logits"):
        LlamaCpp("base", Weights(model_path, found.sha256, golden), Layout(slots=1), threads=1)


async def test_layout_and_weights_decide_the_fingerprint(few_layers: Weights) -> None:
    def fingerprint(layout: Layout, threads: int) -> str:
        runtime = LlamaCpp("base", few_layers, layout, threads=threads)
        try:
            return runtime.description.fingerprint
        finally:
            runtime.close()

    usual = fingerprint(Layout(slots=1, context_tokens=256), 2)
    assert fingerprint(Layout(slots=2, context_tokens=512), 1) == usual
    assert fingerprint(Layout(chunk_tokens=64, slots=1, context_tokens=256), 2) != usual


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_model_that_nobody_asks_lets_go_of_its_weights_and_answers_the_same_afterwards(
    few_layers: Weights,
) -> None:
    process = psutil.Process()
    runtime = LlamaCpp("base", few_layers, Layout(slots=4, context_tokens=512), threads=1)
    engine = await LocalEngine({"base": runtime}, rest_after=0.4).start()
    try:
        _, before = await collect(engine, asking(json_schema=SCHEMA))
        loaded = process.memory_info().rss
        await until(lambda: engine.load().resting == 1)
        assert loaded - process.memory_info().rss > few_layers.path.stat().st_size / 2
        assert engine.models()[0].name == "base"
        assert runtime.tokenize("still here")
        answers = await asyncio.gather(*(collect(engine, asking(json_schema=SCHEMA)) for _ in range(3)))
        assert [finished.token_ids for _, finished in answers] == [before.token_ids] * 3
        assert engine.load().resting == 0
        await until(lambda: engine.load().resting == 1)
        _, again = await collect(engine, asking(json_schema=SCHEMA))
        assert again.token_ids == before.token_ids
    finally:
        await engine.close()


async def test_a_model_whose_file_changed_while_it_rested_is_not_served(few_layers: Weights, tmp_path: Path) -> None:
    copy = tmp_path / "model.gguf"
    copy.write_bytes(few_layers.path.read_bytes())
    runtime = LlamaCpp("base", Weights(copy, "0" * 64), Layout(slots=1, context_tokens=256), threads=1)
    engine = await LocalEngine({"base": runtime}, rest_after=0.2).start()
    try:
        await until(lambda: engine.load().resting == 1)
        copy.touch()
        with pytest.raises(EngineError, match="another one"):
            await collect(engine, asking())
    finally:
        await engine.close()
