"""Files of model versions on several hosts: kept once, found by their hash from any of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests.unit.catalog.examples import DEV

from antiphon.core.errors import CorruptionError
from antiphon.features.lake.local import LocalLake
from antiphon.learning.registry.files import ModelFiles, StoredModelFiles, lake_path
from antiphon.training.order import ADAPTER, WEIGHTS, TrainedFile, TrainingResult


def trained(folder: Path) -> TrainingResult:
    """What a training left in its folder."""
    folder.mkdir()
    made = {}
    for name, content in ((ADAPTER, b"adapter"), (WEIGHTS, b"weights" * 1_000)):
        (folder / name).write_bytes(content)
        made[name] = TrainedFile(str(folder / name), hashlib.sha256(content).hexdigest(), len(content))
    return TrainingResult(
        identity="i" * 64,
        code="c",
        adapter=made[ADAPTER],
        weights=made[WEIGHTS],
        losses=(),
        seconds=1.0,
        environment={},
    )


def test_another_host_fetches_what_it_lacks_and_knows_what_is_gone(tmp_path: Path) -> None:
    lake = LocalLake(tmp_path / "lake")
    here, there = ModelFiles(tmp_path / "here", lake), ModelFiles(tmp_path / "there", lake)
    kept = here.keep(DEV, "desk/one", trained(tmp_path / "run"))
    assert here.keep(DEV, "desk/one", trained(tmp_path / "again")) == kept, "twice is once"
    assert isinstance(kept, StoredModelFiles)
    for file in (kept.adapter, kept.weights):
        found = there.verify(DEV, file, "desk.v1")
        assert found == tmp_path / "there" / file.path
        assert hashlib.sha256(found.read_bytes()).hexdigest() == file.sha256
    assert not list((tmp_path / "there").rglob("*.partial"))
    alone = ModelFiles(tmp_path / "alone")
    with pytest.raises(CorruptionError, match="is gone"):
        alone.verify(DEV, kept.adapter, "desk.v1")
    third = ModelFiles(tmp_path / "third", lake)
    lake.path(lake_path(DEV, kept.weights)).write_bytes(b"decayed")
    lake.remove(lake_path(DEV, kept.adapter))
    for file in (kept.adapter, kept.weights):
        with pytest.raises(CorruptionError, match="is gone"):
            third.verify(DEV, file, "desk.v1")
    assert not [path for path in (tmp_path / "third" / "desk").rglob("*") if path.is_file()], "nothing half is left"
