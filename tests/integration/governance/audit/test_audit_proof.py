"""Proofs and exports, checked by the stand-alone verifier in a Python that cannot see this package."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, open_database
from tests.unit.governance.audit import rfc6962
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.core.clock import ManualClock
from antiphon.core.errors import CorruptionError, InvalidInputError, NotFoundError
from antiphon.governance.audit import proof as audit_proof
from antiphon.governance.audit.checkpoint import Checkpoint
from antiphon.governance.audit.checkpoint_key import CheckpointKey, rotate
from antiphon.governance.audit.checkpointing import CheckpointSigner, NewestCheckpoint
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.verification import verify
from antiphon.governance.audit.witness import Witness
from antiphon.governance.encryption.sealing import AesGcmCodec
from antiphon.governance.verifier import FILE, antiphon_verify, source

KEY = CheckpointKey(b"k" * 32)
RECORDS = 37


class Desk:
    def __init__(self, folder: Path, mode: str) -> None:
        self.folder = folder
        self.clock = ManualClock(NOON)
        self.database = open_database(folder, self.clock)
        if mode == "encrypted":
            self.database.codec = AesGcmCodec(Keys())
        self.log = AuditLog(self.database, b"s" * 32)
        self.witness = Witness(folder / "witness")
        self.checkpointing = CheckpointSigner(self.log, KEY, self.witness)
        for number in range(RECORDS):
            self.log.append(DEV, "ann", "answer", f"pred_{number}", {"count": number}, originator="zoe.zimmermann")
            self.clock.advance(timedelta(minutes=1))
            if number % 10 == 9:
                self.checkpointing.sign(DEV)

    def sign(self) -> Checkpoint:
        signed = self.checkpointing.sign(DEV)
        assert signed is not None
        return signed

    def export(self, **period: Any) -> Path:
        file = self.folder / "export.jsonl"
        signed = self.sign()
        audit_proof.export(self.log, KEY, DEV, signed, self.witness.read().of(KEY.origin(DEV)), file, **period)
        return file


@pytest.fixture(params=["plaintext", "encrypted"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path, request.param)
    yield opened
    opened.database.close()


def checked(*arguments: str | Path) -> tuple[int, str]:
    """What the verifier says, by its own main (a process for each would be slow)."""
    told: list[str] = []
    say = antiphon_verify.say
    antiphon_verify.say = told.append
    try:
        return antiphon_verify.main([str(one) for one in arguments]), "\n".join(told)
    finally:
        antiphon_verify.say = say


def test_the_verifier_stands_alone(desk: Desk) -> None:
    program = desk.folder / "alone" / "verify.py"
    program.parent.mkdir()
    program.write_text(source())
    imported = {
        (node.names[0].name if isinstance(node, ast.Import) else str(node.module)).partition(".")[0]
        for node in ast.walk(ast.parse(source()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported - sys.stdlib_module_names == {"cryptography"}
    command = [sys.executable, "-I", str(program), str(desk.export()), "--key", KEY.verifier(DEV)]
    done = subprocess.run([*command, "--witness", str(desk.witness.path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "log antiphon/default/dev, checkpoint of 37 records",
        "records 0 to 36 are in it, none is left out; 4 witnessed checkpoints are its beginning",
        "4 checkpoints of the witness file agree",
        "everything holds",
    ]
    assert FILE.name == "antiphon_verify.py"


def test_a_period_is_a_run_without_a_gap(desk: Desk) -> None:
    file = desk.export(since=NOON + timedelta(minutes=5), until=NOON + timedelta(minutes=9))
    head, *rest = [json.loads(line) for line in file.read_text().splitlines()]
    assert (head["first"], head["records"], head["witnessed"]) == (5, 4, 4)
    records = rest[head["witnessed"] :]
    assert [record["sequence"] for record in records] == [5, 6, 7, 8]
    assert records[0]["opened"]["subject"]["text"] == "pred_5"
    assert records[0]["opened"]["originator"]["text"] == "zoe.zimmermann"
    assert "pred_5" not in records[0]["content"]
    assert checked(file, "--key", KEY.verifier(DEV))[0] == 0
    with pytest.raises(InvalidInputError, match="no record in this period"):
        desk.export(since=NOON + timedelta(days=1))


def test_every_changed_line_of_an_export_is_found(desk: Desk) -> None:
    file = desk.export()
    lines = file.read_text().splitlines()
    other = CheckpointKey(b"x" * 32)

    def wrong(changed: list[str], *more: str) -> str:
        file.write_text("\n".join(changed) + "\n")
        code, told = checked(file, *more)
        assert code == 1, told
        return told

    for number in range(1, len(lines)):
        wrong(lines[:number] + lines[number + 1 :])
    wrong([*lines, lines[-1]])
    wrong([*lines[:5], lines[6], lines[5], *lines[7:]])
    wrong([*lines[:-1], lines[-1].replace('"pred_36"', '"pred_35"')])
    wrong([*lines[:-1], lines[-1].replace('"answer', '"anwser')])
    wrong([*lines[:-1], lines[-1].replace("answer", "denied")])
    head = json.loads(lines[0])
    wrong([json.dumps({**head, "records": 36}), *lines[1:]])
    wrong([json.dumps({**head, "first": 1, "records": 36}), *lines[1:]])
    wrong([json.dumps({**head, "checkpoint": head["checkpoint"].replace("\n37\n", "\n38\n")}), *lines[1:]])
    wrong([json.dumps({**head, "key": other.verifier(DEV)}), *lines[1:]])
    for nonsense in ("", "{}", "[]", "nonsense", "null", '{"format": "antiphon audit export 1"}'):
        wrong([nonsense])
    assert "another key" in wrong(lines, "--key", other.verifier(DEV))
    file.write_text("\n".join(lines) + "\n")
    assert checked(file)[0] == 0
    assert checked(desk.folder / "gone")[0] == 2


def test_a_proof_stands_by_itself(desk: Desk) -> None:
    signed = desk.sign()
    sequence = audit_proof.find(desk.log, DEV, "pred_12", "answer")
    proof = audit_proof.prove(desk.log, KEY, DEV, sequence, signed)
    file = desk.folder / "proof.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(proof), indent=2))
    code, told = checked(file, "--key", KEY.verifier(DEV), "--witness", desk.witness.path)
    assert (code, "record 12 is in it: answer, done" in told) == (0, True)
    desk.witness.path.write_text("")
    code, told = checked(file, "--witness", desk.witness.path)
    assert (code, "not witnessed" in told) == (1, True)
    for where, value in (("sequence", 13), ("content", "{}"), ("path", [])):
        changed = json.loads(file.read_text())
        changed["record"][where] = value
        (desk.folder / "changed").write_text(json.dumps(changed))
        assert checked(desk.folder / "changed")[0] == 1
    with pytest.raises(NotFoundError):
        audit_proof.prove(desk.log, KEY, DEV, 37, signed)
    with pytest.raises(NotFoundError):
        audit_proof.find(desk.log, DEV, "pred_99", "answer")


def rotated(desk: Desk, path: Path) -> tuple[CheckpointKey, CheckpointKey]:
    """The desk's key replaced by another one, and further records under that."""
    path.write_bytes(b"k" * 32)
    path.chmod(0o600)
    before, made = CheckpointKey.load(path), rotate(path)
    assert before.public == KEY.public
    desk.checkpointing = CheckpointSigner(desk.log, made, desk.witness)
    for number in range(5):
        desk.log.append(DEV, "ann", "answer", f"pred_later_{number}")
    return before, made


