"""Catalog and secrets are never made anew where something was made under them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from antiphon.catalog import schema
from antiphon.catalog.features.publications import Publications
from antiphon.core.errors import SetupError, UnavailableError
from antiphon.services.project import required_files
from antiphon.services.project.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with a key, a lake file and an online file."""
    (tmp_path / "antiphon.toml").write_text('[project]\nname = "fleet"\n[engine]\nkind = "simulated"\n')
    store = Store.open(tmp_path)
    store.keys.create(store.scope.tenant, "someone", "admin", kind="person")
    store.secret("online")
    store.secret("subject")
    for folder, name in ((store.paths.lake, "rows.parquet"), (store.paths.online, "snap.mdb")):
        place = folder / store.scope.tenant / store.scope.environment / "buses"
        place.mkdir(parents=True)
        (place / name).write_bytes(b"rows")
    store.close()
    return tmp_path


def remove_catalog(root: Path) -> Path:
    for path in (root / ".antiphon").glob("catalog.db*"):
        path.unlink()
    return root / ".antiphon" / "catalog.db"


def test_a_catalog_that_is_gone_is_not_made_anew(root: Path) -> None:
    catalog = remove_catalog(root)
    with pytest.raises(SetupError, match="its catalog is gone or empty") as told:
        Store.open(root)
    assert not catalog.exists()
    assert "backup" in (told.value.next_step or "")


def test_an_emptied_catalog_is_not_filled(root: Path) -> None:
    remove_catalog(root).touch()
    with pytest.raises(SetupError, match="its catalog is gone or empty"):
        Store.open(root)


def test_a_new_project_and_an_emptied_one_begin(tmp_path: Path, root: Path) -> None:
    remove_catalog(root)
    shutil.move(root / ".antiphon", tmp_path / "aside")
    Store.open(root).close()


def test_a_secret_alone_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "antiphon.toml").write_text('[project]\nname = "fleet"\n[engine]\nkind = "simulated"\n')
    keys = tmp_path / ".antiphon" / "keys"
    keys.mkdir(parents=True)
    (keys / "session.secret").write_bytes(b"s" * 32)
    Store.open(tmp_path).close()


@pytest.mark.parametrize("name", ["online", "server"])
def test_a_lost_secret_is_not_made_anew(root: Path, name: str) -> None:
    file = root / ".antiphon" / "keys" / f"{name}.secret"
    file.unlink()
    with pytest.raises(SetupError, match=f"The secret '{name}' is gone"):
        Store.open(root)
    assert not file.exists()


def test_a_secret_that_goes_while_a_process_runs_is_not_made_by_it(root: Path) -> None:
    store = Store.open(root)
    (root / ".antiphon" / "keys" / "online.secret").unlink()
    with pytest.raises(SetupError, match="The secret 'online' is gone"):
        store.secret("online")
    store.close()


def test_without_an_online_store_its_secret_is_made(root: Path) -> None:
    (root / ".antiphon" / "keys" / "online.secret").unlink()
    shutil.rmtree(root / ".antiphon" / "online")
    store = Store.open(root)
    assert len(store.secret("online")) == 32
    store.close()


def test_secrets_under_which_nothing_was_made_are_made(root: Path) -> None:
    for name in ("subject", "audit", "session"):
        (root / ".antiphon" / "keys" / f"{name}.secret").unlink(missing_ok=True)
    store = Store.open(root)
    assert len(store.secret("subject")) == 32
    store.close()


def test_a_catalog_that_goes_while_it_is_open_is_told_and_not_written_beside(root: Path) -> None:
    store = Store.open(root)
    assert store.database.revision() == schema.REVISION
    catalog = remove_catalog(root)
    with pytest.raises(UnavailableError, match="deleted or replaced while it was open"):
        Publications(store.database).current(store.scope)
    with pytest.raises(UnavailableError, match="deleted or replaced"), store.database.transaction() as connection:
        connection.execute(sa.text("SELECT 1"))
    assert not catalog.exists()
    store.close()


def test_without_the_defence_an_empty_catalog_takes_its_place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_catalog(root)
    monkeypatch.setattr(required_files, "_data", lambda paths: None)
    store = Store.open(root)
    assert store.keys.list(store.scope.tenant) == []
    store.close()
