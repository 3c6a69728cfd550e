"""Sessions over a real catalog: begun, rotated, idle, ended, revoked; a clock that jumps."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.catalogs import stored_bytes
from tests.unit.catalog.examples import NOON

from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ForbiddenError, UnauthenticatedError
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.last_use import SESSION_SECONDS, LastUse
from antiphon.governance.identity.sessions import IDLE, LASTS, Sessions

SECRET = bytes(range(32))
LEASE = timedelta(seconds=1)


class Gateway:
    """One process's view: its own keys and sessions over the common catalog."""

    def __init__(self, database: Database) -> None:
        self.keys = Keys(database, SECRET, last_use=LastUse(database, background=False))
        self.sessions = Sessions(database, self.keys, SECRET)


@pytest.fixture
def key(database: Database) -> str:
    return Gateway(database).keys.create("default", "ann", "engineer", kind="person")[0]


def test_a_session_speaks_for_its_key_in_every_gateway(database: Database, key: str) -> None:
    here, there = Gateway(database), Gateway(database)
    text = here.sessions.begin(key)
    for gateway in (here, there):
        held = gateway.sessions.find(text)
        assert held.principal == gateway.keys.authenticate(key)
        assert held.expires_at == NOON + LASTS
    stored = stored_bytes(database)
    assert text.encode() not in stored
    assert held.form_token.encode() not in stored


def test_only_a_key_that_holds_begins_one(database: Database, key: str) -> None:
    gateway = Gateway(database)
    for wrong in ("", "ak_wrong", key[:-1], "eyJhbGciOiJub25lIn0.e30."):
        with pytest.raises(UnauthenticatedError):
            gateway.sessions.begin(wrong)


def test_a_login_rotates_and_a_logout_ends_for_good(database: Database, clock: ManualClock, key: str) -> None:
    here, there = Gateway(database), Gateway(database)
    first = here.sessions.begin(key)
    there.sessions.find(first)
    second = here.sessions.begin(key, first)
    assert first != second
    with pytest.raises(UnauthenticatedError, match="ended"):
        here.sessions.find(first)
    here.sessions.end(second)
    here.sessions.end(second)
    clock.advance(LEASE)
    for gateway in (here, there):
        for text in (first, second):
            with pytest.raises(UnauthenticatedError, match="ended"):
                gateway.sessions.find(text)


def test_revoking_the_key_or_disabling_its_principal_ends_it(database: Database, clock: ManualClock, key: str) -> None:
    here, there = Gateway(database), Gateway(database)
    text = there.sessions.begin(key)
    here.keys.principals.change("default", "ann", disabled=True)
    clock.advance(LEASE)
    with pytest.raises(UnauthenticatedError, match="disabled"):
        there.sessions.find(text)
    here.keys.principals.change("default", "ann", disabled=False)
    clock.advance(LEASE)
    there.sessions.find(text)
    here.keys.revoke("default", here.keys.list("default")[0].id)
    clock.advance(LEASE)
    with pytest.raises(UnauthenticatedError):
        there.sessions.find(text)


def test_it_expires_whether_it_is_used_or_not(database: Database, clock: ManualClock, key: str) -> None:
    used, idle = Gateway(database), Gateway(database)
    text, unused = used.sessions.begin(key), used.sessions.begin(key)
    begin = clock.now()
    while clock.now() - begin < LASTS - timedelta(minutes=30):
        clock.advance(timedelta(minutes=30))
        used.sessions.find(text)
        used.keys.last_use.flush()
    idle.sessions.find(text)  # another gateway knows of the uses
    with pytest.raises(UnauthenticatedError, match="idle"):
        idle.sessions.find(unused)
    clock.advance(timedelta(minutes=30))
    for gateway in (used, idle):
        with pytest.raises(UnauthenticatedError, match="expired"):
            gateway.sessions.find(text)


def test_it_is_idle_after_the_declared_time(database: Database, clock: ManualClock, key: str) -> None:
    gateway = Gateway(database)
    text = gateway.sessions.begin(key)
    clock.advance(IDLE)
    gateway.sessions.find(text)
    clock.advance(IDLE + timedelta(seconds=SESSION_SECONDS))
    with pytest.raises(UnauthenticatedError, match="idle"):
        gateway.sessions.find(text)


def test_a_clock_that_jumps_back_does_not_revive_it(database: Database, key: str) -> None:
    gateway = Gateway(database)
    text = gateway.sessions.begin(key)
    ahead = ManualClock(NOON + LASTS + timedelta(minutes=1))
    database.clock = ahead
    later = Gateway(database)
    later.keys.authenticate(key)
    later.keys.last_use.flush()
    database.clock = ManualClock(NOON + timedelta(minutes=1))
    with pytest.raises(UnauthenticatedError, match="expired") as refused:
        Gateway(database).sessions.find(text)
    assert "clock" in str(refused.value)


def test_without_the_mark_in_the_catalog_it_would(
    database: Database, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.governance.identity.revocation.NewestTime.saw", lambda self, mark: None)
    text = Gateway(database).sessions.begin(key)
    database.clock = ManualClock(NOON + LASTS + timedelta(minutes=1))
    later = Gateway(database)
    later.keys.authenticate(key)
    later.keys.last_use.flush()
    database.clock = ManualClock(NOON + timedelta(minutes=1))
    assert Gateway(database).sessions.find(text).principal.id == "ann"


def test_a_form_belongs_to_one_session(database: Database, key: str) -> None:
    sessions = Gateway(database).sessions
    one, other = (sessions.find(sessions.begin(key)) for _ in range(2))
    sessions.check_form(one, one.form_token)
    for sent in (None, "", other.form_token, one.form_token[:-1], one.form_token + "x", "ü"):
        with pytest.raises(ForbiddenError):
            sessions.check_form(one, sent)


@pytest.mark.parametrize("text", ["", "x" * 43, "x" * 42, "x" * 10_000, "ü" * 43, "../" * 14 + "a", "a\x00" + "b" * 41])
def test_a_malformed_id_is_no_session(database: Database, key: str, text: str) -> None:
    sessions = Gateway(database).sessions
    with pytest.raises(UnauthenticatedError):
        sessions.find(text)
    sessions.end(text)
