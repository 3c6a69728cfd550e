from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.catalog.examples import NOON, open_database

from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock
from antiphon.core.errors import Conflict, InvalidInput, NotFound, SetupError, Unauthenticated, Unavailable
from antiphon.governance.identity import LEASE_SECONDS, Keys, Principal
from antiphon.governance.secret import load_secret

SECRET = bytes(range(32))


def test_a_key_speaks_for_its_principal(database: Database) -> None:
    keys = Keys(database, SECRET)
    text, record = keys.create("default", "ann@example.org", "engineer", kind="person")
    assert text.startswith("ak_")
    assert text.endswith(record.hint)
    assert keys.authenticate(text) == Principal("ann@example.org", "default", "engineer", "person")
    assert keys.list("default") == [record]
    assert keys.list("other") == []


def test_the_catalog_does_not_hold_the_key(database: Database) -> None:
    text, _ = Keys(database, SECRET).create("default", "ann", "viewer")
    stored = b"".join(path.read_bytes() for path in database.path.parent.iterdir())
    assert text.encode() not in stored
    assert text[3:].encode() not in stored
    with pytest.raises(Unauthenticated, match="unknown"):
        Keys(database, bytes(32)).authenticate(text)


@pytest.mark.parametrize("text", ["", "ak_", "sk-foreign", "ak_" + "x" * 43])
def test_what_is_no_key_is_refused(database: Database, text: str) -> None:
    with pytest.raises(Unauthenticated):
        Keys(database, SECRET).authenticate(text)


def test_revoking_works_at_once_here_and_within_the_lease_elsewhere(database: Database, clock: ManualClock) -> None:
    here, elsewhere = Keys(database, SECRET), Keys(database, SECRET)
    text, record = here.create("default", "ann", "viewer")
    here.authenticate(text)
    elsewhere.authenticate(text)
    revoked = here.revoke("default", record.id)
    assert revoked.revoked_at == NOON
    assert here.revoke("default", record.id) == revoked
    with pytest.raises(Unauthenticated, match="revoked"):
        here.authenticate(text)
    elsewhere.authenticate(text)
    clock.advance(timedelta(seconds=LEASE_SECONDS + 0.01))
    with pytest.raises(Unauthenticated, match="revoked"):
        elsewhere.authenticate(text)


def test_a_key_expires_also_while_it_is_remembered(database: Database, clock: ManualClock) -> None:
    keys = Keys(database, SECRET)
    text, _ = keys.create("default", "ann", "viewer", NOON + timedelta(milliseconds=100))
    keys.authenticate(text)
    clock.advance(timedelta(milliseconds=100))
    with pytest.raises(Unauthenticated, match="expired"):
        keys.authenticate(text)
    with pytest.raises(InvalidInput, match="has passed"):
        keys.create("default", "ann", "viewer", NOON)


def test_keys_rotate_but_one_name_has_one_role(database: Database) -> None:
    keys = Keys(database, SECRET)
    old, record = keys.create("default", "ann", "viewer")
    new, _ = keys.create("default", "ann", "viewer")
    assert keys.authenticate(old) == keys.authenticate(new)
    with pytest.raises(Conflict, match="viewer"):
        keys.create("default", "ann", "admin")
    keys.create("other", "ann", "admin")
    keys.revoke("default", record.id)
    assert keys.authenticate(new).role == "viewer"


@pytest.mark.parametrize(
    ("tenant", "name", "role"), [("default", "ann", "king"), ("default", "", "viewer"), ("No Tenant", "ann", "viewer")]
)
def test_malformed_keys_are_refused(database: Database, tenant: str, name: str, role: str) -> None:
    with pytest.raises(InvalidInput):
        Keys(database, SECRET).create(tenant, name, role)


def test_a_tenant_revokes_only_its_own(database: Database) -> None:
    keys = Keys(database, SECRET)
    text, record = keys.create("default", "ann", "viewer")
    with pytest.raises(NotFound):
        keys.revoke("other", record.id)
    keys.authenticate(text)


class CutOff(Database):
    """A catalog that can be taken away."""

    away = False

    def read(self) -> AbstractContextManager:  # type: ignore[type-arg]
        if self.away:
            raise Unavailable("The catalog is away.")
        return super().read()


def test_known_keys_outlive_the_catalog_until_the_revocation_bound(tmp_path: Path, clock: ManualClock) -> None:
    open_database(tmp_path, clock).close()
    database = CutOff.open(f"sqlite:///{tmp_path}/catalog.db", clock=clock)
    assert isinstance(database, CutOff)
    keys = Keys(database, SECRET, revocation_bound=30.0)
    known, _ = keys.create("default", "ann", "viewer")
    unseen, _ = keys.create("default", "bob", "viewer")
    keys.authenticate(known)
    database.away = True
    clock.advance(timedelta(seconds=29))
    keys.authenticate(known)
    with pytest.raises(Unavailable):
        keys.authenticate(unseen)
    clock.advance(timedelta(seconds=2))
    with pytest.raises(Unavailable):
        keys.authenticate(known)
    database.away = False
    keys.authenticate(known)
    database.close()


def test_a_secret_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "server.secret"
    made = load_secret(path)
    assert len(made) == 32
    assert load_secret(path) == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["server.secret"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [(lambda p: p.chmod(0o644), "Others may read"), (lambda p: p.write_bytes(b"short"), "has 5 bytes")],
)
def test_a_damaged_secret_is_refused(tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "server.secret"
    load_secret(path)
    damage(path)
    with pytest.raises(SetupError, match=said):
        load_secret(path)