def exported(desk: Desk, key: CheckpointKey, name: str) -> Path:
    file, signed = desk.folder / name, desk.sign()
    audit_proof.export(desk.log, key, DEV, signed, desk.witness.read().of(key.origin(DEV)), file)
    return file


def test_files_hold_under_the_key_before_a_rotation_and_the_one_after(desk: Desk, tmp_path: Path) -> None:
    old_file = exported(desk, KEY, "old.jsonl")
    before, made = rotated(desk, tmp_path / "audit.secret")
    file = exported(desk, made, "new.jsonl")
    witness = ("--witness", desk.witness.path)
    for key in (before, made):
        code, said = checked(file, "--key", key.verifier(DEV), *witness)
        assert (code, "1 earlier keys handed over to this one" in said) == (0, True), said
        assert "everything holds" in said
    # What was exported before goes on holding under the key of then, also beside what was witnessed since.
    assert checked(old_file, "--key", before.verifier(DEV), *witness)[0] == 0
    assert checked(old_file, "--key", made.verifier(DEV))[0] == 1
    stranger = CheckpointKey(b"x" * 32)
    assert checked(file, "--key", stranger.verifier(DEV))[0] == 1
    proof = tmp_path / "proof.json"
    proof.write_bytes(msgspec.json.encode(audit_proof.prove(desk.log, made, DEV, 3, desk.sign())))
    assert checked(proof, "--key", before.verifier(DEV), *witness)[0] == 0
    # A file of keys, as `antiphon audit key --earlier` prints it.
    keys = tmp_path / "keys"
    keys.write_text(f"{before.verifier(DEV)}\n{made.verifier(DEV)}\n")
    assert checked(file, "--key", keys)[0] == 0


