"""Adapters in peft's format: peft loads them, and merges what the served weights have merged."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.integration.training.conftest import TINY

from antiphon.catalog.learning.models import ModelFile, ModelVersion
from antiphon.core.errors import ConflictError, CorruptionError
from antiphon.core.scope import Scope
from antiphon.learning.registry.adapters import WEIGHTS, export_peft
from antiphon.learning.registry.files import ModelFiles
from antiphon.training.base import Base
from antiphon.training.convert import _changes
from antiphon.training.model import _llama, read_adapter
from antiphon.training.order import TrainingResult

# peft reads a property of transformers that its next release renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def version_of(trained: TrainingResult) -> ModelVersion:
    adapter = ModelFile(Path(trained.adapter.path).name, trained.adapter.sha256, trained.adapter.size)
    return ModelVersion(
        id="desk.v1", scope=Scope(), application="desk", number=1, base="tiny", base_sha256="b", dataset="d",
        dataset_hash="h", replay_datasets=(), parent=None, recipe={}, identity=trained.identity, code=trained.code,
        adapter=adapter, weights=adapter, losses=(), seconds=1.0, environment={}, run=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


def test_peft_loads_what_is_exported_and_changes_each_matrix_as_the_served_weights(
    base: Path, trained_here: TrainingResult, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel

    folder = Path(trained_here.adapter.path).parent
    made = export_peft(version_of(trained_here), ModelFiles(folder), tmp_path / "peft")
    assert (made.rank, made.alpha) == (TINY.rank, TINY.alpha)
    exact = Base(base)
    plain = {name: matrix.copy() for name, matrix in exact.tensors()}
    loaded: Any = PeftModel.from_pretrained(_llama(exact, msgspec.structs.replace(TINY, dtype="fp32")), made.folder)
    merged = loaded.merge_and_unload().state_dict()
    tensors, made_of = read_adapter(Path(trained_here.adapter.path), None)
    changes = _changes(tensors, made_of["alpha"] / made_of["rank"])
    assert len(changes) == 2 * 7
    for name, change in changes.items():
        assert np.abs(change).max() > 0
        expected = torch.from_numpy((plain[name].astype(np.float64) + change).astype(np.float32))
        torch.testing.assert_close(merged[name], expected, rtol=1e-5, atol=1e-6)


def test_the_folder_is_plain_and_another_adapter_in_it_is_not_overwritten(
    trained_here: TrainingResult, tmp_path: Path
) -> None:
    files, version = ModelFiles(Path(trained_here.adapter.path).parent), version_of(trained_here)
    made = export_peft(version, files, tmp_path / "peft")
    configuration = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert configuration["peft_type"] == "LORA"
    assert configuration["base_model_name_or_path"] == "tiny"
    assert export_peft(version, files, tmp_path / "peft") == made, "writing it again changes nothing"
    (tmp_path / "peft" / WEIGHTS).write_bytes(b"another")
    with pytest.raises(ConflictError, match="another adapter"):
        export_peft(version, files, tmp_path / "peft")


def test_a_changed_adapter_is_not_exported(trained_here: TrainingResult, tmp_path: Path) -> None:
    copied = tmp_path / Path(trained_here.adapter.path).name
    copied.write_bytes(b"changed")
    with pytest.raises(CorruptionError, match="not the one that was registered"):
        export_peft(version_of(trained_here), ModelFiles(tmp_path), tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
