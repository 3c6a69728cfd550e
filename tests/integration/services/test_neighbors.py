"""Nearest neighbors over a whole project: refreshed by the worker's workflow, asked in the terminal and over HTTP."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.integration.services.watched_project import DEFINITIONS, Project, told

from antiphon.core.errors import SetupError
from antiphon.engine import weights
from antiphon.services.export.frames import open_project
from antiphon.services.features import platform as features
from antiphon.testing.embedding import GivenEmbedders, HashedWords

TINY = HashedWords()
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
REVIEWS = """
from antiphon import EmbeddingModel, embed

reviews = Source.table("reviews", path="reviews.csv", event_time="at", event_id="id")


@feature_view(entity=Entity("order", keys=["order"]), source=reviews, sensitivity={"secret": "restricted"})
class Said:
    review = embed(col.text, model=MODEL)
    secret = embed(col.text, model=MODEL)
    words = last(col.text)
"""
TEXTS = {
    "o1": "The glass is broken and my desk is wet",
    "o2": "Broken glass in the box",
    "o3": "Very quick delivery thank you",
    "o4": "Thank you for the quick delivery",
    "o5": "",
}


def written(folder: Path, model: str) -> str:
    rows = [f'{order},{order},"{text}",2026-01-01T10:00:00Z' for order, text in TEXTS.items()]
    (folder / "reviews.csv").write_text("\n".join(["id,order,text,at", *rows]) + "\n")
    return DEFINITIONS + REVIEWS.replace("MODEL", model)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "LocalEmbedders", lambda: GivenEmbedders(TINY))


@pytest.fixture
async def project(tmp_path: Path, tiny: None) -> AsyncIterator[Project]:
    made = Project(tmp_path, written(tmp_path, repr(TINY.model)))
    await made.refresh("said")
    yield made
    made.close()


async def test_neighbors_are_found_in_the_terminal(project: Project) -> None:
    antiphon = project.terminal
    found = antiphon("features", "neighbors", "said.review", "--text", "a broken glass", "--top", "2", "--json").json()
    assert {one["keys"]["order"] for one in found["neighbors"]} == {"o1", "o2"}
    assert (found["search"], found["entities"], found["publication"]) == ("exact", 4, 1)
    assert found["model"]["name"] == TINY.model.name
    shown = antiphon("features", "neighbors", "said.review", "--entity", "order=o3", "--top", "1")
    assert "o4" in shown.out
    assert "4 entities of publication 1" in shown.out
    for arguments, code in (
        (("said.review",), 2),
        (("said.review", "--text", " "), 2),
        (("said.review", "--text", "a", "--entity", "order=o1"), 2),
        (("said", "--text", "a"), 2),
        (("said.words", "--text", "a"), 3),
        (("nothing.review", "--text", "a"), 3),
        (("said.review", "--entity", "order=o5"), 3),
        (("said.review", "--text", "a", "--publication", "9"), 3),
    ):
        assert antiphon("features", "neighbors", *arguments).code == code, arguments
    assert '"data.read"' in antiphon("audit", "query", "--action", "data.read", "--json").out


async def test_neighbors_are_found_over_http_by_those_who_may(project: Project) -> None:
    path = "/admin/features/said/neighbors"
    asked = {"feature": "review", "text": "broken glass", "top": 2}
    async with project.http() as http:
        found = told(await http.post(path, json=asked))
        assert {one["keys"]["order"] for one in found["neighbors"]} == {"o1", "o2"}
        vector = TINY.embed(["quick delivery"]).vectors[0].tolist()
        near = told(await http.post(path, json={"feature": "review", "vector": vector, "model": TINY.model.name}))
        assert {one["keys"]["order"] for one in near["neighbors"][:2]} == {"o3", "o4"}
        other = await http.post(path, json={"feature": "review", "vector": vector, "model": "other"})
        assert told(other, 400)["error"]["code"] == "other_embedding_model"
        assert told(
            await http.post(path, json={"feature": "review", "vector": vector[1:], "model": "hashed-words"}), 400
        )
        assert (await http.post(path, json={**asked, "top": 0})).status_code == 400
        assert (await http.post(path, json={**asked, "color": "red"})).status_code == 400
        assert (await http.post("/admin/features/nothing/neighbors", json=asked)).status_code == 404
    evidence = project.terminal("audit", "query", "--action", "data.read", "--json").out
    assert "neighbors" in evidence
    async with project.http("service") as http:
        # Who may not publish the view learns how near, not who.
        hidden = told(await http.post(path, json=asked))
        assert [one["keys"] for one in hidden["neighbors"]] == [None, None]
        assert [one["entity"] for one in hidden["neighbors"]] == [one["entity"] for one in found["neighbors"]]
        assert not [text for text in (*TEXTS, "glass") if text and f'"{text}' in str(hidden)]
        restricted = await http.post(path, json={**asked, "feature": "secret"})
        assert restricted.status_code == 403
    async with project.http("viewer") as http:
        assert (await http.post(path, json=asked)).status_code == 403


@pytest.fixture
def pulled() -> None:
    try:
        weights.pull("minilm-l6-v2")
    except SetupError as error:
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(str(error))


@pytest.mark.model
async def test_the_real_model_finds_what_means_the_same_in_other_words(tmp_path: Path, pulled: None) -> None:
    made = Project(tmp_path, written(tmp_path, "'minilm-l6-v2'"))
    await made.refresh("said")
    shown = made.terminal(
        "features", "neighbors", "said.review", "--text", "it arrived smashed", "--top", "2", "--json"
    )
    assert {one["keys"]["order"] for one in shown.json()["neighbors"]} == {"o1", "o2"}
    made.close()


async def test_a_view_whose_model_is_not_here_keeps_what_it_had_and_says_why(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Project(tmp_path, written(tmp_path, repr(TINY.model)))
    await made.refresh("said")
    made.platform.close()
    monkeypatch.setattr(features, "LocalEmbedders", GivenEmbedders)
    made.platform = features.FeaturePlatform(made.store)
    await made.refresh()
    assert "is not here" in made.terminal("features", "history", "said").out
    found = made.terminal("features", "neighbors", "said.review", "--entity", "order=o1", "--json").json()
    assert (found["publication"], len(found["neighbors"])) == (2, 3)
    made.close()


async def test_a_notebook_trains_on_vectors_and_is_served_the_rest(project: Project) -> None:
    with open_project(project.folder) as notebook:
        rows = [{"order": "o1", "as_of": NOON}, {"order": "o5", "as_of": NOON}]
        table = notebook.training_set(rows, ["said.review", "said.words"], to="arrow")
        vectors = table["said.review"].to_pylist()
        assert len(vectors[0]) == TINY.model.dimensions
        assert vectors[1] is None
        assert table["said.words"].to_pylist()[0] == TEXTS["o1"]
        served = notebook.online([{"order": "o1"}], ["said"], to="arrow")
        assert [name for name in served.column_names if name.startswith("said.")] == ["said.words"]
        named = notebook.online([{"order": "o1"}], ["said.words", "said.review"], to="arrow")
        assert named["said.review"].to_pylist() == [vectors[0]], "the same numbers"
