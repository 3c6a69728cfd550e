"""What of a source belongs to a view's definition version."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon import Entity, Source, col, count, feature_view, mean
from antiphon.definitions.source import SourceSpec
from antiphon.features.offline.compute import ComputeLimits, compute, files_of, relation_of


def version(source: Source) -> str:
    @feature_view(entity=Entity("o", ["origin"]), source=source)
    class V:
        n = count(window="2h")
        d = mean(col.dep_delay, window="2h", scale="0.01")

    return V.spec().definition_version


def test_a_view_keeps_the_version_that_it_had_in_older_releases() -> None:
    stream = Source.stream(
        "departures", history="x", event_time="at", available_at="known", event_id="id", where=col.a > 3
    )
    assert version(stream) == "9038b8457fca4ef8"
    assert version(Source.table("departures", path="x", event_time="at")) == "4af8fdccba1acf85"


def test_where_rows_lie_and_who_asks_is_no_part_of_it() -> None:
    here = Source.table("o", url="postgresql://a@h/d", table="t", password_variable="A", event_time="at")
    there = Source.table("o", url="postgresql://b@i/e", table="t", password_variable="B", event_time="at")
    other = Source.table("o", url="postgresql://a@h/d", table="u", password_variable="A", event_time="at")
    assert version(here) == version(there)
    assert version(here) != version(other)
    assert isinstance(here.spec(), SourceSpec)


@pytest.mark.parametrize("pattern", ["day.csv", "*.csv", "da[xy].csv"])
def test_a_folder_whose_name_looks_like_a_pattern_is_that_folder(tmp_path: Path, pattern: str) -> None:
    root = tmp_path / "orders [old]*"
    root.mkdir()
    (root / "day.csv").write_text("at\n2026-01-01\n")
    source = Source.table("o", path=pattern, event_time="at")
    assert source.missing_file(root) is None
    spec = source.spec(root)
    assert spec.missing_paths == ()
    assert spec.path is not None
    assert files_of(spec.path) == [root / "day.csv"]
    with compute(ComputeLimits()) as connection:
        assert len(connection.execute(f"FROM {relation_of(files_of(spec.path))}").fetchall()) == 1
    (root / "day.csv").unlink()
    assert source.missing_file(root) is not None
    assert spec.missing_paths == (spec.path,)
