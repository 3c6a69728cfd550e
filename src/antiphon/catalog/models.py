"""Model versions: what was trained, from what, and the aliases people call them by.

Invariant: a version never changes; an alias is a sequence of moves that only grows.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from antiphon.core.scope import Scope


class ModelFile(msgspec.Struct, frozen=True):
    """One file of a version, relative to the project's ``models`` folder."""

    path: str
    sha256: str
    size: int


class ModelVersion(msgspec.Struct, frozen=True):
    """One trained version of an application's model.

    Attributes:
        id: ``APPLICATION.vN``; also the name by which an engine serves it.
        base, base_sha256: the base model and the SHA-256 of its weights.
        dataset: id of the dataset; ``dataset_hash`` its logical hash; ``replay_datasets`` those of earlier examples.
        parent: the version that training went on from, if any.
        recipe: every setting of the training (``training.recipe.Recipe`` as plain values).
        identity: hash of base, dataset, parent, recipe and code: the same identity trains the same weights on the
            same machine.
        code: version of the package and hash of the room ``training``.
        adapter, weights: the LoRA matrices, and the merged and quantised weights that are served.
        losses: (step, loss) as they were reported. ``seconds``: of training, pauses left out.
        environment: library versions, threads, processor.
    """

    id: str
    scope: Scope
    application: str
    number: int
    base: str
    base_sha256: str
    dataset: str
    dataset_hash: str
    replay_datasets: tuple[str, ...]
    parent: str | None
    recipe: dict[str, Any]
    identity: str
    code: str
    adapter: ModelFile
    weights: ModelFile
    losses: tuple[tuple[int, float], ...]
    seconds: float
    environment: dict[str, str]
    run: str | None
    created_at: datetime


class AliasMove(msgspec.Struct, frozen=True):
    """An alias (``latest``, ``champion``) coming to name a version."""

    application: str
    alias: str
    sequence: int
    model: str
    principal: str
    reason: str
    at: datetime
