"""An exhaustive small log: whatever is changed, removed, swapped, cut or written anew is found, and named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.governance.audit_tampering import Tampering, contents
from tests.unit.catalog.examples import DEV, open_database
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.catalog.database import Database
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import CorruptionError
from antiphon.governance.audit import verification as audit_check
from antiphon.governance.audit.checkpoint import Checkpoint
from antiphon.governance.audit.checkpoint_key import CheckpointKey
from antiphon.governance.audit.checkpointing import CheckpointSigner
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.record import AuditRow
from antiphon.governance.audit.verification import Verification, verify
from antiphon.governance.audit.witness import Witness
from antiphon.governance.encryption.sealing import AesGcmCodec

RECORDS = 17
"""One more than the leaves under the lowest kept node."""

SECRET, SEED = b"s" * 32, b"k" * 32
KEY = CheckpointKey(SEED)


class Desk:
    def __init__(self, folder: Path, mode: str) -> None:
        self.folder = folder
        self.codec: Codec = AesGcmCodec(Keys()) if mode == "encrypted" else PlainCodec()
        self.witness = Witness(folder / "witness")
        self.open()

    def open(self) -> None:
        self.database: Database = open_database(self.folder)
        self.database.codec = self.codec
        self.log = AuditLog(self.database, SECRET)
        self.checkpointing = CheckpointSigner(self.log, KEY, self.witness)

    def write(self, count: int, what: str = "release.activate") -> None:
        for number in range(count):
            self.log.append(
                DEV, "ann", what, f"rel_{number}", {"count": number}, originator="zoe" if number % 2 else None
            )

    def check(self, *, witnessed: bool = True) -> Verification:
        kept: tuple[Checkpoint, ...] = self.witness.read().of(KEY.origin(DEV)) if witnessed else ()
        return verify(self.log, DEV, key=KEY, checkpoints=kept)

    def restored(self, copy: Path) -> None:
        """An older copy of the catalog in the place of the present one."""
        self.database.close()
        for file in self.folder.glob("catalog.db*"):
            file.unlink()
        shutil.copy(copy, self.folder / "catalog.db")
        self.open()

    def copy(self) -> Path:
        self.database.erase_free_space()
        return Path(shutil.copy(self.folder / "catalog.db", self.folder / "copy"))


@pytest.fixture(params=["plaintext", "encrypted"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path, request.param)
    yield opened
    opened.database.close()


@pytest.fixture
def tampering(desk: Desk) -> Iterator[Tampering]:
    desk.write(RECORDS - 1)
    desk.checkpointing.sign(DEV)
    assert desk.log.erase(DEV, "rel_3", principal="bob", reason="asked for it") == 1
    assert desk.check().sound
    before = contents(desk.folder / "catalog.db")
    opened = Tampering(desk.folder / "catalog.db")
    yield opened
    opened.close()
    assert contents(desk.folder / "catalog.db") == before
    assert desk.check().sound


def test_every_changed_byte_is_found(desk: Desk, tampering: Tampering) -> None:
    missed, seen, unnamed = [], 0, []
    for change in tampering.changes(flips=(0x80 if desk.database.codec.sealing else 0x01,)):
        found, seen = desk.check(witnessed=False), seen + 1
        if found.sound:
            missed.append(change)
        if change.startswith("audit_entries") and " sequence " not in change:
            unnamed += [change] if found.first != int(change.split()[1]) else []
    assert missed == []
    assert seen > 1_350
    assert unnamed == []


def test_every_removal_is_found(desk: Desk, tampering: Tampering) -> None:
    removed = list(tampering.removals())
    assert len(removed) == RECORDS + 1 + 1
    for what in tampering.removals():
        found = desk.check()
        assert not found.sound, what
        if what.startswith("audit_entries"):
            number = int(what.split()[-1])
            assert found.first == number
            assert number == RECORDS - 1 or f"record {number} is missing" in found.problems


def test_every_swap_is_found_and_named(desk: Desk, tampering: Tampering) -> None:
    count = 0
    for what in tampering.swaps():
        found, count = desk.check(witnessed=False), count + 1
        assert f"record {found.first} was changed" in found.problems, what
        assert str(found.first) == what.split()[1]
    assert count == RECORDS * (RECORDS - 1) // 2


def test_without_reading_the_rows_again_changes_would_pass(
    desk: Desk, tampering: Tampering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The switch: the check believes stored leaves instead of hashing what the rows say."""
    leaves = {}
    real = audit_check._rows

    def believed(*given: object) -> Iterator[tuple[int, AuditRow | None]]:
        for sequence, row in real(*given):  # type: ignore[arg-type]
            leaves["last"] = row.leaf if row is not None else b""
            yield sequence, row

    monkeypatch.setattr(audit_check, "_rows", believed)
    monkeypatch.setattr(audit_check, "leaf_hash", lambda content: leaves["last"])
    passed = [
        change for change in tampering.changes(flips=(0x01,)) if " principal byte" in change and desk.check().sound
    ]
    assert len(passed) == 3 * (RECORDS - 1) + 3


def test_an_older_copy_of_the_catalog_is_found_by_the_witness_alone(desk: Desk) -> None:
    desk.write(6)
    copy = desk.copy()
    desk.write(6)
    desk.checkpointing.sign(DEV)
    desk.restored(copy)
    assert desk.check(witnessed=False).sound  # the switch: without the witness nothing is wrong
    found = desk.check()
    assert found.problems == ("the log was cut: a checkpoint of 12 records is witnessed, it has 6",)
    assert found.first == 6
    with pytest.raises(CorruptionError, match="was cut to 6"):
        desk.checkpointing.sign(DEV)


def test_another_history_is_found_by_the_witness_alone(desk: Desk) -> None:
    desk.write(3)
    desk.checkpointing.sign(DEV)
    desk.write(3)
    copy = desk.copy()
    desk.write(6)
    desk.checkpointing.sign(DEV)
    desk.restored(copy)
    desk.write(9, "keys.create")
    assert desk.check(witnessed=False).sound
    found = desk.check()
    assert found.problems == ("another history: records 3 to 11 are not those of the checkpoint of 12",)
    assert found.first == 3
    with pytest.raises(CorruptionError, match="does not continue"):
        desk.checkpointing.sign(DEV)
    assert [one.size for one in desk.witness.read().checkpoints] == [3, 12]


def test_a_checkpoint_of_somebody_else_is_none(desk: Desk) -> None:
    desk.write(4)
    head = desk.log.head(DEV).tree
    forged = CheckpointKey(b"x" * 32).sign(DEV, head.size, head.root)
    found = verify(desk.log, DEV, key=KEY, checkpoints=[forged])
    assert found.problems == ("the checkpoint of 4 records does not carry this installation's signature",)
    other = CheckpointKey(SEED, "elsewhere").sign(DEV, head.size, head.root)
    assert "another log" in verify(desk.log, DEV, key=KEY, checkpoints=[other]).problems[0]
