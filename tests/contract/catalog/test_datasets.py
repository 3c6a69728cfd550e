from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.learning.datasets import Dataset, Datasets, DatasetSource, DatasetSpec
from antiphon.core.errors import NotFoundError
from antiphon.definitions.source import SourceSpec


def dataset(identity: str, application: str = "desk", **fields: Any) -> Dataset:
    spec = DatasetSpec(
        application=application,
        kind=fields.pop("kind", "training"),
        property="outlook",
        positive="delayed",
        cutoff=NOON,
        first=NOON - timedelta(days=60),
        last=NOON - timedelta(days=7),
        maturity_seconds=3_600.0,
        origins=("history", "receipts"),
        examples=100,
        seed=0,
        views={"congestion": "v1"},
        entity_keys=("origin",),
        labels=("on_time", "delayed"),
        history=SourceSpec("flown", "table", "asked", "departed", path="/p/flown.parquet"),
    )
    given: dict[str, Any] = {
        "scope": DEV,
        "sources": (DatasetSource("flown", "file", "aa"), DatasetSource("receipts", "receipts", "bb", 3)),
        "rows": 100,
        "labels": {"delayed": 30, "on_time": 70},
        "dropped": {"immature": 2},
        "columns": ("example", "moment"),
        "path": "default/dev/aa/aa.parquet",
        "sha256": "aa",
        "logical_hash": "hh",
        "created_at": NOON,
    }
    return Dataset(id=identity, spec=spec, **(given | fields))


def test_a_dataset_is_read_back_and_stays_as_it_was(database: Database) -> None:
    datasets = Datasets(database)
    written = datasets.add(dataset("d1"))
    assert datasets.get(DEV, "d1") == written == dataset("d1")
    assert datasets.add(dataset("d1", created_at=NOON + timedelta(days=1))) == written
    with pytest.raises(NotFoundError):
        datasets.get(OTHER, "d1")


def test_datasets_are_listed_latest_first(database: Database) -> None:
    datasets = Datasets(database)
    datasets.add(dataset("d1"))
    datasets.add(dataset("d2", kind="evaluation", created_at=NOON + timedelta(hours=1)))
    datasets.add(dataset("d3", "other"))
    assert [each.id for each in datasets.list(DEV, "desk")] == ["d2", "d1"]
    assert [each.id for each in datasets.list(DEV, "desk", kind="training")] == ["d1"]
    assert len(datasets.list(DEV)) == 3
    assert len(datasets.list(DEV, limit=1)) == 1
    assert [each.id for each in datasets.list(DEV, before=(NOON + timedelta(hours=1), "d2"))] == ["d1", "d3"]
    assert [each.id for each in datasets.list(DEV, before=(NOON, "d1"))] == ["d3"], "of the same moment"
    assert datasets.list(OTHER) == []


def test_a_file_may_move_and_nothing_else(database: Database) -> None:
    datasets = Datasets(database)
    datasets.add(dataset("d1"))
    moved = datasets.move(DEV, "d1", "default/dev/cc/cc.parquet", "cc")
    assert datasets.get(DEV, "d1") == moved
    assert (moved.path, moved.sha256, moved.logical_hash) == ("default/dev/cc/cc.parquet", "cc", "hh")
    assert datasets.files(DEV) == ["default/dev/cc/cc.parquet"]
    with pytest.raises(NotFoundError):
        datasets.move(DEV, "gone", "p", "s")