@pytest.mark.parametrize("change", ["signature", "countersignature", "key", "stranger", "without"])
def test_a_forged_hand_over_is_found(change: str, desk: Desk, tmp_path: Path) -> None:
    before, made = rotated(desk, tmp_path / "audit.secret")
    file = exported(desk, made, "new.jsonl")
    head, *rest = file.read_text().splitlines()
    said = json.loads(head)
    (link,) = said["earlier"]
    stranger = CheckpointKey(b"x" * 32)
    if change in ("signature", "countersignature"):
        link[change] = link["countersignature" if change == "signature" else "signature"]
    elif change == "key":
        link["key"] = stranger.verifier(DEV)
    elif change == "stranger":
        # Somebody with a key of their own says that it came before: the present one did not say so.
        said["earlier"] = msgspec.to_builtins(stranger.hand_over(b"y" * 32).earlier_keys(DEV))
    else:
        said["earlier"] = []
    file.write_text("\n".join([json.dumps(said), *rest]) + "\n")
    trusted = before if change in ("signature", "countersignature", "without") else stranger
    assert checked(file, "--key", trusted.verifier(DEV))[0] == 1


def test_the_log_is_sound_under_the_next_key_and_a_strangers_signature_is_none(desk: Desk, tmp_path: Path) -> None:
    desk.sign()
    _, made = rotated(desk, tmp_path / "audit.secret")
    kept = desk.witness.read().of(made.origin(DEV))
    assert verify(desk.log, DEV, key=made, checkpoints=kept).sound
    assert desk.sign().size == RECORDS + 5
    assert verify(desk.log, DEV, key=made, checkpoints=desk.witness.read().of(made.origin(DEV))).sound
    # The switch: a key that does not know the one before.
    (tmp_path / "audit.earlier").unlink()
    alone = CheckpointKey.load(tmp_path / "audit.secret")
    assert "does not carry this installation's signature" in str(
        verify(desk.log, DEV, key=alone, checkpoints=kept).problems
    )


def test_proofs_are_those_of_the_rfc(desk: Desk) -> None:
    signed = desk.sign()
    proofs = [audit_proof.prove(desk.log, KEY, DEV, number, signed) for number in range(RECORDS)]
    entries = [proof.record.content.encode() for proof in proofs]
    assert rfc6962.mth(entries) == signed.root
    for number, proof in enumerate(proofs):
        assert antiphon_verify.decoded(list(proof.record.path)) == rfc6962.path(number, entries)
    for before in range(1, RECORDS):
        path = rfc6962.proof(before, entries)
        roots = antiphon_verify.roots_from_proof(before, RECORDS, True, rfc6962.mth(entries[:before]), path)
        assert roots == (rfc6962.mth(entries[:before]), signed.root)


def test_an_erased_person_breaks_no_proof(desk: Desk) -> None:
    before = audit_proof.prove(desk.log, KEY, DEV, 7, desk.sign())
    desk.log.erase(DEV, "zoe.zimmermann", principal="bob", reason="asked for it")
    after = audit_proof.prove(desk.log, KEY, DEV, 7, desk.sign())
    assert after.record.content == before.record.content
    assert set(before.record.opened) - set(after.record.opened) == {"originator"}
    assert checked(desk.export())[0] == 0
    assert "zoe.zimmermann" not in (desk.folder / "export.jsonl").read_text()


def test_nothing_is_exported_from_a_changed_log(desk: Desk) -> None:
    signed = desk.sign()
    with desk.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE audit_entries SET action = 'denied' WHERE sequence = 20")
    with pytest.raises(CorruptionError, match="Record 20"):
        desk.export()
    assert not (desk.folder / "export.jsonl").exists()
    with pytest.raises(CorruptionError, match="Record 20"):
        audit_proof.prove(desk.log, KEY, DEV, 20, signed)
    with desk.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM audit_entries WHERE sequence = 21")
    with pytest.raises(CorruptionError):
        audit_proof.prove(desk.log, KEY, DEV, 21, signed)
    assert list(desk.folder.glob("*.partial")) == []


def test_the_newest_checkpoint_is_read_once_a_second(desk: Desk) -> None:
    told = NewestCheckpoint(desk.log, desk.clock)
    first = told(DEV)
    assert first is not None
    assert first == desk.log.head(DEV).checkpoint
    signed = desk.sign()
    assert told(DEV) == first
    desk.clock.advance(timedelta(seconds=1.5))
    assert told(DEV) == signed.note
    desk.clock.advance(timedelta(seconds=1.5))
    desk.database.close()
    with desk.database.transaction() as connection:
        connection.exec_driver_sql("DROP TABLE audit_heads")
    assert told(DEV) == signed.note
