from __future__ import annotations

from pathlib import Path

import pytest
import torch

from antiphon.training.checkpoint import Checkpoints, CheckpointState


def values(step: int) -> dict[str, torch.Tensor]:
    return {"masters": torch.full((5,), float(step)), "first_moment": torch.zeros(5)}


def standing(step: int, identity: str = "this") -> CheckpointState:
    return CheckpointState(identity, step, tuple((n, 1.0 / n) for n in range(1, step + 1)), 2.5 * step, ("a notice",))


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[str] = []
        self.checkpoints = Checkpoints(path, "this", self.notices.append)

    def save(self, *steps: int) -> None:
        for step in steps:
            self.checkpoints.save(standing(step), values(step))

    def loaded_step(self) -> int | None:
        found = self.checkpoints.load()
        if found is None:
            return None
        assert torch.equal(found[1]["masters"], values(found[0].step)["masters"])
        assert found[0] == standing(found[0].step)
        return found[0].step


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "checkpoints")


def test_nothing_is_a_start(folder: Folder) -> None:
    assert folder.loaded_step() is None
    assert folder.notices == []


def test_the_latest_is_used_and_two_are_kept(folder: Folder) -> None:
    folder.save(1, 2, 10)
    assert folder.loaded_step() == 10
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "step-000002.safetensors",
        "step-000002.sha256",
        "step-000010.safetensors",
        "step-000010.sha256",
    ]
    assert folder.notices == []


def test_a_corrupt_one_is_named_and_the_one_before_used(folder: Folder) -> None:
    folder.save(4, 5)
    path = folder.path / "step-000005.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert folder.loaded_step() == 4
    assert "step-000005.safetensors does not match its hash" in folder.notices[0]
    assert "step 4" in folder.notices[1]
    assert not path.exists()


def test_none_valid_is_said(folder: Folder) -> None:
    folder.save(4, 5)
    for path in folder.path.glob("*.safetensors"):
        path.write_bytes(b"")
    assert folder.loaded_step() is None
    assert "from the start" in folder.notices[-1]


def test_a_crash_before_the_hash_leaves_one_that_does_not_count(folder: Folder) -> None:
    folder.save(4, 5)
    (folder.path / "step-000005.sha256").unlink()
    (folder.path / "step-000006.safetensors.partial").write_bytes(b"half")
    assert folder.loaded_step() == 4
    assert "being written" in folder.notices[0]
    assert not list(folder.path.glob("*.partial"))


def test_a_stale_hash_does_not_vouch_for_a_newer_file(folder: Folder) -> None:
    folder.save(4)
    stale = (folder.path / "step-000004.sha256").read_text()
    folder.checkpoints.save(standing(4), values(9))
    assert (folder.path / "step-000004.sha256").read_text() != stale


def test_another_orders_checkpoint_is_not_used(folder: Folder) -> None:
    folder.checkpoints.save(standing(7, "other"), values(7))
    assert folder.loaded_step() is None
    assert "another order" in folder.notices[0]


def test_a_file_with_a_hash_that_is_no_checkpoint_is_named(folder: Folder) -> None:
    import hashlib

    folder.save(4)
    (folder.path / "step-000005.safetensors").write_bytes(b"not safetensors")
    (folder.path / "step-000005.sha256").write_text(hashlib.sha256(b"not safetensors").hexdigest())
    assert folder.loaded_step() == 4
    assert "cannot be read" in folder.notices[0]


def test_another_process_reads_the_newest_whole_one_without_touching_any(folder: Folder) -> None:
    assert folder.checkpoints.newest() is None
    folder.save(4, 5)
    found = folder.checkpoints.newest()
    assert found is not None
    assert folder.checkpoints.newest(after=4) == found
    assert folder.checkpoints.newest(after=5) is None
    path = folder.path / "step-000005.safetensors"
    assert found == (5, path.read_bytes())
    path.write_bytes(b"half")  # as while its hash is of the content before
    assert folder.checkpoints.newest(after=4) is None
    (step, _) = folder.checkpoints.newest() or (0, b"")
    assert (step, path.exists(), folder.notices) == (4, True, [])
    folder.checkpoints.put(*found)
    assert folder.loaded_step() == 5
