"""Patterns of source files, in folders whose names read like patterns."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.batch.table_files import matches, patterns


@pytest.mark.parametrize("name", ["[acme]", "a*b", "what?", "plain"])
def test_the_projects_folder_is_no_pattern(name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    root.mkdir()
    table, several = list(patterns(root, str(root / "labels.csv"))), list(patterns(root, str(root / "orders/*.csv")))
    assert matches(table, root / "labels.csv")
    assert matches(table, root / "LABELS.csv")
    assert matches(table, root / "labels.csv" / "part.parquet"), "a Delta table is a folder"
    assert not matches(table, root / "other.csv")
    assert matches(several, root / "orders" / "june.csv")
    assert not matches(several, root / "answers" / "june.csv")
    for other in ("a", "axb", "whatx"):
        assert not matches(table, tmp_path / other / "labels.csv")


def test_a_file_is_named_through_a_link_too(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "labels.csv").write_text("")
    (tmp_path / "by").symlink_to(tmp_path / "kept")
    (tmp_path / "table.csv").symlink_to(tmp_path / "kept" / "labels.csv")
    for declared in ("by/labels.csv", "table.csv", "kept/labels.csv"):
        assert matches(patterns(tmp_path, str(tmp_path / declared)), tmp_path / "kept" / "labels.csv")
