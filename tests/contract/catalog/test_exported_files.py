"""Files of exports: noted before they are put in place, and known by their hashes."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.exported_files import ExportedFile, ExportedFiles

FIRST = ExportedFile("/out/a.csv", "1" * 64, "export-desk", "v1", "d1", "run_1", 3, 90, NOON)
SECOND = msgspec.structs.replace(FIRST, sha256="2" * 64, version="v2", run="run_2", noted_at=NOON + timedelta(hours=1))


@pytest.fixture
def files(database: Database) -> ExportedFiles:
    return ExportedFiles(database)


def test_a_noted_file_is_known_and_counts_once_it_is_written(files: ExportedFiles) -> None:
    files.note(DEV, FIRST)
    assert files.hashes(DEV, FIRST.path) == {FIRST.sha256}
    assert files.list(DEV, "export-desk") == []
    files.written(DEV, FIRST.path, FIRST.sha256, NOON)
    assert files.list(DEV, "export-desk") == [msgspec.structs.replace(FIRST, written_at=NOON)]
    assert files.list(OTHER, "export-desk") == []
    assert files.hashes(OTHER, FIRST.path) == frozenset()


def test_what_may_be_in_a_place_is_known_until_the_next_file_is_there(files: ExportedFiles) -> None:
    files.note(DEV, FIRST)
    files.written(DEV, FIRST.path, FIRST.sha256, NOON)
    files.note(DEV, SECOND)
    assert files.hashes(DEV, FIRST.path) == {FIRST.sha256, SECOND.sha256}
    assert [one.version for one in files.list(DEV, "export-desk")] == ["v1"]
    files.written(DEV, FIRST.path, SECOND.sha256, SECOND.noted_at)
    assert files.hashes(DEV, FIRST.path) == {SECOND.sha256}
    assert [one.version for one in files.list(DEV, "export-desk")] == ["v2"]


def test_files_come_by_version_the_latest_first_and_are_forgotten(files: ExportedFiles) -> None:
    for number, (path, version) in enumerate((("/out/a", "v1"), ("/out/b", "v1"), ("/out/c", "v2"))):
        one = msgspec.structs.replace(FIRST, path=path, version=version)
        files.note(DEV, one)
        files.written(DEV, path, one.sha256, NOON + timedelta(minutes=number))
    assert [one.path for one in files.list(DEV, "export-desk")] == ["/out/c", "/out/b", "/out/a"]
    assert [one.path for one in files.list(DEV, "export-desk", "v1")] == ["/out/b", "/out/a"]
    files.forget(DEV, "/out/b")
    assert [one.path for one in files.list(DEV, "export-desk")] == ["/out/c", "/out/a"]
