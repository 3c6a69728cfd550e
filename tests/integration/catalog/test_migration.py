"""Migrates a catalog in a file, after a copy; a second migration stands for those that will come.

What holds on a server as well is in ``tests/contract/catalog/test_migration.py``.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from tests.harness.second_migration import SECOND, with_second_migration
from tests.unit.catalog.examples import DEV, open_database

from antiphon.catalog import copies, migration, schema
from antiphon.catalog.database import Database
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.errors import SetupError

spawned = multiprocessing.get_context("spawn")


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/catalog.db"


def revision_in(file: Path) -> str:
    connection = sqlite3.connect(file)
    try:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    finally:
        connection.close()


def digest(file: Path) -> str:
    connection = sqlite3.connect(file)
    try:
        return hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()
    finally:
        connection.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """A catalog at the first revision with a row in it."""
    database = open_database(tmp_path)
    Blobs(database).put(DEV, b"a row")
    database.close()
    return tmp_path / "catalog.db"


@pytest.fixture
def second(catalog: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This version of the package, with a second migration; the file of that."""
    return with_second_migration(tmp_path_factory.mktemp("migrations"), monkeypatch)


def migrated(catalog: Path) -> Database:
    database = Database.open(url(catalog.parent))
    database.migrate()
    return database


def test_the_declared_revision_is_the_last_migration() -> None:
    assert ScriptDirectory.from_config(migration.configuration()).get_heads() == [schema.REVISION]


def _migrate(folder: str, ready: object, go: object) -> None:
    database = Database.open(f"sqlite:///{folder}/catalog.db")
    ready.release()  # type: ignore[attr-defined]
    go.wait()  # type: ignore[attr-defined]
    database.migrate()
    Blobs(database).put(DEV, b"ready")


def test_two_processes_migrate_at_once(tmp_path: Path) -> None:
    ready, go = spawned.Semaphore(0), spawned.Event()
    processes = [spawned.Process(target=_migrate, args=(str(tmp_path), ready, go)) for _ in range(2)]
    for process in processes:
        process.start()
    for _ in processes:
        assert ready.acquire(timeout=30)
    go.set()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]


@pytest.mark.usefixtures("second")
def test_rows_are_migrated_and_a_copy_stays(catalog: Path) -> None:
    database = migrated(catalog)
    assert database.revision() == "2"
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT note FROM blobs")).scalars().all() == ["moved"]
    database.close()
    copy = copies.copy_of(catalog, "1")
    assert revision_in(copy) == "1"
    assert copy.stat().st_mode & 0o077 == 0
    migrated(catalog).close()
    assert list(catalog.parent.glob("*.copy")) == [copy], "a catalog that is up to date is not copied"


@pytest.mark.usefixtures("second")
def test_a_copy_put_back_is_the_catalog_from_before(catalog: Path) -> None:
    before = digest(catalog)
    migrated(catalog).close()
    for path in catalog.parent.glob("catalog.db-*"):
        path.unlink()
    shutil.copy(copies.copy_of(catalog, "1"), catalog)
    assert digest(catalog) == before
    migrated(catalog).close()
    assert revision_in(catalog) == "2"


def test_a_migration_that_fails_leaves_the_catalog_as_it_was(catalog: Path, second: Path) -> None:
    before = digest(catalog)
    second.write_text(SECOND + "    raise RuntimeError('the last row cannot be read')\n")
    with pytest.raises(RuntimeError, match="last row"):
        migrated(catalog)
    assert digest(catalog) == before
    second.write_text(SECOND)
    migrated(catalog).close()
    assert revision_in(catalog) == "2"


@pytest.mark.usefixtures("second")
def test_there_is_no_migration_without_room_for_a_copy(catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(catalog.parent)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SetupError, match="MB for a copy"):
        migrated(catalog)
    assert revision_in(catalog) == "1"


def test_only_the_last_copies_stay_and_erasing_removes_them(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    for revision in ("1", "2", "3"):
        copies.make(database.path, revision)
    assert len(list(tmp_path.glob("*.copy"))) == copies.KEPT
    assert database.erase_free_space()
    assert list(tmp_path.glob("*.copy")) == []
    database.close()
