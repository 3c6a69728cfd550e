"""Data keys and the mode of a project in its catalog, on every database."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.catalogs import opened_again, stored_bytes

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.sealed_columns import SEALED_COLUMNS, check
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.clock import ManualClock
from antiphon.core.errors import CorruptionError, SetupError
from antiphon.core.scope import Scope
from antiphon.core.settings_governance import EncryptionSettings
from antiphon.governance.encryption import keyring
from antiphon.governance.encryption.data_keys import DataKeys
from antiphon.governance.encryption.keyring import FileKeyring
from antiphon.governance.encryption.protection import Protection, protect, record_mode, recorded_mode, require_mode

HERE, THERE = Scope("acme", "prod"), Scope("other", "prod")
PASSPHRASE = "four random words here"
SETTINGS = EncryptionSettings(mode="encrypted", keyring="ring.json", secret="S")


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileKeyring:
    monkeypatch.setattr(keyring, "N", 2**10)
    keyring.create(tmp_path / "ring.json", PASSPHRASE)
    return FileKeyring(tmp_path / "ring.json", PASSPHRASE)


def protected(database: Database, folder: Path) -> Protection:
    return protect(database, SETTINGS, HERE, folder, {"S": PASSPHRASE})


def test_one_key_of_a_purpose_is_active_and_those_before_go_on_opening(
    database: Database, ring: FileKeyring, clock: ManualClock
) -> None:
    keys = DataKeys(database, ring)
    assert keys.active(HERE) is None
    first = keys.ensure(HERE)
    assert keys.ensure(HERE) == first == keys.active(HERE)
    index = keys.ensure(HERE, "index")
    assert keys.active(THERE) is None
    clock.advance(timedelta(hours=1))
    second = keys.rotate(HERE)
    assert keys.active(HERE) == second
    assert keys.active(HERE, "index") == index
    listed = {one.id: one for one in keys.list()}
    assert set(listed) == {first.id, index.id, second.id}
    assert (listed[first.id].state, listed[first.id].retired_at) == ("retired", clock.now())
    assert len({keys.unwrap(one) for one in listed.values()}) == 3
    assert keys.get(THERE, first.id) is None


def test_a_key_is_wrapped_anew_and_stays_the_key_it_is(database: Database, ring: FileKeyring) -> None:
    keys = DataKeys(database, ring)
    before = keys.ensure(HERE)
    secret = keys.unwrap(before)
    assert not keys.rewrap(before)
    ring.rotate()
    (present,) = keys.list()
    assert keys.rewrap(present)
    (after,) = keys.list()
    assert after.wrapped.wrapping_key != before.wrapped.wrapping_key
    assert keys.unwrap(after) == secret
    with database.transaction() as connection:  # Put where another tenant's would be.
        connection.execute(sa.update(schema.data_keys).values(tenant=THERE.tenant))
    (moved,) = keys.list()
    with pytest.raises(CorruptionError):
        keys.unwrap(moved)


def test_a_project_stays_in_its_mode_until_a_migration_is_through(database: Database) -> None:
    assert recorded_mode(database, HERE) is None
    require_mode(database, HERE, "plaintext")
    require_mode(database, HERE, "plaintext")
    with pytest.raises(SetupError, match="antiphon encryption enable"):
        require_mode(database, HERE, "encrypted")
    require_mode(database, THERE, "encrypted")
    record_mode(database, HERE, "encrypted", migrating=True)
    for mode in ("plaintext", "encrypted"):
        with pytest.raises(SetupError, match="antiphon encryption enable` goes on"):
            require_mode(database, HERE, mode)  # type: ignore[arg-type]
    record_mode(database, HERE, "encrypted")
    require_mode(database, HERE, "encrypted")


@pytest.mark.usefixtures("ring")
def test_what_a_protected_catalog_stores_is_read_by_another_process_and_not_by_a_dump(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    word = b"PLANTEDWORD" * 20
    protected(database, tmp_path)
    digest = Blobs(database).put(HERE, word)
    other = opened_again(database, clock)
    held = protected(other, tmp_path)
    assert Blobs(other).get(HERE, digest) == word
    assert held.keys is not None
    assert word[:11] not in stored_bytes(other)
    (blobs,) = (column for column in SEALED_COLUMNS if column.name == "blobs.payload")
    active = held.keys.active(HERE)
    assert active is not None
    assert check(other, blobs).by_key == {active.id: 1}
    other.close()
