from __future__ import annotations

import json
from datetime import timedelta

import pytest
import sqlalchemy as sa
from tests.unit.catalog.examples import DEV, NOON, OTHER
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.sqlite_file import SqliteFile
from antiphon.core.clock import ManualClock
from antiphon.core.errors import CorruptionError, InvalidInputError
from antiphon.core.ids import canonical
from antiphon.governance.audit import merkle
from antiphon.governance.audit import record as audit_record
from antiphon.governance.audit.log import AuditFilter, AuditLog
from antiphon.governance.audit.rows import COLUMNS, loaded
from antiphon.governance.audit.verification import verify
from antiphon.governance.encryption.sealing import AesGcmCodec

SECRET = bytes(range(32))


@pytest.fixture(params=["plaintext", "encrypted"], autouse=True)
def _mode(request: pytest.FixtureRequest, database: Database) -> None:
    """The contract holds in both modes."""
    if request.param == "encrypted":
        database.codec = AesGcmCodec(Keys())


@pytest.fixture
def audit(database: Database) -> AuditLog:
    log = AuditLog(database, SECRET)
    for number in range(5):
        log.append(DEV, "ann", "release.activate", f"rel_{number}", {"number": number}, originator="zoe")
    return log


def test_records_are_numbered_per_scope(audit: AuditLog, database: Database) -> None:
    latest = audit.query(DEV, AuditFilter(limit=2))
    assert [entry.sequence for entry in latest] == [4, 3]
    assert (latest[0].at, latest[0].principal, latest[0].originator) == (NOON, "ann", "zoe")
    assert (latest[0].detail, latest[0].outcome) == ({"number": 4}, "done")
    assert [entry.sequence for entry in audit.query(DEV, AuditFilter(before=2))] == [1, 0]
    assert audit.query(DEV, AuditFilter(action="other")) == []
    AuditLog(database, SECRET).append(OTHER, "bob", "keys.create", "key_1")
    assert [entry.sequence for entry in audit.query(OTHER)] == [0]
    assert audit.scopes() == audit.scopes(headless=True) == [DEV, OTHER]
    with database.transaction() as connection:
        connection.execute(sa.text("UPDATE audit_heads SET tenant = 'No Name' WHERE tenant = 'other'"))
        damaged = "CAST(x'ff' AS TEXT)" if isinstance(database.backend, SqliteFile) else "'Neither'"
        connection.execute(sa.text(f"UPDATE audit_heads SET tenant = {damaged} WHERE tenant = 'default'"))
    assert (audit.scopes(), audit.scopes(headless=True)) == ([], [DEV, OTHER])


def test_an_untouched_log_is_sound(audit: AuditLog) -> None:
    found = verify(audit, DEV)
    assert (found.sound, found.entries, found.erased, found.first) == (True, 5, 0, None)
    assert found.root == audit.head(DEV).tree.root.hex()
    assert verify(audit, OTHER).sound


