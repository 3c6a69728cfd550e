"""Texts as vectors: texts embedded a second, a refresh in which little is new, and the index against an exact search.

Run ``python -m benchmarks.features.neighbors [--size ci|demo|full]``. Sentences are put together at random (seed 9)
and embedded by the real model (``antiphon models pull minilm-l6-v2``), through a view that is materialized twice: the
second time one text in a hundred is new. For the index more vectors are needed than can be embedded meanwhile: each
is one of the real ones, turned by about 35° in a direction drawn at random. The peer is the exact search in the same
run: it gives the ten true neighbors that recall@10 is counted against.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphon import Entity, Source, col, embed, feature_view
from antiphon.catalog.features.snapshots import SnapshotVectors
from antiphon.core.clock import SystemClock
from antiphon.core.errors import SetupError
from antiphon.core.scope import Scope
from antiphon.definitions.embedding import MODELS
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.embedding.index import NeighborIndex, build
from antiphon.features.embedding.space import VectorSpace
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.services.features.embedders import LocalEmbedders

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

SEED = 9
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODEL = MODELS["minilm-l6-v2"]
SIZES = {
    # texts embedded, vectors in the index, questions
    "ci": (200, 6_000, 200),
    "demo": (2_000, 20_000, 500),
    "full": (5_000, 100_000, 1_000),
}
TOP = 10
GOALS = {"recall_at_10": 0.95}
_PARTS = (
    (
        "the parcel",
        "the lamp",
        "my order",
        "this coat",
        "the invoice",
        "a chair",
        "your app",
        "the courier",
        "our desk",
    ),
    ("arrived late", "is broken", "came early", "was never sent", "looks great", "is too small", "crashed again"),
    ("and the box was torn", "and nobody answers", "thank you", "which is a pity", "as always", "for the third time"),
    ("in Berlin", "on Monday", "after two weeks", "before the holidays", "at the wrong door", "without a note"),
)


def sentences(count: int) -> list[str]:
    """Different short texts, about a dozen words each."""
    chance = random.Random(SEED)
    return [f"{' '.join(chance.choice(part) for part in _PARTS)}, number {place}" for place in range(count)]


def view(file: Path) -> FeatureViewSpec:
    @feature_view(entity=Entity("order", ["order"]), source=Source.table("said", path=str(file), event_time="at"))
    class Said:
        review = embed(col.text, model="minilm-l6-v2")

    return Said.spec()


def write(file: Path, texts: Sequence[str], at: datetime) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"order": str(place), "text": text, "at": at} for place, text in enumerate(texts)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def embedding(folder: Path, texts: list[str]) -> tuple[dict[str, Any], NDArray[numpy.float32]]:
    """A view of these texts, materialized, and again when one text in a hundred is new."""
    file, lake, embedders = folder / "said.parquet", LocalLake(folder / "lake"), LocalEmbedders()
    spec = view(file)
    previous, result = None, {}
    changed = [f"{text} again" if place % 100 == 0 else text for place, text in enumerate(texts)]
    embedders.get(MODEL)  # Opening it is no part of a refresh: a worker has it open.
    for name, given in (("first", texts), ("refresh", changed)):
        write(file, given, NOON - timedelta(hours=1))
        started = time.perf_counter()
        previous = materialize(
            Materialization(scope=Scope(), spec=spec, as_of=NOON, previous=previous),
            lake=lake,
            log=None,
            clock=SystemClock(),
            embedders=embedders,
        )
        taken = time.perf_counter() - started
        result[name] = {"seconds": round(taken, 3), "embedded": previous.vectors["review"].embedded}
    assert previous is not None
    vectors = VectorSpace.read(lake, previous, "review").vectors
    embedder = embedders.get(MODEL)
    started = time.perf_counter()
    embedder.embed(texts[: len(texts) // 4])
    result["texts_per_second"] = round(len(texts) // 4 / (time.perf_counter() - started), 1)
    started = time.perf_counter()
    embedder.embed(["word " * 300] * 10)
    result["longest_texts_per_second"] = round(10 / (time.perf_counter() - started), 1)
    embedders.close()
    return result, vectors


def turned(vectors: NDArray[numpy.float32], count: int, seed: int) -> NDArray[numpy.float32]:
    """Vectors of length 1, each one of these turned by about 35°."""
    import numpy

    chance = numpy.random.default_rng(seed)
    noise = chance.normal(size=(count, vectors.shape[1]))
    noise /= numpy.linalg.norm(noise, axis=1, keepdims=True)
    made = vectors[chance.integers(0, len(vectors), count)] + 0.7 * noise
    units: NDArray[numpy.float32] = (made / numpy.linalg.norm(made, axis=1, keepdims=True)).astype(numpy.float32)
    return units


def timed(
    call: Callable[[Any], set[int]], questions: NDArray[numpy.float32]
) -> tuple[list[set[int]], dict[str, float]]:
    """What each question found, and how long it took in microseconds."""
    found, taken = [], []
    for question in questions:
        started = time.perf_counter_ns()
        found.append(call(question))
        taken.append((time.perf_counter_ns() - started) / 1e3)
    taken.sort()
    return found, {"p50_us": round(taken[len(taken) // 2], 1), "p99_us": round(taken[int(len(taken) * 0.99)], 1)}


def searching(real: NDArray[numpy.float32], count: int, asked: int) -> dict[str, Any]:
    """The index against comparing every vector, on the same questions."""
    vectors, questions = turned(real, count, SEED), turned(real, asked, SEED + 1)
    hashes: list[bytes | None] = [f"{place:08}".encode() for place in range(count)]
    keys = [[str(place) for place in range(count)]]
    facts = SnapshotVectors(MODEL, count, count, 0, 0)
    space = VectorSpace(facts, keys, hashes, vectors, frozenset())

    def nearest(question: Any) -> set[int]:
        return {near.row for near in space.nearest(question, MODEL, TOP)}

    truth, exact = timed(nearest, questions)
    started = time.perf_counter()
    stored = build(vectors)
    built = time.perf_counter() - started
    started = time.perf_counter()
    space.index = NeighborIndex(stored, count, MODEL.dimensions)
    opened = time.perf_counter() - started
    found, indexed = timed(nearest, questions)
    shared = sum(len(one & other) for one, other in zip(truth, found, strict=True))
    return {
        "vectors": count,
        "build_seconds": round(built, 2),
        "open_seconds": round(opened, 3),
        "index_bytes": len(stored),
        "recall_at_10": round(shared / (TOP * asked), 4),
        "index": indexed,
        "exact": exact,
    }


def run(size: str) -> dict[str, Any]:
    """Both parts; raises ``SetupError`` when the model or faiss is not here."""
    texts, vectors, asked = SIZES[size]
    with tempfile.TemporaryDirectory(prefix="antiphon-neighbors-") as folder:
        embedded, real = embedding(Path(folder), sentences(texts))
    found = searching(real, vectors, asked)
    return {
        "benchmark": "feature_neighbors",
        "at": datetime.now(UTC).isoformat(),
        "size": size,
        "seed": SEED,
        "texts": texts,
        "embedding": embedded,
        "search": found,
        "met": found["recall_at_10"] >= GOALS["recall_at_10"],
    }


def main() -> int:
    """Measure and print; 1 when a goal is missed, 3 when something is not installed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="ci")
    options = parser.parse_args()
    try:
        result = run(options.size)
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    embedded, search = result["embedding"], result["search"]
    print(f"texts embedded a second, one thread    {embedded['texts_per_second']:>10}")
    print(f"  of the longest, 256 tokens           {embedded['longest_texts_per_second']:>10}")
    for name in ("first", "refresh"):
        one = embedded[name]
        print(f"materialized ({name:7}, {one['embedded']:>5} embedded) {one['seconds']:>10} s")
    print(f"index of {search['vectors']} vectors: built in {search['build_seconds']} s, opened in", end=" ")
    print(f"{search['open_seconds']} s, {search['index_bytes'] / 1e6:.1f} MB, recall@10 {search['recall_at_10']}")
    for name in ("index", "exact"):
        print(f"a lookup ({name}): p50 {search[name]['p50_us']} µs, p99 {search[name]['p99_us']} µs")
    print(json.dumps(result))
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
