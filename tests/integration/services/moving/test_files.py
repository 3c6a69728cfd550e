"""Files move by their hash: only what is missing, never what is damaged, and what was lost is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from tests.integration.services.test_served_models import model_version
from tests.unit.catalog.examples import DEV

from antiphon.catalog.learning.models import ModelFile
from antiphon.core.errors import CorruptionError
from antiphon.features.lake.content import path_of
from antiphon.features.lake.local import LocalLake
from antiphon.learning.registry.files import ModelFiles, lake_path
from antiphon.learning.retraining.checkpoints import SUFFIX
from antiphon.services.moving.files import MovedFiles, copy_files, copy_models, missing


def put(lake: LocalLake, content: bytes, suffix: str = ".parquet") -> str:
    with lake.writing(DEV, suffix) as draft:
        draft.write(content)
    return draft.path


def test_what_is_there_already_is_checked_and_not_written(tmp_path: Path) -> None:
    source, target = LocalLake(tmp_path / "one"), LocalLake(tmp_path / "two")
    first, second = put(source, b"first"), put(source, b"second one")
    put(target, b"first")
    assert (missing(source, target).copied, missing(source, target).copied_bytes) == (1, 10)
    steps: list[tuple[int, int]] = []
    moved = copy_files(source, target, [first], lambda *step: steps.append(step))
    assert (moved.files, moved.copied, moved.copied_bytes, moved.lost) == (2, 1, 10, ())
    assert steps[-1] == (15, 15)
    target.path(second).write_bytes(b"decayed")
    assert copy_files(source, target, []).copied == 1
    with target.open(second) as content:
        assert content.read() == b"second one"
    assert copy_files(source, target, []).copied == 0


def test_what_the_source_has_lost_is_told_and_never_written(tmp_path: Path) -> None:
    source, target = LocalLake(tmp_path / "one"), LocalLake(tmp_path / "two")
    damaged, gone = put(source, b"damaged"), path_of(DEV, hashlib.sha256(b"gone").hexdigest(), ".gguf")
    source.path(damaged).write_bytes(b"other")
    assert copy_files(source, target, [damaged, gone]).lost == (gone, damaged)
    assert not target.has(damaged)


def test_a_checkpoint_moves_and_a_damaged_one_is_no_loss(tmp_path: Path) -> None:
    source, target = LocalLake(tmp_path / "one"), LocalLake(tmp_path / "two")
    kept, damaged = put(source, b"step 20", SUFFIX), put(source, b"step 10", SUFFIX)
    source.path(damaged).write_bytes(b"other")
    assert copy_files(source, target, []).lost == ()
    assert (target.has(kept), target.has(damaged)) == (True, False)


class Forgetful(LocalLake):
    """A store that keeps the beginning of what is written."""

    def verify(self, relative: str, sha256: str) -> None:
        self.path(relative).write_bytes(b"f")
        super().verify(relative, sha256)


def test_a_store_that_does_not_keep_what_is_written_ends_the_move(tmp_path: Path) -> None:
    source, target = LocalLake(tmp_path / "one"), Forgetful(tmp_path / "two")
    put(source, b"first")
    with pytest.raises(CorruptionError, match="changed"):
        copy_files(source, target, [])


def test_files_of_models_go_to_a_lake_that_hosts_share_and_come_back(tmp_path: Path) -> None:
    shared, content = LocalLake(tmp_path / "shared"), {"adapter": b"adapter", "weights": b"weights"}
    files = {
        name: ModelFile(f"desk/{name}.bin", hashlib.sha256(content[name]).hexdigest(), len(content[name]))
        for name in content
    }
    version = msgspec.structs.replace(model_version("desk.v1", "desk", 1), scope=DEV, **files)
    here = ModelFiles(tmp_path / "here")
    (tmp_path / "here" / "desk").mkdir(parents=True)
    for name, file in files.items():
        (here.root / file.path).write_bytes(content[name])
    assert copy_models(here, shared, [version]).copied == 2
    assert copy_models(here, shared, [version]).copied == 0
    there = ModelFiles(tmp_path / "there", shared)  # The way back, on a host that never had them.
    assert copy_models(there, None, [version]) == MovedFiles(2, 14, 0, 0)
    assert (there.root / files["weights"].path).read_bytes() == b"weights"
    (here.root / files["weights"].path).write_bytes(b"decayed")
    shared.remove(lake_path(DEV, files["adapter"]))
    (here.root / files["adapter"].path).unlink()
    lost = copy_models(here, shared, [version]).lost
    assert lost == tuple(lake_path(DEV, files[name]) for name in ("adapter", "weights"))