def test_an_act_and_its_record_are_one_transaction(audit: AuditLog, database: Database) -> None:
    def act_and_fail() -> None:
        with database.transaction() as connection:
            audit.append(DEV, "ann", "keys.create", "key_1", within=connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        act_and_fail()
    assert audit.query(DEV, AuditFilter(limit=1))[0].sequence == 4
    assert verify(audit, DEV).sound


def test_a_group_of_several_scopes_is_one_transaction(audit: AuditLog, database: Database) -> None:
    acts = [audit.act(scope, "ann", "data.read", f"pred_{number}") for number in range(40) for scope in (DEV, OTHER)]
    with database.transaction() as connection:
        audit.append_all(acts, within=connection)
    for scope, numbers in ((DEV, range(5, 45)), (OTHER, range(40))):
        assert [entry.sequence for entry in reversed(audit.query(scope, AuditFilter(limit=40)))] == [*numbers]
    assert verify(audit, DEV).entries == 45
    assert verify(audit, DEV).sound
    assert verify(audit, OTHER).sound


def test_a_leaf_holds_no_name_in_clear(audit: AuditLog, database: Database) -> None:
    with database.read() as connection:
        stored = connection.execute(sa.select(*COLUMNS)).all()
    rows = [loaded(database, DEV, one) for one in stored]
    salts = {row.principal_salt for row in rows} | {row.subject_salt for row in rows}
    assert len(salts) == 10
    for row in rows:
        content = audit_record.content(DEV, row)
        assert merkle.leaf_hash(content) == row.leaf
        for name in (b"ann", b"zoe", b"rel_"):
            assert name not in content


def test_details_have_no_payloads(audit: AuditLog) -> None:
    audit.append(
        DEV, "ann", "batch_create", "/admin/batch",
        {"rows": [{"shop": "a"}], "question": "what is my balance?", "reason": "r" * 900, "views": ["a", "b"],
         "count": 3, "since": NOON, "to": None, "forced": True, "step": 0.5, "model": {"a": 1}},
    )  # fmt: skip
    assert audit.query(DEV)[0].detail == {
        "rows": "1 items", "reason": "r" * 500, "views": ["a", "b"], "count": 3, "since": NOON.isoformat(),
        "forced": True, "step": 0.5, "model": "1 fields", "omitted": ["question"],
    }  # fmt: skip
    audit.append(DEV, "a\udcffn", "b", "c")
    assert audit.query(DEV)[0].principal == "a?n"
    for wrong in ({"principal": ""}, {"principal": "x" * 513}, {"action": ""}, {"subject": "x" * 513}):
        with pytest.raises(InvalidInputError, match="characters"):
            audit.act(DEV, **{"principal": "ann", "action": "a", "subject": "s", **wrong})
    with pytest.raises(InvalidInputError, match="no outcome"):
        audit.append(DEV, "ann", "a", "s", outcome="perhaps")  # type: ignore[arg-type]


def test_who_saw_or_changed_what(audit: AuditLog, clock: ManualClock) -> None:
    clock.advance(timedelta(hours=1))
    audit.append(DEV, "bob", "data.read", "pred_1", originator="zoe")
    audit.append(DEV, "bob", "denied", "/admin/keys", outcome="denied")
    audit.append(OTHER, "bob", "data.read", "pred_1")
    clock.advance(timedelta(hours=1))
    audit.append(DEV, "bob", "release.rollback", "rel_1")

    def asked(**wanted: object) -> list[int]:
        return [entry.sequence for entry in audit.query(DEV, AuditFilter(**wanted))]  # type: ignore[arg-type]

    assert asked(who="bob") == [7, 6, 5]
    assert asked(who="zoe", since=NOON + timedelta(minutes=1)) == [5]
    assert asked(action="release.*", until=NOON + timedelta(hours=1)) == [4, 3, 2, 1, 0]
    assert asked(action="release.rollback") == [7]
    assert asked(subject="pred_1") == [5]
    assert asked(subject="rel_*", who="bob") == [7]
    assert asked(denied=True) == [6]
    assert asked(since=NOON + timedelta(hours=1), until=NOON + timedelta(hours=2)) == [6, 5]
    assert asked(limit=2, before=6) == [5, 4]
    with pytest.raises(InvalidInputError):
        asked(limit=0)
    with pytest.raises(InvalidInputError):
        asked(since=NOON + timedelta(1), until=NOON)


def test_a_person_is_erased_and_the_log_still_verifies(audit: AuditLog, database: Database) -> None:
    audit.append(DEV, "bob", "key.create", "key_1", {"name": "zoe", "role": "viewer"})
    audit.append(DEV, "bob", "denied", "/admin/keys", {"reason": "zoe (viewer) may not."}, outcome="denied")
    audit.append(DEV, "zoe", "data.read", "zoe", {"name": "zoel"})
    root = audit.head(DEV).tree.root
    with database.read() as connection:
        before = merkle.inclusion(audit.kept(DEV, connection), 2, 8)
    assert audit.erase(DEV, "zoe", principal="ann", reason="asked for it") == 5 + 2 + 2
    assert audit.erase(DEV, "zoe", principal="ann", reason="again") == 0
    with database.read() as connection:
        after = merkle.inclusion(audit.kept(DEV, connection), 2, 8)
        leaf = connection.execute(sa.text("SELECT leaf FROM audit_entries WHERE sequence = 2")).scalar_one()
        text = str(connection.execute(sa.text("SELECT * FROM audit_entries")).all())
    assert (before, merkle.included(leaf, 2, 8, after, root)) == (after, True)
    assert "zoe'" not in text
    assert "zoe (" not in text
    found = verify(audit, DEV)
    assert (found.sound, found.erased, found.entries) == (True, 9, 9)
    entries = {entry.sequence: entry for entry in audit.query(DEV)}
    assert (entries[0].originator, entries[0].erased) == (None, ("originator",))
    assert (entries[5].detail, entries[5].erased) == (None, ("detail",))
    assert (entries[7].principal, entries[7].subject, entries[7].detail) == (None, None, {"name": "zoel"})
    assert (entries[8].action, entries[8].detail) == ("audit.erase", {"count": 9, "reason": "asked for it"})
    with pytest.raises(InvalidInputError, match="cannot erase itself"):
        audit.erase(DEV, "ann", principal="ann", reason="hide")


def test_an_erasure_that_the_log_does_not_tell_is_found(audit: AuditLog, database: Database) -> None:
    audit.erase(DEV, "zoe", principal="bob", reason="asked for it")
    with database.transaction() as connection:
        row = connection.execute(sa.text("SELECT subject_salt, subject FROM audit_entries WHERE sequence = 1")).one()
        erased = audit_record.commitment("subject", *row)
        table = schema.audit_entries
        told = connection.execute(sa.select(table.c.erased).where(table.c.sequence == 1)).scalar_one()
        silently = {"subject": None, "subject_salt": None, "erased": canonical(json.loads(told) | {"subject": erased})}
        connection.execute(sa.update(table).where(table.c.sequence == 1).values(silently))
    problems = verify(audit, DEV).problems
    assert problems == ("6 names or details are missing, the log says that 5 were erased",)


def test_a_damaged_head_is_never_extended(audit: AuditLog, database: Database) -> None:
    with pytest.raises(CorruptionError, match="head"):
        AuditLog(database, bytes(32)).append(DEV, "bob", "a", "s")
    with database.transaction() as connection:
        connection.execute(sa.text("DELETE FROM audit_heads"))
    with pytest.raises(CorruptionError, match="no head"):
        audit.append(DEV, "bob", "a", "s")
    assert not verify(audit, DEV).sound
    assert len(audit.query(DEV)) == 5


def test_a_log_written_anew_without_the_secret_is_found(audit: AuditLog, database: Database) -> None:
    with database.transaction() as connection:
        for table in ("audit_entries", "audit_nodes", "audit_heads"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
    forger = AuditLog(database, bytes(32))
    for number in range(5):
        forger.append(DEV, "bob", "release.activate", f"rel_{number}")
    assert verify(forger, DEV).sound
    assert any("not as this server left it" in problem for problem in verify(audit, DEV).problems)
