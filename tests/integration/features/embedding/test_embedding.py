"""Vectors from the source to the neighbor, in a clear and in an encrypted project."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest
from tests.integration.features.world import NOON, World, minutes
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon import Entity, Source, col, embed, feature_view, last
from antiphon.catalog.features.events import Event
from antiphon.catalog.features.skew_reports import SkewReport
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.clock import microseconds
from antiphon.core.codec import PlainCodec
from antiphon.core.errors import (
    EmbeddingModelMismatchError,
    FeatureUnavailableError,
    InvalidInputError,
    NotFoundError,
    SetupError,
)
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.embedding.neighbors import NeighborLookup, NeighborQuery
from antiphon.features.embedding.space_cache import VectorSpaces
from antiphon.features.embedding.vector_reader import TextReader, TextVector, VectorReader, VectorRows
from antiphon.features.embedding.vectors import EmbeddingResult
from antiphon.features.monitoring.skew.measure import Skew
from antiphon.features.monitoring.skew.vectors import SkewVectors
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.governance.encryption.sealing import AesGcmCodec
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Decision
from antiphon.services.features.lookup import lookup_plan
from antiphon.serving.features.lookup import FeatureLookup
from antiphon.serving.features.lookup_values import LookupRequest
from antiphon.testing.embedding import GivenEmbedders, HashedWords, hashed_words

TEXTS = {
    "lamp": "the lamp is broken and the glass is torn",
    "vase": "the vase is broken and the glass is cracked",
    "boots": "boots arrived two days early, great service",
    "coat": "the coat arrived early, great service",
    "blank": "   ",
}
REVIEWS = Source.stream("reviews", event_time="at", available_at="at", event_id="id")


def spec(model: EmbeddingModel, **options: Any) -> FeatureViewSpec:
    @feature_view(entity=Entity("order", ["order"]), source=REVIEWS, owner="test")
    class Said:
        """What a customer said last."""

        review = embed(col.text, model=model, **options)
        text = last(col.text)

    return Said.spec()


class Embedding:
    """A world whose texts are embedded by a tiny model."""

    def __init__(self, folder: Path, codec: Any = None) -> None:
        self.embedder = HashedWords(hashed_words(tokens=8))
        self.embedders = GivenEmbedders(self.embedder)
        self.spec = spec(self.embedder.model)
        self.world = World(folder, self.spec, codec=codec)
        self.manifests: list[SnapshotManifest] = []
        self.spaces = self.new_spaces(self.embedders)

    def new_spaces(self, embedders: GivenEmbedders) -> VectorSpaces:
        return VectorSpaces(self.world.catalog, embedders)

    def say(self, texts: dict[str, str | None], at: float = -60) -> None:
        moment = NOON + minutes(at)
        for order, text in texts.items():
            identity = f"{order}{at}"
            payload = {"id": identity, "order": order, "text": text, "at": moment.isoformat()}
            self.world.append("reviews", Event(identity, moment, moment, payload))

    def publish(self, at: float = 0) -> SnapshotManifest:
        manifest = materialize(
            Materialization(
                scope=self.world.scope,
                spec=self.spec,
                as_of=NOON + minutes(at),
                previous=self.manifests[-1] if self.manifests else None,
            ),
            lake=self.world.lake,
            log=self.world.log,
            clock=self.world.clock,
            embedders=self.embedders,
        )
        self.world.publisher.publish([(manifest, self.spec)], reason="test", principal="tester")
        self.manifests.append(manifest)
        return manifest

    def lookup(self, spaces: VectorSpaces | None = None, embedders: GivenEmbedders | None = None) -> NeighborLookup:
        world = self.world
        return NeighborLookup(
            world.catalog,
            online=world.online,
            spaces=spaces or self.spaces,
            embedders=embedders or self.embedders,
        )

    def orders(self, **question: Any) -> list[str | None]:
        found = self.lookup().find(self.spec, NeighborQuery("review", **question))
        return [one.keys["order"] for one in found.neighbors if one.keys is not None]

    def vector(self, order: str, at: datetime, spaces: VectorSpaces | None = None) -> TextVector:
        (found,) = self.reader(spaces).rows({"said": self.spec}, [{"order": order}], at).entities
        return found["said.review"]

    def reader(self, spaces: VectorSpaces | None = None) -> VectorReader:
        world = self.world
        texts = TextReader(
            world.scope,
            publications=world.publications,
            online=world.online,
            clock=world.clock,
            overlay=world.overlay,
            lease=0.0,
        )
        return VectorReader(texts, spaces or self.spaces)

    def values(self) -> Any:
        with self.world.lake.open(self.manifests[-1].files[2].path) as stream:
            return pyarrow.parquet.read_table(stream)


@pytest.fixture(params=["clear", "sealed"])
def said(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Embedding]:
    made = Embedding(tmp_path, AesGcmCodec(Keys()) if request.param == "sealed" else PlainCodec())
    made.say(TEXTS)
    yield made
    made.spaces.close()
    made.world.close()


def test_a_value_is_the_vector_of_the_latest_text_and_of_length_one(said: Embedding) -> None:
    manifest = said.publish()
    table = said.values()
    vectors = dict(zip(table["order"].to_pylist(), table["said.review"].to_pylist(), strict=True))
    assert vectors["blank"] is None
    assert table.schema.field("said.review").type == pyarrow.list_(pyarrow.float32())
    expected = said.embedder.embed([TEXTS["lamp"]]).vectors[0]
    assert numpy.allclose(vectors["lamp"], expected / numpy.linalg.norm(expected), atol=1e-6)
    assert math.isclose(sum(number**2 for number in vectors["lamp"]), 1, abs_tol=1e-6)
    facts = manifest.vectors["review"]
    assert (facts.entities, facts.texts, facts.embedded, facts.truncated) == (4, 4, 4, 2)
    # The texts themselves are in no statistics.
    assert manifest.statistics["review"].top == {}


def test_a_refresh_embeds_only_what_changed(said: Embedding) -> None:
    said.publish()
    before = {row["order"]: row for row in said.values().to_pylist()}
    said.embedder.embedded = 0
    said.say({"coat": "the coat is too small"}, at=10)
    said.say({"boots": TEXTS["lamp"]}, at=11)
    manifest = said.publish(at=20)
    after = {row["order"]: row for row in said.values().to_pylist()}
    assert said.embedder.embedded == manifest.vectors["review"].embedded == 1
    assert after["vase"]["said.review"] == before["vase"]["said.review"]
    assert after["vase"]["said.review.truncated"] is before["vase"]["said.review.truncated"] is True
    assert after["boots"]["said.review"] == before["lamp"]["said.review"]
    assert after["coat"]["said.review"] != before["coat"]["said.review"]


def test_neighbors_of_a_text_an_entity_and_a_vector(said: Embedding) -> None:
    said.publish()
    assert set(said.orders(text="broken glass", top=2)) == {"lamp", "vase"}
    assert said.orders(text=TEXTS["boots"], top=1) == ["boots"]
    assert said.orders(entity={"order": "lamp"}, top=1) == ["vase"]
    vector = said.embedder.embed([TEXTS["coat"]]).vectors[0].tolist()
    assert said.orders(vector=vector, model=said.embedder.model.name, top=2) == ["coat", "boots"]
    found = said.lookup().find(said.spec, NeighborQuery("review", text="glass", top=100), see_keys=False)
    assert len(found.neighbors) == found.entities == 4
    assert all(one.keys is None and len(one.entity) == 32 for one in found.neighbors)


def test_a_lookup_of_known_texts_needs_no_model(said: Embedding) -> None:
    said.publish()
    nobody = GivenEmbedders()
    spaces = said.new_spaces(nobody)
    lookup = said.lookup(spaces, nobody)
    assert lookup.find(said.spec, NeighborQuery("review", text=TEXTS["lamp"], top=1)).neighbors[0].similarity == 1.0
    with pytest.raises(SetupError, match="has to be embedded"):
        lookup.find(said.spec, NeighborQuery("review", text="something new"))


def test_an_online_read_gives_the_very_bytes_of_the_snapshot_and_a_streamed_text_the_models(said: Embedding) -> None:
    said.publish()
    stored = {row["order"]: row["said.review"] for row in said.values().to_pylist()}
    at = NOON + minutes(30)
    for order in TEXTS:
        value = said.vector(order, at).value
        assert (None if value is None else list(value)) == stored[order]
    said.say({"lamp": TEXTS["boots"], "coat": "never said before"}, at=15)
    said.world.consume()
    assert list(said.vector("lamp", at).value or ()) == stored["boots"]
    assert said.vector("lamp", at).stream_offset is not None
    assert said.vector("lamp", NOON + minutes(14)).value == tuple(stored["lamp"])
    streamed = said.vector("coat", at)
    assert streamed.event_time == NOON + minutes(15)
    # What the next snapshot stores is what was served before it.
    said.publish(at=20)
    again = {row["order"]: row["said.review"] for row in said.values().to_pylist()}
    assert list(streamed.value or ()) == again["coat"]


def test_a_streamed_text_without_the_model_here_is_said_not_answered_otherwise(said: Embedding) -> None:
    said.publish()
    said.say({"coat": "never said before"}, at=15)
    said.world.consume()
    with pytest.raises(FeatureUnavailableError, match="newer than the snapshot"):
        said.vector("coat", NOON + minutes(30), said.new_spaces(GivenEmbedders()))


def test_a_row_of_features_shows_neither_the_vector_nor_the_text_it_is_of(said: Embedding) -> None:
    said.publish()
    read = said.world.read(NOON + minutes(1), order="lamp")
    assert set(read.values) == {"said.text"}
    ((one, rows),) = said.world.reader.rows(
        {"said": said.spec.definition_version}, [{"order": "lamp"}], microseconds(NOON)
    ).views
    assert one.names == ("said.text",)
    assert rows[0].values == (TEXTS["lamp"],)


def test_vectors_of_two_models_never_meet(said: Embedding) -> None:
    said.publish()
    other = HashedWords(hashed_words("other-words"))
    vector = other.embed([TEXTS["lamp"]]).vectors[0].tolist()
    with pytest.raises(EmbeddingModelMismatchError):
        said.lookup().find(said.spec, NeighborQuery("review", vector=vector, model="other-words"))
    space = said.spaces.open(said.manifests[-1].id, "review")
    with pytest.raises(EmbeddingModelMismatchError):
        space.nearest(numpy.asarray(vector), other.model, 3)
    with pytest.raises(EmbeddingModelMismatchError):
        said.spaces.vectors(said.manifests[-1].id, "review", other.model, ["lamp"])
    # Same name, other weights: another model as well, and another definition version.
    heavier = EmbeddingModel(said.embedder.model.name, "0" * 64, 64, 8)
    with pytest.raises(EmbeddingModelMismatchError):
        space.nearest(numpy.asarray(vector), heavier, 3)
    assert len({spec(model).definition_version for model in (said.embedder.model, other.model, heavier)}) == 3


def test_what_cannot_be_asked_is_refused_with_its_place(said: Embedding) -> None:
    said.publish()
    name = said.embedder.model.name
    for question, error, where in (
        ({"text": " "}, InvalidInputError, "text"),
        ({"text": "\udcff"}, InvalidInputError, "text"),
        ({}, InvalidInputError, "question"),
        ({"text": "a", "entity": {"order": "lamp"}}, InvalidInputError, "question"),
        ({"vector": [1.0, 2.0], "model": name}, InvalidInputError, "vector"),
        ({"vector": [math.nan] * 64, "model": name}, InvalidInputError, "vector"),
        ({"vector": [0.0] * 64, "model": name}, InvalidInputError, "vector"),
        ({"vector": [1.0] * 64}, InvalidInputError, "model"),
        ({"text": "a", "top": 0}, InvalidInputError, "top"),
        ({"entity": {"shop": "lamp"}}, InvalidInputError, "entity"),
        ({"entity": {"order": "nobody"}}, NotFoundError, "entity"),
        ({"entity": {"order": "blank"}}, NotFoundError, "entity"),
    ):
        with pytest.raises(error) as raised:
            said.lookup().find(said.spec, NeighborQuery("review", **question))
        assert raised.value.where == where, question
    with pytest.raises(NotFoundError):
        said.lookup().find(said.spec, NeighborQuery("text", text="a"))


def test_without_the_model_nothing_is_materialized(said: Embedding) -> None:
    with pytest.raises(SetupError):
        materialize(
            Materialization(scope=said.world.scope, spec=said.spec, as_of=NOON),
            lake=said.world.lake,
            log=said.world.log,
            clock=said.world.clock,
            embedders=GivenEmbedders(),
        )
    assert list(said.world.lake.files(said.world.scope)) == []


def test_a_snapshot_with_many_texts_has_an_index_that_is_pruned_with_it_and_put_back_when_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.features.embedding.snapshot_embedding.EXACT_UP_TO", 3)
    said = Embedding(tmp_path)
    said.say(TEXTS)
    index = said.publish().vectors["review"].index
    assert index is not None
    assert index.path in said.manifests[-1].paths
    found = said.lookup().find(said.spec, NeighborQuery("review", text="broken glass", top=4))
    assert found.search == "index"
    # Collected with what no manifest names, and not before.
    stored = tmp_path / "lake" / index.path
    said.world.publisher.collect_garbage(grace=timedelta(seconds=-3600))
    assert stored.exists()
    for damage in (stored.unlink, lambda: stored.write_bytes(b"something else")):
        damage()
        spaces = said.new_spaces(said.embedders)
        without = said.lookup(spaces).find(said.spec, NeighborQuery("review", text="broken glass", top=4))
        assert without.neighbors == found.neighbors
        spaces.close()
        assert hashlib.sha256(stored.read_bytes()).hexdigest() == index.sha256
        assert said.lookup(spaces).find(said.spec, NeighborQuery("review", text="glass")).search == "index"
    said.world.close()


def test_nothing_clear_of_a_text_or_its_vector_is_on_the_disk_of_an_encrypted_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.features.embedding.snapshot_embedding.EXACT_UP_TO", 3)
    said = Embedding(tmp_path, AesGcmCodec(Keys()))
    said.say(TEXTS)
    assert said.publish().vectors["review"].index is not None
    assert said.lookup().find(said.spec, NeighborQuery("review", text="broken glass", top=1)).search == "index"
    space = said.spaces.open(said.manifests[-1].id, "review")
    secrets = [b"glass is torn", *(vector.tobytes()[:16] for vector in space.vectors)]
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not [secret for secret in secrets if secret in stored]
    said.spaces.close()
    said.world.close()


def test_point_in_time_takes_the_text_of_each_moment_and_leaves_vectors_out(said: Embedding) -> None:
    said.say({"lamp": "later words"}, at=30)
    frame = pyarrow.table({"order": ["lamp", "lamp"], "moment": [NOON, NOON + minutes(60)]})
    table = point_in_time(frame, [said.spec], scope=said.world.scope, log=said.world.log, as_of="moment")
    assert table["said.text"].to_pylist() == [TEXTS["lamp"], "later words"]
    assert "said.review" not in table.column_names
    vectors = point_in_time(
        frame, [said.spec], scope=said.world.scope, log=said.world.log, as_of="moment", embedders=said.embedders
    )["said.review"].to_pylist()
    said.publish()
    said.publish(at=60)
    assert vectors[0] != vectors[1]
    assert (
        dict(zip(said.values()["order"].to_pylist(), said.values()["said.review"].to_pylist(), strict=True))["lamp"]
        == vectors[1]
    )


def test_vectors_that_are_read_are_what_batch_makes_of_the_text_that_it_finds(tmp_path: Path) -> None:
    made = Embedding(tmp_path)
    made.say(TEXTS)
    manifest = made.publish()
    made.say({"coat": "the coat is torn", "hat": "a hat"}, at=5)
    made.world.consume()
    report = skew(made, made.embedders)
    found = next(one for one in report.features if one.feature == "review")
    assert (found.compared, found.different, found.not_comparable) == (6, 0, {}), "with one that streamed in"
    assert (report.compared, report.different) == (12, 0)
    # Without the model the lake tells of texts that the snapshot knows.
    without = skew(made, GivenEmbedders())
    found = next(one for one in without.features if one.feature == "review")
    assert (found.different, sum(found.not_comparable.values())) == (0, 6 - found.compared)
    other = hashed_words(tokens=8)
    made.embedders = GivenEmbedders(Shifted(other))
    wrong = next(one for one in skew(made, made.embedders).features if one.feature == "review")
    assert (wrong.compared, wrong.different) == (6, 5), "of the blank text there is none"
    assert str(wrong.examples[0].online).startswith(f"vector of {other.dimensions} numbers")
    assert wrong.examples[0].online != wrong.examples[0].batch
    assert wrong.examples[0].snapshot == manifest.id
    made.world.close()


def test_a_publication_that_becomes_current_in_between_is_read_as_a_whole(tmp_path: Path) -> None:
    made = Embedding(tmp_path)
    made.say({"lamp": TEXTS["lamp"]})
    made.publish()
    made.say({"lamp": TEXTS["vase"]}, at=1)
    flips = [True]

    class Between:
        def rows(self, *asked: Any, **more: Any) -> VectorRows:
            found = made.reader().rows(*asked, **more)
            if flips:
                flips.pop()
                made.publish(at=2)
            return found

    world = made.world
    decision = Decision(True, (), "digest")
    lookup = FeatureLookup(
        lambda scope: world.new_reader(), lambda *asked: decision, world.clock, vectors=lambda scope: Between()
    )
    plan = lookup_plan([made.spec], [], ["said.review", "said.text"], "")
    who = Principal(id="asker", tenant="default", role="service")
    found = lookup.look_up_now(LookupRequest(world.scope, who, plan, [{"order": "lamp"}], NOON + minutes(3)))
    (line,) = found.entities
    assert not flips
    assert (found.publication, line.values[1]) == (2, TEXTS["vase"])
    (again,) = made.reader().rows({"said": made.spec}, [{"order": "lamp"}], NOON + minutes(3)).entities
    assert line.values[0] == again["said.review"].value, "of the same publication as the text beside it"
    world.close()


def test_a_reader_of_vectors_leaves_it_to_the_owner_of_the_store_what_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Embedding(tmp_path)
    forgotten: list[object] = []
    monkeypatch.setattr(made.world.online, "forget", lambda *asked: forgotten.append(asked))
    made.say({"lamp": TEXTS["lamp"]})
    made.publish()
    reader = made.reader()
    for minute in range(1, 4):
        made.say({"lamp": TEXTS["vase"]}, at=minute)
        made.publish(at=minute)
        reader.rows({"said": made.spec}, [{"order": "lamp"}], NOON + minutes(minute))
    assert forgotten == []
    made.world.close()


class Shifted(HashedWords):
    """A model that makes other vectors than it did."""

    def embed(self, texts: Sequence[str]) -> EmbeddingResult:
        found = super().embed(texts)
        return EmbeddingResult(found.vectors + numpy.float32(0.001), found.truncated)


def skew(made: Embedding, embedders: GivenEmbedders) -> SkewReport:
    world = made.world
    comparing = Skew(
        world.catalog,
        reader=world.new_reader(),
        log=world.log,
        overlay=world.overlay,
        vectors=SkewVectors(made.reader(), made.spaces, embedders),
    )
    return comparing.measure([made.spec], as_of=NOON + minutes(10))
