from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.governance.encryption.test_sealing import HERE, Keys

from antiphon.core.codec import PlainCodec
from antiphon.core.errors import CorruptionError
from antiphon.governance.encryption.sealing import AesGcmCodec, UnsealingCodec
from antiphon.training import examples, folder_seal
from antiphon.training.checkpoint import Checkpoints, CheckpointState
from antiphon.training.folder_seal import KEY, PLAIN, FolderSeal

WORD = "PLANTEDWORD"
LEARNED = [examples.Example("e", WORD, (examples.Part(" yes", 1.0),))]


def test_a_file_opens_under_its_name_and_with_its_folders_key_alone(tmp_path: Path) -> None:
    codec = AesGcmCodec(Keys())
    seal = folder_seal.folder_seal(tmp_path / "run_1", codec, HERE)
    stored = seal.seal("examples.jsonl", WORD.encode())
    assert WORD.encode() not in stored
    assert seal.open("examples.jsonl", stored) == WORD.encode()
    assert folder_seal.folder_seal(tmp_path / "run_1", codec, HERE).open("examples.jsonl", stored) == WORD.encode()
    other = folder_seal.folder_seal(tmp_path / "run_2", codec, HERE)
    for where, name, content in (
        (seal, "step-000001.safetensors", stored), (other, "examples.jsonl", stored),
        (seal, "examples.jsonl", WORD.encode()), (seal, "examples.jsonl", stored[:-1]),
    ):  # fmt: skip
        with pytest.raises(CorruptionError):
            where.open(name, content)
    (tmp_path / "run_2" / KEY).write_bytes((tmp_path / "run_1" / KEY).read_bytes())
    with pytest.raises(CorruptionError):
        folder_seal.folder_seal(tmp_path / "run_2", codec, HERE)


def test_in_plaintext_nothing_changes(tmp_path: Path) -> None:
    seal = folder_seal.folder_seal(tmp_path, PlainCodec(), HERE)
    assert seal is PLAIN
    assert seal.seal("a", b"content") == b"content" == seal.open("a", b"content")
    assert list(tmp_path.iterdir()) == []


def test_examples_have_the_same_identity_sealed_or_clear(tmp_path: Path) -> None:
    seal = FolderSeal(bytes(32))
    clear = examples.write(tmp_path / "clear.jsonl", LEARNED)
    sealed = examples.write(tmp_path / "sealed.jsonl", LEARNED, seal)
    assert clear == sealed == examples.content_sha256(tmp_path / "sealed.jsonl", seal)
    assert examples.read(tmp_path / "sealed.jsonl", sealed, examples.Example, seal) == tuple(LEARNED)
    assert WORD.encode() not in (tmp_path / "sealed.jsonl").read_bytes()
    assert examples.content_sha256(tmp_path / "sealed.jsonl", FolderSeal(b"\1" * 32)) is None


def test_a_sealed_checkpoint_is_gone_on_from_and_one_of_another_key_is_not(tmp_path: Path) -> None:
    seal, notices = FolderSeal(bytes(32)), []
    written = Checkpoints(tmp_path, "this", notices.append, seal)
    path = written.save(CheckpointState("this", 3), {"masters": torch.ones(4)})
    assert b"masters" not in path.read_bytes()
    found = Checkpoints(tmp_path, "this", notices.append, seal).load()
    assert found is not None
    assert (found[0].step, found[1]["masters"].tolist()) == (3, [1.0] * 4)
    assert Checkpoints(tmp_path, "this", notices.append, FolderSeal(b"\1" * 32)).load() is None
    assert "cannot be read" in notices[0]


def test_a_folder_goes_into_encryption_and_out_of_it_and_its_key_is_sealed_anew(tmp_path: Path) -> None:
    run = tmp_path / "run_1"
    run.mkdir()
    (run / "training" / "checkpoints").mkdir(parents=True)
    (run / "training" / "checkpoints" / "step-000001.safetensors").write_bytes(WORD.encode())
    sha256 = examples.write(run / "examples.jsonl", LEARNED)
    keys = Keys()
    codec = AesGcmCodec(keys, accept_plain=True)
    assert list(folder_seal.folders(tmp_path)) == [run]
    assert folder_seal.reseal(run, codec, HERE) == 1
    assert not any(WORD.encode() in file.read_bytes() for file in run.rglob("*") if file.is_file())
    assert folder_seal.reseal(run, codec, HERE) == 0
    keys.current = "k2"
    assert folder_seal.reseal(run, codec, HERE) == 1
    del keys.keys[HERE, "k1"]
    seal = folder_seal.folder_seal(run, AesGcmCodec(keys), HERE)
    assert examples.content_sha256(run / "examples.jsonl", seal) == sha256
    assert folder_seal.reseal(run, UnsealingCodec(codec), HERE) == 1
    assert examples.content_sha256(run / "examples.jsonl") == sha256
    assert not (run / KEY).exists()
