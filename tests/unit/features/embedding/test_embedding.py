"""Nearest neighbors against an exact search, and an index that is lost."""

from __future__ import annotations

import sys

import numpy
import pytest

from antiphon.catalog.features.snapshots import SnapshotVectors
from antiphon.core.errors import CorruptionError, EngineError, SetupError
from antiphon.features.embedding.index import NeighborIndex, build
from antiphon.features.embedding.space import VectorSpace
from antiphon.features.embedding.vectors import EmbeddingResult, embedded
from antiphon.testing.embedding import HashedWords, hashed_words

MODEL = hashed_words(dimensions=32)
RNG = numpy.random.default_rng(5)


def units(count: int) -> numpy.ndarray:
    vectors = RNG.normal(size=(count, 32)).astype(numpy.float32)
    return vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)


def space(vectors: numpy.ndarray, entities: int | None = None) -> VectorSpace:
    """Entities with texts 0, 1, …; more entities than texts share them in turn."""
    count = entities or len(vectors)
    hashes = [f"{row % len(vectors):08}".encode() for row in range(count)]
    facts = SnapshotVectors(MODEL, count, len(vectors), 0, 0)
    return VectorSpace(facts, [[f"e{row:05}" for row in range(count)]], hashes, vectors, frozenset())


def test_an_exact_search_finds_the_nearest_and_orders_ties_by_keys() -> None:
    vectors = units(200)
    made = space(vectors, entities=500)
    for query in units(20):
        by_hand = sorted(range(500), key=lambda row: (-float(vectors[row % 200].astype(float) @ query), row))
        assert [near.row for near in made.nearest(query, MODEL, 7)] == by_hand[:7]
    # An entity is not its own neighbor; another with the very same text is the nearest.
    near = made.nearest(vectors[3], MODEL, 2, without=3)
    assert [one.row for one in near] == [203, 403]
    assert near[0].similarity == pytest.approx(1, abs=1e-6)


def test_the_index_finds_nearly_all_and_gives_the_same_similarities() -> None:
    vectors = units(3_000)
    exact, indexed = space(vectors), space(vectors)
    indexed.index = NeighborIndex(build(vectors), 3_000, 32)
    found = 0
    for query in units(50):
        first = {near.row: near.similarity for near in exact.nearest(query, MODEL, 10)}
        second = {near.row: near.similarity for near in indexed.nearest(query, MODEL, 10)}
        found += len(first.keys() & second.keys())
        assert all(first[row] == second[row] for row in first.keys() & second.keys())
    assert found >= 0.95 * 500


def test_the_same_vectors_give_the_same_index() -> None:
    vectors = units(1_000)
    assert build(vectors) == build(vectors.copy())


def test_an_index_of_other_vectors_is_refused() -> None:
    stored = build(units(10))
    with pytest.raises(CorruptionError, match="10 vectors of 32 numbers instead of 11 of 32"):
        NeighborIndex(stored, 11, 32)


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SetupError, match="needs faiss"):
        build(units(3))


def test_nothing_has_no_neighbors() -> None:
    assert space(numpy.zeros((0, 32), dtype=numpy.float32)).nearest(units(1)[0], MODEL, 5) == []


@pytest.mark.parametrize("broken", ["nan", "zero", "width", "count"])
def test_what_a_broken_model_makes_is_refused(broken: str) -> None:
    class Broken(HashedWords):
        def embed(self, texts: object) -> EmbeddingResult:
            made = super().embed(["one", "two"])
            vectors = made.vectors.copy()
            if broken == "nan":
                vectors[1, 3] = numpy.nan
            elif broken == "zero":
                vectors[1] = 0
            return EmbeddingResult(
                vectors[:, :-1] if broken == "width" else vectors[: 1 + (broken != "count")], made.truncated
            )

    with pytest.raises(EngineError):
        embedded(Broken(MODEL), ["one", "two"])
