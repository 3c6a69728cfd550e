"""Places of tables as they are named at the terminal."""

from __future__ import annotations

from pathlib import Path

from antiphon.cli.batch import _table_at


def test_an_object_stays_a_url_and_a_file_becomes_a_whole_path() -> None:
    url = "s3://tables/in.jsonl?endpoint=https://store:9000"
    assert _table_at(url) == url
    assert _table_at("in.csv") == str(Path.cwd() / "in.csv")
