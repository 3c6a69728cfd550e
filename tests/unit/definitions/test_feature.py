"""Features as written: what is refused, and what moves a definition version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from antiphon.core.errors import InvalidDefinitionsError
from antiphon.definitions import project

HEAD = """
from antiphon import *
shop = Entity("shop", keys=["shop"])
orders = Source.table("orders", path="orders.parquet", event_time="at", available_at="seen", where=col.kind == "sale")
@feature_view(entity=shop, source=orders, refresh="15m")
class Trade:
"""
PLAIN = """
    orders_2h = count(window="2h")
    value_2h = mean(col.value * 2, window="2h", scale="0.01", where=col.paid & (col.value > 1))
    newest = last(col.name)
"""


def views(tmp_path: Path, body: str) -> dict[str, Any]:
    (tmp_path / "definitions.py").write_text(HEAD + body)
    return project.load(tmp_path).views


def version(tmp_path: Path, body: str) -> str:
    return str(views(tmp_path, body)["trade"].definition_version)


def test_a_definition_from_before_sketches_keeps_its_version(tmp_path: Path) -> None:
    assert version(tmp_path, PLAIN) == "d93dba2937d77de9"


def test_a_spelling_keeps_the_version_and_a_meaning_moves_it(tmp_path: Path) -> None:
    def of(feature: str) -> str:
        return version(tmp_path, f"    x = {feature}\n")

    same = of("quantile(col.x, q=0.9, window='2h', scale='0.01')")
    assert same == of("quantile(col['x'], scale='0.010', window='120m', q='0.90')")
    for other in (
        "quantile(col.x, q=0.95, window='2h', scale='0.01')",
        "quantile(col.x, q=0.9, window='2h', scale='0.1')",
        "quantile(col.x, q=0.9, window='3h', scale='0.01')",
        "quantile(col.y, q=0.9, window='2h', scale='0.01')",
        "mean(col.x, window='2h', scale='0.01')",
    ):
        assert of(other) != same
    assert of("distinct(col.x, window='2h')") != of("distinct(col.x, window='2h', where=col.y)")


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ("quantile(col.x, window='1h', scale='1')", "q must be a number between 0 and 1, such as q=0.9, not None."),
        ("quantile(col.x, q=1.5, window='1h', scale='1')", "q must be a number between 0 and 1"),
        ("quantile(col.x, q='half', window='1h', scale='1')", "q must be a number between 0 and 1"),
        ("quantile(col.x, q=True, window='1h', scale='1')", "q must be a number between 0 and 1"),
        ("quantile(col.x, q=0.5, window='1h')", "quantile of a number needs a fixed-point scale"),
        ("quantile(col.x, q=0.5, scale='1')", "quantile needs a window"),
        ("quantile(col.x.coalesce('a'), q=0.5, window='1h', scale='1')", "a text cannot be aggregated so"),
        ("distinct(col.x, window='1h', scale='0.1')", "distinct has no scale; round the value itself."),
        ("distinct(col.x)", "distinct needs a window"),
        ("mean(col.x, q=0.5, window='1h', scale='1')", "mean has no option 'q'; it has window, where and scale."),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, feature: str, said: str) -> None:
    with pytest.raises(InvalidDefinitionsError) as caught:
        views(tmp_path, f"    x = {feature}\n")
    assert "definitions.py:7: trade.x: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ("target(col.x, window='1d', scale='1')", "smoothing must be a number of events from 0 to 1000000"),
        ("target(col.x, smoothing=-1, window='1d', scale='1')", "smoothing must be a number of events"),
        ("target(col.x, smoothing=20, window='1d')", "target of a number needs a fixed-point scale"),
        ("frequency(window='1d', scale='1')", "frequency has no scale"),
        ("frequency()", "frequency needs a window"),
    ],
)
def test_what_is_wrong_with_an_encoding_is_said(tmp_path: Path, feature: str, said: str) -> None:
    with pytest.raises(InvalidDefinitionsError) as caught:
        views(tmp_path, f"    x = {feature}\n")
    assert said in str(caught.value)


def test_encodings_are_fitted_by_refreshes(tmp_path: Path) -> None:
    text = HEAD.replace('Source.table("orders", path="orders.parquet",', 'Source.stream("orders", event_id="id",')
    (tmp_path / "definitions.py").write_text(text + "    x = target(col.late, smoothing=20, window='1d')\n")
    with pytest.raises(InvalidDefinitionsError, match=r"trade\.x: target is fitted by refreshes: read a Source\.table"):
        project.load(tmp_path)


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ("embed(col.x)", "model None is unknown; known: minilm-l6-v2"),
        ("embed(col.x, model='gpt')", "model 'gpt' is unknown; known: minilm-l6-v2"),
        ("embed(col.x.coalesce(1), model='minilm-l6-v2')", "a text is needed, not a number"),
        ("embed(col.x, model='minilm-l6-v2', scale='1')", "embed has no scale"),
        ("embed(col.x, model=EmbeddingModel('a', 'b', 8, 16))", "the sha256 of a must be 64 hex digits"),
        ("embed(col.x, model=EmbeddingModel('a', '0' * 64, 0, 16))", "a must have 1 to 8192 dimensions, not 0"),
        ("embed(col.x, model=EmbeddingModel('A b', '0' * 64, 8, 16))", "'A b' is no name"),
        ("last(col.x, model='minilm-l6-v2')", "last has no option 'model'"),
    ],
)
def test_what_is_wrong_with_an_embedding_is_said(tmp_path: Path, feature: str, said: str) -> None:
    with pytest.raises(InvalidDefinitionsError) as caught:
        views(tmp_path, f"    x = {feature}\n")
    assert said in str(caught.value)


def test_another_model_is_another_version(tmp_path: Path) -> None:
    def of(feature: str) -> str:
        return version(tmp_path, f"    x = {feature}\n")

    same = of("embed(col.x, model='minilm-l6-v2')")
    pinned = "EmbeddingModel('minilm-l6-v2', '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db', 384, "
    assert same == of(f"embed(col['x'], window=None, model={pinned}256))")
    assert same != of(f"embed(col.x, model={pinned}128))")
    assert same != of(f"embed(col.x, model={pinned.replace('53aa', '0000')}256))")
    assert same != of("last(col.x)")
