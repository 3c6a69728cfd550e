from __future__ import annotations

import pytest
import sqlalchemy as sa
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.core.errors import InvalidInput
from antiphon.governance.audit import AuditLog

SECRET = bytes(range(32))


@pytest.fixture
def audit(database: Database) -> AuditLog:
    log = AuditLog(database, SECRET)
    for number in range(5):
        log.append(DEV, "ann", "release.activate", f"rel_{number}", {"number": number})
    return log


def tamper(database: Database, statement: str) -> None:
    with database.transaction() as connection:
        assert connection.execute(sa.text(statement)).rowcount > 0


def test_entries_are_numbered_and_chained(audit: AuditLog, database: Database) -> None:
    latest = audit.list(DEV, limit=2)
    assert [entry.sequence for entry in latest] == [5, 4]
    assert latest[0].previous == latest[1].hash
    assert (latest[0].at, latest[0].principal, latest[0].detail) == (NOON, "ann", {"number": 4})
    assert [entry.sequence for entry in audit.list(DEV, before=3)] == [2, 1]
    assert audit.list(DEV, action="other") == []
    other = AuditLog(database, SECRET).append(OTHER, "bob", "keys.create", "key_1")
    assert (other.sequence, other.previous) == (1, "00" * 32)


def test_an_untouched_chain_is_sound(audit: AuditLog) -> None:
    checkpoint = audit.checkpoint(DEV)
    audit.append(DEV, "ann", "keys.create", "key_1")
    found = audit.verify(DEV, checkpoint)
    assert (found.sound, found.entries, found.checkpoint) == (True, 6, audit.checkpoint(DEV))
    assert audit.verify(OTHER).sound


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE audit_entries SET principal = 'bob' WHERE sequence = 3", "entry 3 was changed"),
        ("UPDATE audit_entries SET detail = '{}' WHERE sequence = 3", "entry 3 was changed"),
        ("UPDATE audit_entries SET at = at + 1 WHERE sequence = 1", "entry 1 was changed"),
        ("DELETE FROM audit_entries WHERE sequence = 3", "entry 3 is missing"),
        ("DELETE FROM audit_entries WHERE sequence = 1", "entry 1 is missing"),
        ("DELETE FROM audit_entries WHERE sequence = 5", "the chain ends at entry 4"),
        ("DELETE FROM audit_entries", "the chain ends at entry 0"),
        ("DELETE FROM audit_heads", "its head is entry 0"),
    ],
)
def test_what_was_changed_or_removed_is_found(audit: AuditLog, database: Database, statement: str, said: str) -> None:
    tamper(database, statement)
    found = audit.verify(DEV)
    assert not found.sound
    assert any(said in problem for problem in found.problems), found.problems


def test_reordered_entries_are_found(audit: AuditLog, database: Database) -> None:
    for before, after in ((2, -1), (3, 2), (-1, 3)):
        tamper(database, f"UPDATE audit_entries SET sequence = {after} WHERE sequence = {before}")
    problems = audit.verify(DEV).problems
    assert "entry 2 was changed" in problems
    assert "entry 2 does not follow the entry before it" in problems


def test_a_chain_written_anew_without_the_secret_is_found(audit: AuditLog, database: Database) -> None:
    tamper(database, "DELETE FROM audit_entries")
    tamper(database, "DELETE FROM audit_heads")
    forger = AuditLog(database, bytes(32))
    for number in range(5):
        forger.append(DEV, "bob", "release.activate", f"rel_{number}", {"number": number})
    assert forger.verify(DEV).sound
    assert "entry 1 was changed" in audit.verify(DEV).problems


def test_a_checkpoint_kept_elsewhere_shows_a_cut_end(audit: AuditLog, database: Database) -> None:
    kept = audit.checkpoint(DEV)
    tamper(database, "DELETE FROM audit_entries WHERE sequence = 5")
    fourth = audit.list(DEV, limit=1)[0]
    tamper(database, f"UPDATE audit_heads SET sequence = 4, hash = x'{fourth.hash}'")
    assert audit.verify(DEV).sound
    assert audit.verify(DEV, kept).problems == ("the checkpoint's entry 5 is missing",)
    audit.append(DEV, "bob", "something.else", "x")
    assert audit.verify(DEV, kept).problems == ("entry 5 is not the one of the checkpoint",)
    with pytest.raises(InvalidInput):
        audit.verify(DEV, "no checkpoint")


def test_an_act_and_its_entry_are_one_transaction(audit: AuditLog, database: Database) -> None:
    def act_and_fail() -> None:
        with database.transaction() as connection:
            audit.append(DEV, "ann", "keys.create", "key_1", within=connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        act_and_fail()
    assert audit.list(DEV, limit=1)[0].sequence == 5
    assert audit.verify(DEV).sound
