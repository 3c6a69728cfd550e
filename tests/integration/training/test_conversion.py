"""What is trained in torch is what llama.cpp serves: the same tokens, and logits that differ by rounding alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.training.conftest import TINY
from tests.integration.training.tiny import SPECIAL, flights, order, train_here

from antiphon.core.disk import file_sha256
from antiphon.core.errors import CorruptionError, InvalidInputError
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.weights import Weights
from antiphon.training.base import Base
from antiphon.training.convert import convert
from antiphon.training.model import LoraModel
from antiphon.training.order import ParentAdapter, TrainingResult
from antiphon.training.recipe import PRECISIONS, Recipe
from antiphon.training.vocabulary import Vocabulary

PROMPTS = (
    "<|im_start|>user\nDepartures are 20 minutes late.<|im_end|>\n<|im_start|>assistant\n",
    'Wind 15 mph, "late 20% of the time", route to DTW',
    "don't we'll  two   spaces\n\n\tx héé 中文 №12 x1y22 ",
)

# peft reads a property of transformers that its next release renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def exactly(base: Base, recipe: Recipe, adapter: ParentAdapter) -> Any:
    """The torch model in float32, adapter not merged, nothing rounded."""
    import torch

    model = LoraModel(base, recipe)
    model.continue_from(adapter)
    llama = model.llama.float()
    model.round()
    exact = {name: torch.from_numpy(matrix.copy()) for name, matrix in base.tensors()}
    with torch.no_grad():
        for name, parameter in llama.named_parameters():
            if (source := exact.get(name.replace(".base_layer", ""))) is not None:
                parameter.copy_(source)
    return llama


def last_logits(llama: Any, tokens: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        hidden = llama.model(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1]
        logits: np.ndarray = llama.lm_head(hidden).numpy().copy()
    return logits


def served(path: Path, sha256: str) -> LlamaCpp:
    return LlamaCpp("trained", Weights(path, sha256), Layout(128, 1, 256), threads=1)


def agreement(base: Base, recipe: Recipe, trained: TrainingResult, prompts: tuple[str, ...]) -> float:
    """The largest difference of a logit over the prompts, after holding the tokens against each other."""
    runtime = served(Path(trained.weights.path), trained.weights.sha256)
    vocabulary = Vocabulary(base)
    llama = exactly(base, recipe, ParentAdapter(trained.adapter.path, trained.adapter.sha256))
    largest = 0.0
    try:
        for prompt in prompts:
            tokens = runtime.tokenize(prompt)
            assert vocabulary.prompt(prompt) == tokens
            found = runtime.feed(0, 0, tokens, True)
            assert found is not None
            expected = last_logits(llama, tokens)
            largest = max(largest, float(np.abs(np.array(found) - expected).max()))
            assert int(found.argmax()) == int(expected.argmax())
            runtime.drop(0)
    finally:
        runtime.close()
    return largest


def test_llama_cpp_computes_what_was_trained(trained_here: TrainingResult, base: Path) -> None:
    # Logits reach 10 here; the embedding stays Q8_0, whose products llama.cpp rounds to eight bits.
    assert agreement(Base(base), TINY, trained_here, PROMPTS[:2]) < 0.2


def test_the_adapter_is_in_the_file(trained_here: TrainingResult, base: Path) -> None:
    """The check above would not notice a merge that changes nothing if training had changed little."""
    import torch

    runtime = served(base, file_sha256(base))
    tokens = runtime.tokenize(PROMPTS[0])
    before = np.array(runtime.feed(0, 0, tokens, True))
    runtime.close()
    runtime = served(Path(trained_here.weights.path), trained_here.weights.sha256)
    after = np.array(runtime.feed(0, 0, tokens, True))
    runtime.close()
    assert np.abs(before - after).max() > 1.0
    assert torch.isfinite(torch.from_numpy(after)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_is_written_the_same_each_time_and_served(
    trained_here: TrainingResult, base: Path, tmp_path: Path, precision: str
) -> None:
    opened, adapter = Base(base), Path(trained_here.adapter.path)
    hashes = {convert(opened, adapter, tmp_path / name, precision) for name in ("one.gguf", "two.gguf")}
    assert len(hashes) == 1
    assert file_sha256(tmp_path / "one.gguf") in hashes
    written = Base(tmp_path / "one.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in written.reader.tensors}
    assert kinds["blk.1.ffn_up.weight"] == precision.upper()
    assert kinds["token_embd.weight"] == "Q8_0"
    assert kinds["output_norm.weight"] == "F32"
    assert written.value("tokenizer.ggml.tokens")[: len(SPECIAL)] == list(SPECIAL)
    runtime = served(tmp_path / "one.gguf", "")
    logits = runtime.feed(0, 0, runtime.tokenize(PROMPTS[0]), True)
    assert logits is not None
    assert np.isfinite(logits).all()
    runtime.close()


def test_what_cannot_be_converted_leaves_no_file(trained_here: TrainingResult, base: Path, tmp_path: Path) -> None:
    opened, adapter, target = Base(base), Path(trained_here.adapter.path), tmp_path / "weights.gguf"
    with pytest.raises(InvalidInputError, match="precision"):
        convert(opened, adapter, target, "q2_k")
    with pytest.raises(CorruptionError, match="adapter is corrupt"):
        convert(opened, adapter, target, "q8_0", adapter_sha256="0" * 64)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\xff" * 100)
    with pytest.raises(CorruptionError, match="no adapter"):
        convert(opened, broken, target, "q8_0")
    other = tmp_path / "other.gguf"
    other.write_bytes(base.read_bytes() + b"\0")
    with pytest.raises(InvalidInputError, match="another base"):
        convert(Base(other), adapter, target, "q8_0")
    assert not target.exists()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all" * 100])
def test_a_file_that_is_no_model_is_corrupt(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match="no GGUF file"):
        Base(path)


@pytest.mark.model
def test_the_base_model_is_trained_and_served(few_layers: Weights, tmp_path: Path) -> None:
    """Three steps of two examples: a loss that falls, and llama.cpp's logits after Q8_0 beside torch's in float32."""
    recipe = Recipe(rank=4, alpha=8, batch=2, steps=3, warmup=0.0, learning_rate=2e-3, precision="q8_0")
    trained = train_here(order(tmp_path, few_layers.path, flights(8), recipe))
    assert trained is not None
    assert trained.losses[-1][1] < trained.losses[0][1]
    assert agreement(Base(few_layers.path), recipe, trained, PROMPTS) < 1.0  # Logits reach 20.
