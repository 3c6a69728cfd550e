"""Datasets: what was trained and evaluated on."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.catalog.learning.datasets import Dataset, DatasetKind
from antiphon.gateway.admin.shapes import read_all
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation


class DatasetQuery(msgspec.Struct, frozen=True):
    """Selects datasets."""

    application: str | None = None
    kind: DatasetKind | None = None
    limit: Few = 50


class DatasetLine(msgspec.Struct, frozen=True):
    """One dataset in a list, with what determines it."""

    id: str
    application: str
    kind: str
    rows: int
    labels: dict[str, int]
    cutoff: datetime
    first: datetime
    last: datetime
    origins: tuple[str, ...]
    logical_hash: str
    created_at: datetime


class DatasetList(msgspec.Struct, frozen=True):
    """Latest first."""

    datasets: tuple[DatasetLine, ...]


@operation("GET", "/admin/datasets", "List datasets, latest first.", "read")
def _list(call: OperationCall, query: DatasetQuery) -> DatasetList:
    known = call.services.learning.datasets
    found = known.list(call.scope, query.application, kind=query.kind, limit=query.limit)
    lines = (msgspec.structs.asdict(one.spec) | msgspec.structs.asdict(one) for one in found)
    return DatasetList(read_all(lines, DatasetLine))


@operation("GET", "/admin/datasets/{dataset}", "One dataset: what it was made from, and how.", "read")
def _get(call: OperationCall) -> Dataset:
    return call.services.learning.datasets.get(call.scope, call.path["dataset"])
