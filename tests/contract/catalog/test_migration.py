"""Makes, migrates and refuses catalogs, in a file and on a server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from tests.catalogs import KINDS, postgres
from tests.harness.second_migration import SECOND, with_second_migration
from tests.unit.catalog.examples import DEV

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.errors import SetupError

_numbers = count(1)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(kind: str, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of its own: a migration leaves it as no other test wants it."""
    with place_of(kind, tmp_path, "template0") as url:
        yield url


@pytest.fixture
def catalog(kind: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a catalog at the first revision with a row in it."""
    with place_of(kind, tmp_path, "template") as url:
        database = migrated(url)
        Blobs(database).put(DEV, b"a row")
        database.close()
        yield url


@contextmanager
def place_of(kind: str, folder: Path, template: str) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/catalog.db"
        return
    server, name = postgres(), f"migrated_{next(_numbers)}"
    server.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield urlsplit(server.url_with_password)._replace(path=f"/{name}").geturl()
    finally:
        server.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def second(catalog: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_second_migration(tmp_path_factory.mktemp("migrations"), monkeypatch)


def migrated(place: str) -> Database:
    database = Database.open(place)
    try:
        database.migrate()
    except BaseException:
        database.close()
        raise
    return database


def digest(place: str) -> str:
    """Of every column, index and row."""
    engine = sa.create_engine(place.replace("postgresql://", "postgresql+psycopg://"))
    found, known = [], sa.MetaData()
    with engine.connect() as connection:
        known.reflect(connection)
        for table in known.sorted_tables:
            rows = sorted(repr(tuple(row)) for row in connection.execute(table.select()))
            indexes = sorted((str(index.name), index.unique) for index in table.indexes)
            found.append((table.name, [(c.name, str(c.type)) for c in table.columns], indexes, rows))
    engine.dispose()
    return hashlib.sha256(repr(found).encode()).hexdigest()


def revision_in(place: str) -> str | None:
    database = Database.open(place)
    try:
        return database.revision()
    finally:
        database.close()


def test_an_empty_database_is_migrated_to_exactly_the_schema(place: str) -> None:
    database = Database.open(place)
    assert database.revision() is None
    database.migrate()
    database.migrate()
    assert database.revision() == schema.REVISION
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    database.close()


@pytest.mark.usefixtures("second")
def test_rows_are_migrated_to_the_next_revision_once(catalog: str) -> None:
    database = migrated(catalog)
    assert database.revision() == "2"
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT note FROM blobs")).scalars().all() == ["moved"]
    database.close()
    after = digest(catalog)
    migrated(catalog).close()
    assert digest(catalog) == after


def test_a_migration_that_fails_leaves_the_catalog_as_it_was(catalog: str, second: Path) -> None:
    before = digest(catalog)
    second.write_text(SECOND + "    raise RuntimeError('the last row cannot be read')\n")
    with pytest.raises(RuntimeError, match="last row"):
        migrated(catalog)
    assert digest(catalog) == before
    second.write_text(SECOND)
    migrated(catalog).close()
    assert revision_in(catalog) == "2"


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("9", r"revision 9, this version knows up to 1\..*newer version"),
        ("0017", r"revision 0017, of a version before the first release"),
    ],
)
def test_a_newer_and_an_unreleased_catalog_are_refused_and_left_as_they_are(
    catalog: str, revision: str, message: str
) -> None:
    database = Database.open(catalog)
    with database.transaction() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :found"), {"found": revision})
    database.close()
    before = digest(catalog)
    with pytest.raises(SetupError, match=message):
        migrated(catalog)
    assert digest(catalog) == before


def test_a_foreign_database_is_refused(place: str) -> None:
    database = Database.open(place)
    with database.transaction() as connection:
        connection.execute(sa.text("CREATE TABLE theirs (x INTEGER)"))
    database.close()
    before = digest(place)
    with pytest.raises(SetupError, match="no Antiphon catalog"):
        migrated(place)
    assert digest(place) == before
