"""Datasets: point-in-time training and evaluation sets, what they were made from, and where they lie.

Invariant: a dataset is immutable and named by its content: building it again from its own specification gives the
same logical hash, or its sources have changed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from antiphon.core.scope import Scope

DatasetKind = Literal["training", "evaluation"]


class DatasetSpec(msgspec.Struct, frozen=True):
    """Everything that decides a dataset, so that it can be built again.

    Attributes:
        cutoff: nothing known later than this is in it. ``first`` < moment <= ``last`` bound the examples' moments.
        origins: ``history`` (the outcome's table, features joined point in time), ``receipts`` (predictions that met
            an outcome, features as they were served).
        examples: at most so many rows, by a hash of ``seed`` and the example.
        views: view name to definition version. ``offsets``: stream to the last log offset that was read.
        outcome, outcomes_until: of receipts: only outcomes recorded up to this instant of wall time.
    """

    application: str
    kind: DatasetKind
    property: str
    positive: str
    cutoff: datetime
    first: datetime
    last: datetime
    maturity_seconds: float
    origins: tuple[str, ...]
    examples: int
    seed: int
    views: dict[str, str]
    entity_keys: tuple[str, ...]
    offsets: dict[str, int] = {}
    outcomes_until: datetime | None = None
    roles: tuple[str, ...] = ("live", "canary", "control")


class DatasetSource(msgspec.Struct, frozen=True):
    """One thing a dataset was read from: a file by its SHA-256, a log by its offset, receipts by their count."""

    name: str
    kind: Literal["file", "log", "receipts"]
    version: str
    rows: int | None = None


class Dataset(msgspec.Struct, frozen=True):
    """A built dataset.

    The file is Parquet with the columns ``example`` (text, unique), ``moment`` (UTC), the entity's keys (text), a
    column ``view.feature`` for each feature (raw value) and ``view.feature.event_time``, ``label`` (text),
    ``label_at`` (UTC, when it was known), ``origin`` and ``prediction`` (text or null), ordered by ``example``.

    Attributes:
        path, sha256: of the file in the lake. ``logical_hash``: of its values in order.
        positives: rows whose label is the positive one.
        dropped: why rows were left out (``immature``, ``after-cutoff``, ``sampled-out``, ``duplicate``,
            ``unknown-label``) to how many.
    """

    id: str
    scope: Scope
    spec: DatasetSpec
    sources: tuple[DatasetSource, ...]
    rows: int
    positives: int
    dropped: dict[str, int]
    columns: tuple[str, ...]
    path: str
    sha256: str
    logical_hash: str
    created_at: datetime
