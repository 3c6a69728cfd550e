"""Users in audit records of an encrypted project: not on the disk, found, shown, proved, erased, and sealed anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from benchmarks.governance.disk_image import search
from tests.unit.catalog.examples import DEV, OTHER, open_database
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.catalog import sealed_columns
from antiphon.catalog.database import Database
from antiphon.catalog.sealed_columns import ORIGINATOR
from antiphon.core.codec import PlainCodec
from antiphon.core.errors import CorruptionError
from antiphon.governance.audit.checkpoint_key import CheckpointKey
from antiphon.governance.audit.log import AuditFilter, AuditLog
from antiphon.governance.audit.proof import prove
from antiphon.governance.audit.rows import UNREADABLE
from antiphon.governance.audit.verification import verify
from antiphon.governance.encryption.sealing import AesGcmCodec, UnsealingCodec

USER = "ZqPlantedUser"
KEY = CheckpointKey(b"k" * 32)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def keys(database: Database) -> Keys:
    keys = Keys()
    database.codec = AesGcmCodec(keys)
    return keys


def written(database: Database, count: int = 6) -> AuditLog:
    """Every second record has a user; the others have none, or another one."""
    log = AuditLog(database, b"s" * 32)
    for number in range(count):
        log.append(DEV, "ann", "answer", f"pred_{number}", originator=(USER, None, "zoe")[number % 3])
    return log


def found(log: AuditLog, who: str) -> list[int]:
    return [entry.sequence for entry in log.query(DEV, AuditFilter(who=who))]


def change(database: Database, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(database.path)) as connection, connection:
        connection.execute(statement, values)


def column(database: Database, name: str) -> list[Any]:
    with closing(sqlite3.connect(database.path)) as connection:
        return [row[0] for row in connection.execute(f"SELECT {name} FROM audit_entries ORDER BY sequence")]


def reseal(database: Database, target: str) -> int:
    return sum(batch.changed for batch in sealed_columns.reseal(database, ORIGINATOR, target, batch=2))


@pytest.mark.usefixtures("keys")
def test_a_user_is_not_on_the_disk_and_is_found(database: Database, tmp_path: Path) -> None:
    log = written(database)
    assert search([tmp_path], [USER])[USER] == []
    assert found(log, USER) == [3, 0]
    assert found(log, "ann") == [5, 4, 3, 2, 1, 0]
    assert found(log, "ZqPlantedUse") == []
    # The hash that stands in the column is no name: nobody is found by it.
    assert found(log, column(database, "originator")[0]) == []
    assert [entry.originator for entry in log.query(DEV)] == ["zoe", None, USER, "zoe", None, USER]
    # The same user has another hash in another tenant.
    log.append(OTHER, "ann", "answer", "pred_0", originator=USER)
    assert len({*column(database, "originator")} - {None}) == 3
    head = log.head(DEV)
    proof = prove(log, KEY, DEV, 3, KEY.sign(DEV, head.tree.size, head.tree.root))
    assert proof.record.opened["originator"].text == USER
    assert USER not in proof.record.content


def test_in_plaintext_a_user_is_on_the_disk(database: Database, tmp_path: Path) -> None:
    """The switch: what the search above finds when nothing is sealed."""
    written(database)
    assert search([tmp_path], [USER])[USER]
    assert column(database, "originator_sealed") == [None] * 6


@pytest.mark.usefixtures("keys")
def test_a_user_is_erased_from_both_columns(database: Database, tmp_path: Path) -> None:
    log = written(database)
    assert log.erase(DEV, USER, principal="bob", reason="asked for it") == 2
    assert column(database, "originator")[0] is column(database, "originator_sealed")[0] is None
    assert found(log, USER) == []
    assert found(log, "zoe") == [5, 2]
    assert (verify(log, DEV).sound, verify(log, DEV).erased) == (True, 2)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("UPDATE audit_entries SET originator = 'ab' WHERE sequence = 3", UNREADABLE),
        ("UPDATE audit_entries SET originator = NULL WHERE sequence = 3", UNREADABLE),
        ("UPDATE audit_entries SET originator_sealed = x'00' WHERE sequence = 3", UNREADABLE),
        ("UPDATE audit_entries SET originator_sealed = 7 WHERE sequence = 3", UNREADABLE),
        ("UPDATE audit_entries SET originator = 'mallory', originator_sealed = NULL WHERE sequence = 3", "mallory"),
        # Another record's user, with its index: of the same log, and sealed for its own number only.
        (
            "UPDATE audit_entries SET (originator, originator_sealed) = (SELECT originator, originator_sealed FROM "
            "audit_entries WHERE sequence = 2) WHERE sequence = 3",
            UNREADABLE,
        ),
    ],
)
def test_a_changed_user_is_found_and_keeps_no_other_record_from_being_shown(
    database: Database, statement: str, shown: str
) -> None:
    log = written(database)
    change(database, statement)
    assert (verify(log, DEV).problems, verify(log, DEV).first) == (("record 3 was changed",), 3)
    entries = log.query(DEV)
    assert [entry.originator for entry in entries] == ["zoe", None, shown, "zoe", None, USER]
    signed = KEY.sign(DEV, 6, log.head(DEV).tree.root)
    with pytest.raises(CorruptionError):
        prove(log, KEY, DEV, 3, signed)
    assert prove(log, KEY, DEV, 2, signed).record.sequence == 2


def test_a_sealed_user_in_a_project_in_plaintext_is_found(database: Database) -> None:
    log = written(database)
    envelope = database.seal(DEV, ORIGINATOR.schema, "3", USER.encode())
    change(database, "UPDATE audit_entries SET originator_sealed = ? WHERE sequence = 3", envelope)
    assert verify(log, DEV).problems == ("record 3 was changed",)


def test_a_log_goes_into_encryption_through_rotation_and_out_again_and_stays_the_same_log(
    database: Database, tmp_path: Path
) -> None:
    log = written(database)
    clear, root = column(database, "originator"), log.head(DEV).tree.root

    def same() -> None:
        check = verify(log, DEV)
        assert (check.sound, check.root) == (True, root.hex())
        assert (found(log, USER), found(log, "zoe")) == ([3, 0], [5, 2])
        assert [entry.originator for entry in reversed(log.query(DEV))] == clear

    keys = Keys()
    database.codec = AesGcmCodec(keys)
    same()  # a record from before is read as it is, and `encryption check` counts it
    assert sealed_columns.check(database, ORIGINATOR).by_key == {"plaintext": 4}
    assert log.erase(DEV, "nobody", principal="bob", reason="as well") == 0

    database.codec = AesGcmCodec(keys, accept_plain=True)
    assert reseal(database, "encrypted") == 4
    database.codec = AesGcmCodec(keys)
    same()
    database.compact()
    assert search([tmp_path], [USER])[USER] == []
    assert sealed_columns.check(database, ORIGINATOR).by_key == {"k1": 4}

    indexes, keys.current = column(database, "originator"), "k2"
    assert reseal(database, "k2") == 4
    assert reseal(database, "k2 again") == 0
    same()
    assert sealed_columns.check(database, ORIGINATOR).by_key == {"k2": 4}
    assert column(database, "originator") == indexes

    database.codec = UnsealingCodec(AesGcmCodec(keys, accept_plain=True))
    assert reseal(database, "plaintext") == 4
    database.codec = PlainCodec()
    same()
    assert column(database, "originator") == clear
    assert column(database, "originator_sealed") == [None] * 6


def test_a_user_that_was_lost_is_told_and_keeps_no_other_from_being_sealed_anew(database: Database, keys: Keys) -> None:
    written(database)
    change(database, "UPDATE audit_entries SET originator_sealed = x'00' WHERE sequence = 3")
    checked = sealed_columns.check(database, ORIGINATOR)
    assert (checked.by_key, [problem.subject for problem in checked.problems]) == ({"k1": 3}, ["3"])
    keys.current = "k2"
    batches = list(sealed_columns.reseal(database, ORIGINATOR, "k2"))
    assert sum(batch.changed for batch in batches) == 3
    assert [problem.subject for problem in batches[-1].problems] == ["3"]
