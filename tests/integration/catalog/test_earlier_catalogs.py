"""Projects that earlier states of this program wrote are opened, migrated after a copy, and read.

``earlier/*.tar.xz`` are whole small projects (a view of a stream and one of a table, answers, a batch job, events and
keys) as those states made them by ``antiphon init``, ``up``, ``ask``, ``events push`` and ``batch run``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from antiphon.catalog import copies, earlier_forms, schema
from antiphon.catalog.database import Database
from antiphon.catalog.sealed_columns import SEALED_COLUMNS
from antiphon.core.codec import unpack
from antiphon.core.errors import AntiphonError, CorruptionError, SetupError
from antiphon.definitions.source import local_paths
from antiphon.durable.executor import Executor
from antiphon.durable.registry import Registry
from antiphon.features.offline import compute
from antiphon.features.offline.refresh import WORKFLOW
from antiphon.services.explaining import Explaining
from antiphon.services.features.health import healer
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store

EARLIER = Path(__file__).parent / "earlier"
ARCHIVES = sorted(path.name.removesuffix(".tar.xz") for path in EARLIER.glob("*.tar.xz"))
MIGRATIONS = Path(schema.__file__).parents[1] / "migrations" / "versions"


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(EARLIER / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def revision_in(file: Path) -> str:
    connection = sqlite3.connect(file)
    try:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    finally:
        connection.close()


@pytest.fixture(params=ARCHIVES)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return unpacked(request.param, tmp_path)


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    opened = Store.open(root)
    yield opened
    opened.close()


def test_there_are_several_states_and_a_renumbered_one() -> None:
    assert len(ARCHIVES) >= 2
    assert any("saved-tokens" in name for name in ARCHIVES)


def test_it_is_migrated_to_exactly_the_schema_and_a_copy_stays(root: Path) -> None:
    catalog = root / ".antiphon" / "catalog.db"
    before = revision_in(catalog)
    store = Store.open(root)
    assert store.database.revision() == schema.REVISION
    with store.database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    copy = copies.copy_of(catalog, before)
    assert revision_in(copy) == before
    assert copy.stat().st_mode & 0o077 == 0
    store.close()
    Store.open(root).close()
    assert list(catalog.parent.glob("*.copy")) == [copy], "a catalog that is up to date is not copied"


def test_every_document_is_an_envelope_and_every_answer_is_explained(root: Path, store: Store) -> None:
    with store.database.read() as connection:
        for column in SEALED_COLUMNS:
            if not column.text:
                held = sa.column(column.column)
                for (stored,) in connection.execute(
                    sa.select(held).select_from(sa.table(column.table)).where(held.is_not(None))
                ):
                    unpack(stored)
    asked = json.loads((root / "ask.json").read_text())
    explained = Explaining(store).explain(store.scope, asked["antiphon"]["prediction"], source_rows=False)
    assert json.dumps(asked["text"]) in json.dumps(explained, default=str) or asked["text"] in str(explained)
    assert [record.role for record in store.keys.list(store.scope.tenant)] == ["admin"]
    assert len(store.events.read(store.scope, "orders", 0, 10)) == 3
    assert {run.workflow for run in store.runs.list(store.scope, limit=50)} >= {WORKFLOW}
    assert store.jobs.list(store.scope, limit=10)


def test_its_features_are_read_again_without_a_hand(root: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # Definitions name sources by the folder that the project was in when they were applied.
    monkeypatch.setattr(compute, "local_paths", lambda path: local_paths(str(root / Path(path).name)))
    platform = FeaturePlatform(store)
    try:
        heals = healer(store, platform)
        heals.heal()
        asyncio.run(_work(store, platform))
        while platform.consume(1_000):
            continue
        published = store.publications.current(store.scope)
        assert published is not None
        views = dict(key.split("@") for key in published.snapshots)
        assert len(views) == 2
        found = platform.published(store.scope).read(views, {"shop": "bakery"}, store.database.clock.now())
        assert any(value.value is not None for value in found.values.values())
    finally:
        platform.close()


async def _work(store: Store, platform: FeaturePlatform) -> None:
    """Run what was ordered, as the worker does."""
    registry = Registry()
    registry.add(WORKFLOW, platform.refresher.refresh)
    executor = Executor(store.database, registry, "test")
    stop = asyncio.Event()
    working = asyncio.create_task(executor.run_until(stop))
    async with asyncio.timeout(60):
        while any(
            run.status in ("queued", "running") and run.workflow == WORKFLOW
            for run in store.runs.list(store.scope, limit=50)
        ):
            await asyncio.sleep(0.02)
    stop.set()
    await working


def test_a_migration_that_fails_leaves_the_catalog_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = unpacked("revision-0002", tmp_path)
    catalog = root / ".antiphon" / "catalog.db"
    before = sqlite3.connect(catalog)
    dump = hashlib.sha256("\n".join(before.iterdump()).encode()).hexdigest()
    before.close()

    def fails(*_: object) -> bytes:
        raise CorruptionError("The last of the documents cannot be read.")

    with monkeypatch.context() as patched:
        patched.setattr(earlier_forms, "_enveloping", fails)
        with pytest.raises(AntiphonError, match="last of the documents"):
            Store.open(root)
    after = sqlite3.connect(catalog)
    assert hashlib.sha256("\n".join(after.iterdump()).encode()).hexdigest() == dump
    after.close()
    Store.open(root).close()
    assert revision_in(catalog) == schema.REVISION


def test_without_the_mends_these_catalogs_do_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renumbered = unpacked(next(name for name in ARCHIVES if "saved-tokens" in name), tmp_path / "renumbered")
    bare = unpacked("revision-0002", tmp_path / "bare")
    monkeypatch.setattr("antiphon.catalog.migration.settle", lambda *_: None)
    with pytest.raises(Exception, match="duplicate column name: saved_tokens"):
        Store.open(renumbered)
    store = Store.open(bare)
    with pytest.raises(CorruptionError, match="no envelope"):
        store.runs.list(store.scope, limit=5)
    store.close()


def test_a_copy_put_back_is_the_catalog_from_before(tmp_path: Path) -> None:
    root = unpacked("revision-0002", tmp_path)
    catalog = root / ".antiphon" / "catalog.db"
    Store.open(root).close()
    for path in catalog.parent.glob("catalog.db-*"):
        path.unlink()
    shutil.copy(copies.copy_of(catalog, "0002"), catalog)
    assert revision_in(catalog) == "0002"
    Store.open(root).close()
    assert revision_in(catalog) == schema.REVISION


def test_a_newer_catalog_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    root = unpacked("revision-0002", tmp_path)
    Store.open(root).close()
    catalog = root / ".antiphon" / "catalog.db"
    connection = sqlite3.connect(catalog)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9001'")
    dump = list(connection.iterdump())
    connection.close()
    with pytest.raises(SetupError, match="revision 9001, this version knows up to"):
        Store.open(root)
    connection = sqlite3.connect(catalog)
    assert list(connection.iterdump()) == dump
    connection.close()


def test_there_is_no_migration_without_room_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = unpacked("revision-0002", tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SetupError, match="MB for a copy"):
        Store.open(root)
    assert revision_in(root / ".antiphon" / "catalog.db") == "0002"


def test_only_the_last_copies_stay_and_erasing_removes_them(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/catalog.db")
    database.migrate()
    for revision in ("0001", "0002", "0003"):
        copies.make(database.path, revision)
    assert len(list(tmp_path.glob("*.copy"))) == copies.KEPT
    assert database.truncate_log()
    assert list(tmp_path.glob("*.copy")) == []
    database.close()


def test_migrations_are_only_appended() -> None:
    """A migration that was ever run is not edited, renamed or renumbered: catalogs say by its number what they saw."""
    known = dict(line.split()[::-1] for line in (Path(__file__).parent / "migrations.sha256").read_text().splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in MIGRATIONS.glob("[0-9]*.py")}
    changed = [name for name in known if found.get(name) != known[name]]
    assert not changed, f"undo the change of {changed}; write a new migration"
    assert not found.keys() - known.keys(), "add the new migration to migrations.sha256 (sha256sum), once it is final"
