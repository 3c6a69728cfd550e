"""Adapters of model versions in peft's own format, for whatever else loads one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from antiphon.catalog.learning.models import ModelVersion
from antiphon.core.disk import file_sha256, put_private
from antiphon.core.errors import ConflictError, InvalidInputError
from antiphon.learning.registry.files import ModelFiles
from antiphon.training.model import read_adapter
from antiphon.training.recipe import require_libraries

WEIGHTS, CONFIGURATION = "adapter_model.safetensors", "adapter_config.json"
"""The files of an adapter as peft names them."""


_REFUSED = ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform")
"""Settings of peft that change what an adapter means, and that nothing here computes."""


class ImportedAdapter(msgspec.Struct, frozen=True):
    """LoRA matrices by peft's names, float32, and what they were made of."""

    tensors: dict[str, Any]
    rank: int
    alpha: int


class ExportedAdapter(msgspec.Struct, frozen=True):
    """An adapter that was written to a folder; ``sha256`` is that of its weights."""

    model: str
    folder: str
    base: str
    rank: int
    alpha: int
    sha256: str


def read_peft(folder: Path) -> ImportedAdapter:
    """Reads an adapter in peft's format.

    Raises:
        InvalidInputError: it is none, or one of another kind than plain LoRA on linear layers.
        SetupError: the extra ``train`` is not installed.
    """
    require_libraries()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        described = msgspec.json.decode((folder / CONFIGURATION).read_bytes(), type=dict[str, Any])
        tensors = load_file(folder / WEIGHTS)
        rank, alpha = int(described["r"]), int(described["lora_alpha"])
    except (OSError, msgspec.DecodeError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"The folder has no adapter in peft's format ({error}).",
            where=str(folder),
            next_step=f"It needs {CONFIGURATION} and {WEIGHTS}, as save_pretrained writes them.",
        ) from error
    odd = [name for name in _REFUSED if described.get(name)]
    odd += [name for name in sorted(tensors) if not name.endswith((".lora_A.weight", ".lora_B.weight"))][:1]
    if described.get("peft_type") != "LORA" or described.get("bias", "none") != "none" or odd:
        raise InvalidInputError(
            f"The adapter is no plain LoRA on linear layers ({', '.join(odd) or described.get('peft_type')}).",
            where=str(folder),
            next_step="Merge it with peft and pull the merged model, or train a plain one.",
        )
    return ImportedAdapter({name: tensor.float() for name, tensor in tensors.items()}, rank, alpha)


def export_peft(version: ModelVersion, files: ModelFiles, folder: Path) -> ExportedAdapter:
    """Writes a version's LoRA matrices to a folder that ``peft.PeftModel.from_pretrained`` loads over its base model.

    The matrices are the float32 ones that were trained, not the quantized weights that are served.

    Raises:
        ConflictError: the folder holds another adapter.
        CorruptionError: the version's adapter is gone or is another one.
        SetupError: the extra ``train`` is not installed.
    """
    require_libraries()
    tensors, made_of = read_adapter(files.verify(version.scope, version.adapter, version.id), version.adapter.sha256)
    from peft import LoraConfig
    from safetensors.torch import save

    content = save(tensors, {"format": "pt"})
    path = folder / WEIGHTS
    if path.exists() and path.read_bytes() != content:
        raise ConflictError(
            "The folder holds another adapter.", where=str(folder), next_step="Give an empty folder with --output."
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    configuration: Any = LoraConfig(
        base_model_name_or_path=version.base,
        task_type="CAUSAL_LM",
        r=made_of["rank"],
        lora_alpha=made_of["alpha"],
        lora_dropout=0.0,
        bias="none",
        target_modules=sorted({name.split(".")[-3] for name in tensors}),
        inference_mode=True,
    )
    configuration.save_pretrained(str(folder))
    put_private(path, content)
    return ExportedAdapter(version.id, str(folder), version.base, made_of["rank"], made_of["alpha"], file_sha256(path))
