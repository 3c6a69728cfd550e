"""A view over Feast's online store takes values as they are; other sources mean what they did."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.core.errors import InvalidDefinitionsError
from antiphon.definitions import project

HEAD = "from antiphon import Entity, Source, col, feature_view, last, mean\ndriver = Entity('driver', ['driver_id'])\n"


def load(folder: Path, text: str) -> project.ProjectSpec:
    (folder / "definitions.py").write_text(HEAD + text)
    return project.load(folder)


def view(body: str, options: str = "", source: str = "Source.feast('stats', view='Driver-Stats')") -> str:
    return f"@feature_view(entity=driver, source={source}{options})\nclass Stats:\n    {body}\n"


def test_a_feature_is_the_last_of_feasts(tmp_path: Path) -> None:
    spec = load(tmp_path, view("rate = last(col.rate)")).views["stats"]
    assert (spec.source.kind, spec.source.feast, spec.source.path) == ("feast", "Driver-Stats", None)
    other = load(tmp_path, view("rate = last(col.rate)", source="Source.feast('stats', view='Other')")).views["stats"]
    assert other.definition_version != spec.definition_version


@pytest.mark.parametrize(
    ("body", "options", "said"),
    [
        ("rate = mean(col.rate, window='1h', scale='0.1')", "", "last(col.NAME) and nothing more"),
        ("rate = last(col.rate, window='1h')", "", "last(col.NAME) and nothing more"),
        ("rate = last(col.rate * 2)", "", "last(col.NAME) and nothing more"),
        ("rate = last(col.rate)", ", refresh='5m'", "no refresh"),
        ("rate = last(col.rate)", ", embargo='5m'", "no embargo"),
    ],
)
def test_nothing_is_computed_of_it(tmp_path: Path, body: str, options: str, said: str) -> None:
    with pytest.raises(InvalidDefinitionsError) as raised:
        load(tmp_path, view(body, options))
    assert said in str(raised.value)


def test_a_view_without_feast_keeps_its_version(tmp_path: Path) -> None:
    source = "Source.table('stats', path='stats.parquet', event_time='at')"
    spec = load(tmp_path, view("rate = last(col.rate)", source=source)).views["stats"]
    assert spec.definition_version == "dd5f80caa0b2dc2f"
