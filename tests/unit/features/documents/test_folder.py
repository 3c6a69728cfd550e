"""Documents of a folder: ids, links, sizes, and what is no document."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from antiphon.core.errors import SetupError
from antiphon.definitions.source import SourceSpec
from antiphon.features.documents import folder
from antiphon.features.documents.folder import described_path, document_files, raw_documents


def found(path: Path | str) -> dict[str, str | None]:
    return {one.id: one.error for one in raw_documents(SourceSpec("handbook", "table", "event_time", path=str(path)))}


def test_a_folder_is_read_with_its_subfolders_by_suffix(tmp_path: Path) -> None:
    for name in ("b.md", "a/c.TXT", "a/d.png", ".hidden.md", ".git/x.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("words")
    assert found(tmp_path) == {"a/c.TXT": None, "b.md": None}
    assert described_path(str(tmp_path)) == f"{tmp_path}, where 1 file(s) are of other formats (.png)"
    assert described_path(str(tmp_path / "b.md")) == str(tmp_path / "b.md")
    assert found(tmp_path / "a" / "*") == {"c.TXT": None}
    assert [path.name for path in document_files(str(tmp_path / "b.md"))] == ["b.md"]


def test_links_stay_in_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "secret.txt"
    inside.mkdir()
    outside.write_text("password")
    (inside / "real.txt").write_text("words")
    (inside / "out.txt").symlink_to(outside)
    (inside / "alias.txt").symlink_to(inside / "real.txt")
    (inside / "gone.txt").symlink_to(inside / "nothing.txt")
    (inside / "folder").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe.txt")
    said = found(inside)
    assert said["alias.txt"] is said["real.txt"] is None
    assert said["out.txt"] == "it links to a file outside of the folder"
    assert "cannot be opened" in (said["gone.txt"] or "")
    assert said["pipe.txt"] == "it is no file"
    assert len(said) == 5


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.txt").open("wb") as stream:
        stream.truncate(500 << 20)
    assert found(tmp_path) == {"huge.txt": "it has 500 MiB, and a document may have 32"}


def test_names_that_are_one_text_are_one_id_and_both_refused(tmp_path: Path) -> None:
    (tmp_path / "caf\u00e9.txt").write_text("one")
    (tmp_path / "cafe\u0301.txt").write_text("two")
    documents = list(raw_documents(SourceSpec("handbook", "table", "event_time", path=str(tmp_path))))
    assert [one.error for one in documents] == ["two documents have this id"] * 2


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="There is no document in"):
        found(tmp_path)
    assert folder.LARGEST == 32 << 20
