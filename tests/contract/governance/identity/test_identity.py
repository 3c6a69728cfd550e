"""Keys and principals over a real catalog: made, limited, rotated, revoked, recognized."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date, timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from tests.catalogs import stored_bytes
from tests.unit.catalog.examples import NOON, open_database

from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock
from antiphon.core.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    SetupError,
    UnauthenticatedError,
    UnavailableError,
)
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.last_use import LastUse, trust_clock
from antiphon.governance.identity.principal import Limits, Principal
from antiphon.governance.identity.revocation import LEASE_SECONDS
from antiphon.governance.secret import load_secret

SECRET = bytes(range(32))


def test_a_key_speaks_for_its_principal(database: Database) -> None:
    keys = Keys(database, SECRET)
    text, record = keys.create("default", "ann@example.org", "engineer", kind="person")
    assert text.startswith("ak_")
    assert text.endswith(record.hint)
    assert keys.authenticate(text) == Principal(
        "ann@example.org", "default", "engineer", "person", credential=record.id
    )
    assert keys.remembered(text) == keys.authenticate(text)
    # The day of its last use is noted by a thread, at its own time.
    assert [msgspec.structs.replace(one, last_used_on=None) for one in keys.list("default")] == [record]
    assert keys.list("other") == []


def test_the_catalog_does_not_hold_the_key(database: Database) -> None:
    text, _ = Keys(database, SECRET).create("default", "ann", "viewer")
    stored = stored_bytes(database)
    assert text.encode() not in stored
    assert text[3:].encode() not in stored
    with pytest.raises(UnauthenticatedError, match="unknown"):
        Keys(database, bytes(32)).authenticate(text)


@pytest.mark.parametrize("text", ["", "ak_", "sk-foreign", "ak_" + "x" * 43, "ak_" + "x" * 10_000, "ak_ü" + "x" * 42])
def test_what_is_no_key_is_refused(database: Database, text: str) -> None:
    keys = Keys(database, SECRET)
    with pytest.raises(UnauthenticatedError) as refused:
        keys.authenticate(text)
    assert keys.remembered(text) is None
    assert len(text) < 4 or text not in str(refused.value)


def test_revoking_works_at_once_here_and_within_the_lease_elsewhere(database: Database, clock: ManualClock) -> None:
    # The day of the last use stands in the record: it must not be written in between.
    here, elsewhere = (Keys(database, SECRET, last_use=LastUse(database, background=False)) for _ in range(2))
    text, record = here.create("default", "ann", "viewer")
    here.authenticate(text)
    elsewhere.authenticate(text)
    revoked = here.revoke("default", record.id)
    assert revoked.revoked_at == NOON
    assert here.revoke("default", record.id) == revoked
    with pytest.raises(UnauthenticatedError, match="revoked"):
        here.authenticate(text)
    elsewhere.authenticate(text)
    clock.advance(timedelta(seconds=LEASE_SECONDS + 0.01))
    assert elsewhere.remembered(text) is None
    with pytest.raises(UnauthenticatedError, match="revoked"):
        elsewhere.authenticate(text)


def test_a_disabled_principal_is_refused_with_every_key(database: Database, clock: ManualClock) -> None:
    keys = Keys(database, SECRET)
    texts = [keys.create("default", "ann", "viewer")[0] for _ in range(2)]
    keys.principals.change("default", "ann", disabled=True)
    for text in texts:
        with pytest.raises(UnauthenticatedError, match="disabled"):
            keys.authenticate(text)
    with pytest.raises(ConflictError, match="disabled"):
        keys.create("default", "ann", "viewer")
    keys.principals.change("default", "ann", disabled=False)
    clock.advance(timedelta(seconds=1))
    assert keys.authenticate(texts[0]).id == "ann"


def test_keys_follow_the_role_and_clearance_of_their_principal(database: Database, clock: ManualClock) -> None:
    keys = Keys(database, SECRET)
    text, _ = keys.create("default", "ann", "viewer")
    assert keys.authenticate(text).clearance == "internal"
    keys.principals.change("default", "ann", role="engineer", clearance="restricted")
    clock.advance(timedelta(seconds=1))
    who = keys.authenticate(text)
    assert (who.role, who.clearance) == ("engineer", "restricted")
    with pytest.raises(InvalidInputError, match="not a role"):
        keys.principals.change("default", "ann", role="king")
    with pytest.raises(NotFoundError):
        keys.principals.change("other", "ann", role="viewer")


def test_a_key_expires_also_while_it_is_remembered(database: Database, clock: ManualClock) -> None:
    keys = Keys(database, SECRET)
    text, _ = keys.create("default", "ann", "viewer", NOON + timedelta(milliseconds=100))
    keys.authenticate(text)
    clock.advance(timedelta(milliseconds=100))
    assert keys.remembered(text) is None
    with pytest.raises(UnauthenticatedError, match="expired"):
        keys.authenticate(text)
    with pytest.raises(InvalidInputError, match="has passed"):
        keys.create("default", "ann", "viewer", NOON)


def test_one_name_has_one_role(database: Database) -> None:
    keys = Keys(database, SECRET)
    _, record = keys.create("default", "ann", "viewer")
    new, _ = keys.create("default", "ann", "viewer")
    with pytest.raises(ConflictError, match="viewer"):
        keys.create("default", "ann", "admin")
    keys.create("other", "ann", "admin")
    keys.revoke("default", record.id)
    assert keys.authenticate(new).role == "viewer"


@pytest.mark.parametrize(
    ("tenant", "name", "role"), [("default", "ann", "king"), ("default", "", "viewer"), ("No Tenant", "ann", "viewer")]
)
def test_malformed_keys_are_refused(database: Database, tenant: str, name: str, role: str) -> None:
    with pytest.raises(InvalidInputError):
        Keys(database, SECRET).create(tenant, name, role)


def test_a_tenant_changes_only_its_own(database: Database) -> None:
    keys = Keys(database, SECRET)
    text, record = keys.create("default", "ann", "viewer")
    for crossing in (
        lambda: keys.revoke("other", record.id),
        lambda: keys.get("other", record.id),
        lambda: keys.rotate("other", record.id, timedelta(hours=1)),
        lambda: keys.rotate("other", "ann", timedelta(hours=1)),
    ):
        with pytest.raises(NotFoundError):
            crossing()
    keys.authenticate(text)


# ------------------------------------------------------------------ limits


def test_limits_are_kept_with_the_key_and_checked_when_it_is_made(database: Database) -> None:
    keys = Keys(database, SECRET)
    limits = Limits(("answer", "originate"), ("application/desk", "stream/*"))
    text, record = keys.create("default", "bot", "service", limits=limits)
    assert record.limits == keys.authenticate(text).limits == limits
    for wrong in (Limits(("dance",)), Limits((), ("desk",)), Limits((), ("application/a b",))):
        with pytest.raises(InvalidInputError):
            keys.create("default", "bot", "service", limits=wrong)


# ------------------------------------------------------------------ rotation


def test_a_rotated_key_holds_for_the_overlap_and_its_successor_is_like_it(
    database: Database, clock: ManualClock
) -> None:
    keys = Keys(database, SECRET)
    limits = Limits(("answer",))
    old, before = keys.create("default", "bot", "service", NOON + timedelta(days=90), limits=limits)
    keys.authenticate(old)
    clock.advance(timedelta(days=10))
    rotated = keys.rotate("default", "bot", timedelta(hours=1))
    assert rotated.record.limits == limits
    assert rotated.record.expires_at == NOON + timedelta(days=100)
    assert rotated.replaced.id == before.id
    assert rotated.replaced.replaced_by == rotated.record.id
    assert rotated.replaced.expires_at == NOON + timedelta(days=10, hours=1)
    clock.advance(timedelta(minutes=59))
    assert keys.authenticate(old).id == keys.authenticate(rotated.key).id == "bot"
    clock.advance(timedelta(minutes=1))
    with pytest.raises(UnauthenticatedError, match="expired"):
        keys.authenticate(old)
    keys.authenticate(rotated.key)


def test_rotation_during_an_overlap_takes_the_newest_and_never_lengthens_a_key(
    database: Database, clock: ManualClock
) -> None:
    keys = Keys(database, SECRET)
    _, first = keys.create("default", "bot", "service", NOON + timedelta(minutes=10))
    second = keys.rotate("default", "bot", timedelta(hours=1))
    assert second.replaced.expires_at == NOON + timedelta(minutes=10)
    third = keys.rotate("default", "bot", timedelta(hours=1))
    assert (third.replaced.id, first.id) == (second.record.id, second.replaced.id)
    with pytest.raises(InvalidInputError):
        keys.rotate("default", "bot", timedelta(days=31))
    keys.create("default", "bot", "service")
    with pytest.raises(ConflictError, match="2 valid keys") as several:
        keys.rotate("default", "bot", timedelta(hours=1))
    assert third.record.id in str(several.value)
    assert keys.rotate("default", third.record.id, timedelta(hours=1)).replaced.id == third.record.id
    with pytest.raises(NotFoundError):
        keys.rotate("default", third.record.id, timedelta(hours=1))


# ------------------------------------------------------------------ last use and the clock


def test_the_day_of_the_last_use_is_known_without_a_write_for_each(database: Database, clock: ManualClock) -> None:
    last_use = LastUse(database, background=False)
    keys = Keys(database, SECRET, last_use=last_use)
    text, record = keys.create("default", "bot", "service")
    assert record.last_used_on is None
    for _ in range(50):
        keys.authenticate(text)
    assert keys.get("default", record.id).last_used_on is None
    last_use.flush()
    assert keys.get("default", record.id).last_used_on == date(NOON.year, NOON.month, NOON.day)
    written: list[str] = []
    event = database.backend.engine, "before_cursor_execute"
    sa.event.listen(*event, lambda _connection, _cursor, statement, *_: written.append(statement))
    keys.authenticate(text)
    last_use.flush()
    changes = [one for one in written if one.startswith(("INSERT", "UPDATE", "DELETE"))]
    assert len(changes) <= 1  # the mark of the newest time at most
    clock.advance(timedelta(days=1))
    keys.authenticate(text)
    last_use.flush()
    assert keys.get("default", record.id).last_used_on == (NOON + timedelta(days=1)).date()


def test_uses_are_written_by_themselves(tmp_path: Path) -> None:
    import time

    database = open_database(tmp_path, None)
    keys = Keys(database, SECRET)
    text, record = keys.create("default", "bot", "service")
    keys.authenticate(text)
    deadline = time.monotonic() + 10
    while keys.get("default", record.id).last_used_on is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    database.close()


def test_a_clock_that_jumps_back_revives_no_key(database: Database) -> None:
    late = ManualClock(NOON + timedelta(hours=2))
    database.clock = late
    keys = Keys(database, SECRET, last_use=LastUse(database, background=False))
    other, _ = keys.create("default", "other", "viewer")
    database.clock = ManualClock(NOON)
    text, _ = Keys(database, SECRET).create("default", "ann", "viewer", NOON + timedelta(hours=1))
    database.clock = late
    keys.authenticate(other)
    keys.last_use.flush()
    database.clock = ManualClock(NOON)  # another process, whose clock went back
    behind = Keys(database, SECRET, last_use=LastUse(database, background=False))
    with pytest.raises(UnauthenticatedError, match="expired") as refused:
        behind.authenticate(text)
    assert "behind the newest time" in str(refused.value)
    with database.transaction() as connection:
        assert trust_clock(database, within=connection) == (NOON + timedelta(hours=2), NOON)
    assert Keys(database, SECRET, last_use=LastUse(database, background=False)).authenticate(text).id == "ann"


def test_a_key_from_the_future_is_refused_and_said(database: Database) -> None:
    database.clock = ManualClock(NOON + timedelta(minutes=10))
    text, _ = Keys(database, SECRET).create("default", "ann", "viewer")
    database.clock = ManualClock(NOON)
    with pytest.raises(UnauthenticatedError, match="from the future"):
        Keys(database, SECRET, last_use=LastUse(database, background=False)).authenticate(text)


# ------------------------------------------------------------------ work in somebody's name


def test_work_stops_when_its_key_is_revoked_and_not_when_it_expires(database: Database, clock: ManualClock) -> None:
    ordering, working = Keys(database, SECRET), Keys(database, SECRET)
    text, record = ordering.create("default", "bot", "service", NOON + timedelta(minutes=1))
    who = ordering.authenticate(text)
    assert working.stop_reason(who) is None
    clock.advance(timedelta(hours=1))
    assert working.stop_reason(who) is None
    ordering.revoke("default", record.id)
    clock.advance(timedelta(seconds=LEASE_SECONDS + 0.01))
    assert "revoked" in str(working.stop_reason(who))
    assert working.stop_reason(Principal("evaluation", "default", "service")) is None


def test_work_of_a_token_stops_when_its_principal_is_disabled(database: Database, clock: ManualClock) -> None:
    keys = Keys(database, SECRET)
    who = Principal("ann", "default", "engineer", "person", credential="token")
    assert keys.stop_reason(who) is None
    keys.principals.create("default", "ann", "engineer", kind="person")
    keys.principals.change("default", "ann", disabled=True)
    clock.advance(timedelta(seconds=1))
    assert keys.stop_reason(who) is not None


# ------------------------------------------------------------------ the catalog away


class CutOff(Database):
    """A catalog that can be taken away."""

    away = False

    def read(self) -> AbstractContextManager:  # type: ignore[type-arg]
        if self.away:
            raise UnavailableError("The catalog is away.")
        return super().read()


def test_known_keys_outlive_the_catalog_until_the_revocation_bound(tmp_path: Path, clock: ManualClock) -> None:
    open_database(tmp_path, clock).close()
    database = CutOff.open(f"sqlite:///{tmp_path}/catalog.db", clock=clock)
    assert isinstance(database, CutOff)
    keys = Keys(database, SECRET, revocation_bound=30.0, last_use=LastUse(database, background=False))
    known, _ = keys.create("default", "ann", "viewer")
    unseen, _ = keys.create("default", "bob", "viewer")
    keys.authenticate(known)
    database.away = True
    clock.advance(timedelta(seconds=29))
    keys.authenticate(known)
    with pytest.raises(UnavailableError):
        keys.authenticate(unseen)
    clock.advance(timedelta(seconds=2))
    with pytest.raises(UnavailableError, match="believed for 30 s at most"):
        keys.authenticate(known)
    database.away = False
    keys.authenticate(known)
    database.close()


# ------------------------------------------------------------------ the server's secret


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
