"""The recipe of a fine-tuning and its identity.

Invariant: the same identity gives the same bytes on the same machine; whatever could change them is in it.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.ids import content_hash

PRECISIONS = ("q8_0", "q4_1", "q4_0", "f16")
DTYPES = ("bf16", "fp32")
DEVICES = ("cpu", "cuda")
EXAMPLES, PREFERENCES = METHODS = ("examples", "preferences")
_LIBRARIES = ("gguf", "numpy", "peft", "torch", "transformers")


class Arithmetic(msgspec.Struct, frozen=True):
    """The number format that a model is computed in while it is trained, and the device (see ``arithmetic``)."""

    dtype: str = "bf16"
    device: str = "cpu"


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every setting of one training. How much a text weighs beside a label is written in the examples' parts.

    Attributes:
        rank, alpha: of the LoRA matrices on every linear layer; a layer's change is ``alpha / rank · B A``.
        batch: examples a step, of which ``replay`` is the share of old examples when there are any.
        steps: updates of the weights; with more batches than examples they are gone through again.
        learning_rate: at its highest: it rises during the share ``warmup`` of the steps and falls along a cosine.
        precision: of the trained matrices in the file that is served, one of ``PRECISIONS``.
        seed: of the initial values and of the order.
        threads: that compute; another number rounds differently, so it is part of what is trained.
        checkpoint_every: steps between two checkpoints.
        dtype, device: what the model is computed in and on, chosen for the machine before the recipe is written. The
            values of versions that were trained before there was a choice are the defaults.
        method: what the file holds that is learned from. ``beta``: of preferences, see ``preferences``.
    """

    rank: int = 16
    alpha: int = 32
    batch: int = 16
    steps: int = 100
    learning_rate: float = 1e-3
    warmup: float = 0.1
    replay: float = 0.0
    precision: str = "q8_0"
    seed: int = 0
    threads: int = 2
    checkpoint_every: int = 10
    dtype: str = "bf16"
    device: str = "cpu"
    method: str = EXAMPLES
    beta: float = 0.1

    def check(self) -> None:
        """Raises ``InvalidInputError`` for the first setting outside its range."""
        whole = {"rank": self.rank, "alpha": self.alpha, "batch": self.batch, "steps": self.steps}
        whole |= {"threads": self.threads, "checkpoint_every": self.checkpoint_every}
        for name, value in whole.items():
            if value < 1:
                raise _outside(name, value, "at least 1")
        if not 0.0 < self.learning_rate < 1.0:
            raise _outside("learning_rate", self.learning_rate, "between 0 and 1")
        if not 0.0 < self.beta <= 10.0:
            raise _outside("beta", self.beta, "above 0 and at most 10")
        for name, share in {"warmup": self.warmup, "replay": self.replay}.items():
            if not 0.0 <= share < 1.0:
                raise _outside(name, share, "at least 0 and below 1")
        named = {"precision": (self.precision, PRECISIONS), "dtype": (self.dtype, DTYPES)}
        named |= {"device": (self.device, DEVICES), "method": (self.method, METHODS)}
        for name, (chosen, accepted) in named.items():
            if chosen not in accepted:
                raise _outside(name, chosen, f"one of {', '.join(accepted)}")


@functools.cache
def code_identity() -> str:
    """The package's version and a hash of this room's source files, such as ``0.1.0+1f0c…`` (16 hex digits).

    Read once a process: an upgrade under way does not make it claim the new code.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{metadata.version('antiphon')}+{digest.hexdigest()[:16]}"


def libraries() -> dict[str, str]:
    """Versions of the libraries whose arithmetic is used; a missing one is ``absent``. None is imported."""
    versions: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


def torch_dtype(torch: Any, name: str) -> Any:
    """The torch type of a dtype's name in a recipe."""
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]


def require_libraries() -> None:
    """Raises ``SetupError``, with what is missing, unless the extra ``train`` is installed."""
    absent = [name for name, version in libraries().items() if version == "absent"]
    if absent:
        raise SetupError(
            f"Fine-tuning needs {', '.join(absent)}.", next_step="Install the extra: `pip install 'antiphon[train]'`."
        )


def identity(recipe: Recipe, base_sha256: str, dataset_hash: str, parent: str | None) -> str:
    """SHA-256 hex of everything that decides the trained weights; ``parent`` is that of the adapter that training goes
    on from."""
    return content_hash(
        {
            "recipe": recipe,
            "base": base_sha256,
            "dataset": dataset_hash,
            "parent": parent,
            "code": code_identity(),
            "libraries": libraries(),
        }
    )


def _outside(name: str, value: object, accepted: str) -> InvalidInputError:
    return InvalidInputError(f"{name} is {value}.", where=f"recipe.{name}", next_step=f"It must be {accepted}.")
