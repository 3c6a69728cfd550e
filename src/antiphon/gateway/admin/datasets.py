"""Datasets: what was trained and evaluated on."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.catalog.datasets import Dataset, DatasetKind
from antiphon.gateway.operation import Operation, OperationCall


class DatasetQuery(msgspec.Struct, frozen=True):
    """Selects datasets."""

    application: str | None = None
    kind: DatasetKind | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50


class DatasetLine(msgspec.Struct, frozen=True):
    """One dataset in a list."""

    id: str
    application: str
    kind: str
    rows: int
    positives: int
    cutoff: datetime
    first: datetime
    last: datetime
    origins: tuple[str, ...]
    logical_hash: str
    created_at: datetime


class DatasetList(msgspec.Struct, frozen=True):
    """Latest first."""

    datasets: tuple[DatasetLine, ...]


def _list(call: OperationCall) -> DatasetList:
    query: DatasetQuery = call.query
    found = call.services.learning.datasets.list(call.scope, query.application, kind=query.kind, limit=query.limit)
    return DatasetList(tuple(line(dataset) for dataset in found))


def _get(call: OperationCall) -> Dataset:
    return call.services.learning.datasets.get(call.scope, call.path["dataset"])


def line(dataset: Dataset) -> DatasetLine:
    """A dataset in a list."""
    spec = dataset.spec
    return DatasetLine(
        id=dataset.id,
        application=spec.application,
        kind=spec.kind,
        rows=dataset.rows,
        positives=dataset.positives,
        cutoff=spec.cutoff,
        first=spec.first,
        last=spec.last,
        origins=spec.origins,
        logical_hash=dataset.logical_hash,
        created_at=dataset.created_at,
    )


OPERATIONS = (
    Operation("GET", "/admin/datasets", "List datasets, latest first.", "read", DatasetList, _list, DatasetQuery),
    Operation(
        "GET", "/admin/datasets/{dataset}", "One dataset: what it was made from, and how.", "read", Dataset, _get
    ),
)
