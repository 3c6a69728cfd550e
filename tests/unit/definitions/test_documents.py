"""Declared documents and retrievals: what they pin, and every mistake in them."""

from __future__ import annotations

from typing import Any

import pytest

from antiphon import Application, Documents, Entity, FineTune, Freshness, Prompt, Retrieval, Source
from antiphon.definitions.application_check import application_mistakes, application_spec

ARTICLES = Source.table("articles", path="articles.parquet", event_time="written")


def application(**changed: Any) -> Application:
    handbook = Documents("handbook", path="handbook")
    options: dict[str, Any] = {
        "features": [],
        "model": "smollm2-135m",
        "purpose": "support",
        "retrievals": [Retrieval(handbook)],
        "prompt": Prompt(template="{% for one in retrieved.handbook %}{{ one.text }}{% endfor %}{{ question }}"),
    }
    return Application("assistant", **options | changed)


def test_an_application_pins_the_documents_that_it_retrieves_from() -> None:
    spec = application_spec(application())
    (retrieval,) = spec.retrievals or ()
    assert spec.documents == spec.pinned == {"handbook": retrieval.definition_version}
    assert spec.features == {}
    assert (retrieval.k, retrieval.model.name) == (4, "minilm-l6-v2")


def test_an_application_without_retrievals_keeps_its_hash() -> None:
    import msgspec

    spec = application_spec(application(retrievals=[], prompt=Prompt(template="{{ question }}")))
    assert b"retrievals" not in msgspec.json.encode(spec)


def test_chunking_and_model_are_part_of_the_version_and_the_place_is_not() -> None:
    version = Documents("handbook", path="handbook").spec().definition_version
    assert Documents("handbook", path="elsewhere", refresh="1h").spec().definition_version == version
    assert Documents("handbook", path="handbook", unreadable="skip").spec().definition_version == version
    assert Documents("handbook", path="handbook", chunk=400).spec().definition_version != version
    assert Documents("handbook", path="handbook", encoding="latin-1").spec().definition_version != version


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either a path or a table"),
        ({"path": "a", "table": ARTICLES, "text": "body", "id": "slug"}, "either a path or a table"),
        ({"table": ARTICLES}, "needs the columns"),
        ({"path": "a", "text": "body"}, "columns of a table"),
        ({"path": "a", "chunk": 10}, "from 100 to 20000"),
        ({"path": "a", "overlap": 700}, "half of a chunk"),
        ({"path": "a", "encoding": "klingon"}, "encoding is one of"),
        ({"path": "a", "unreadable": "shrug"}, "'block' or 'skip'"),
        ({"table": ARTICLES, "text": "body", "id": "slug", "attributes": ["text"]}, "what every chunk has"),
        ({"path": "a", "model": "nothing"}, "unknown"),
        ({"path": "a", "color": "red"}, "no option 'color'"),
    ],
)
def test_mistakes_of_documents_are_said(options: dict[str, Any], said: str) -> None:
    found = [text for _, text in Documents("handbook", **options).mistakes()]
    assert any(said in text for text in found), found


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"features": [Documents("other", path="a")]}, "name it in a Retrieval"),
        ({"retrievals": ["handbook"]}, "is not a Retrieval"),
        ({"retrievals": [Retrieval(Documents("handbook", path="a"), k=0)]}, "k is from 1 to 50"),
        ({"retrievals": [Retrieval(Documents("handbook", path="a"), query="{{ features.x.y }}")]}, "reads 'features'"),
        ({"retrievals": [Retrieval(Documents("handbook", path="a"), query="{{ entity.team }}")]}, "no key 'team'"),
        ({"retrievals": [Retrieval(Documents("handbook", path="a"), query="{% if %}")]}, "syntax"),
        ({"retrievals": [Retrieval(Documents("handbook", path="a"), filters={"team": "x"})]}, "have no 'team'"),
        ({"retrievals": [Retrieval(Documents("handbook", path="a"))] * 2}, "two have this name"),
        ({"prompt": Prompt(template="{{ retrieved.manual }}")}, "no retrieval 'manual'"),
        ({"retrievals": []}, "reads 'retrieved'"),
        ({"freshness": {"handbook": Freshness(max_age="1h", when_stale="previous")}}, "take flag or reject"),
        ({"model": FineTune(base="smollm2-135m", targets={"a": "b"})}, "without an outcome nothing is written"),
    ],
)
def test_mistakes_of_retrievals_are_said(changed: dict[str, Any], said: str) -> None:
    found = list(application_mistakes(application(**changed)))
    assert any(said in text for text in found), found


def test_filters_may_read_the_entity() -> None:
    team = Entity("team", keys=["team"])
    articles = Documents("handbook", table=ARTICLES, text="body", id="slug", attributes=["team"])
    made = application(entities=[team], retrievals=[Retrieval(articles, filters={"team": "{{ entity.team }}"})])
    assert not list(application_mistakes(made))
