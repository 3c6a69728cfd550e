"""Partitions of backfills and their snapshots, on every database."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER, manifest

from antiphon.catalog.database import Database
from antiphon.catalog.features.backfills import BackfillPartition, Backfills, partition_id
from antiphon.catalog.features.publications import Publications
from antiphon.catalog.features.snapshots import Snapshots
from antiphon.catalog.features.verdicts import GateFinding
from antiphon.core.errors import NotFoundError
from antiphon.durable.runs import Runs

DAY = timedelta(days=1)


def partition(run: str, as_of: datetime = NOON, **fields: Any) -> BackfillPartition:
    made = BackfillPartition(
        id=partition_id(run, "congestion@v1", as_of), scope=DEV, run=run, view="congestion", definition_version="v1",
        as_of=as_of, outcome="warned", findings=(GateFinding("volume", "warn", "300 rows, ° 10 before"),),
        snapshot=f"snap_{as_of:%d}", logical_hash="h", rows_in=3, rows_out=2, rows_rejected=1,
        null_shares={"congestion.n": 0.5}, shifts={}, bytes=10, seconds=0.5, principal="me", reason="a week",
        created_at=NOON,
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


@pytest.fixture
def run(database: Database) -> str:
    return Runs(database).submit(DEV, "backfill", {})


def keep(database: Database, *partitions: BackfillPartition) -> None:
    with database.transaction() as connection:
        for one in partitions:
            if one.snapshot is not None:
                Snapshots(database).add_backfilled(manifest(one.snapshot, as_of=one.as_of), within=connection)
            Backfills(database).add(one, within=connection)


def test_partitions_are_read_in_the_order_of_their_moments_and_their_first_writing_stays(
    database: Database, run: str
) -> None:
    first, second = partition(run, NOON - DAY), partition(run)
    keep(database, second, first)
    keep(database, msgspec.structs.replace(first, outcome="blocked", snapshot=None))
    assert Backfills(database).list(DEV, run) == [first, second]
    assert Backfills(database).list(OTHER, run) == []
    assert Backfills(database).snapshots(DEV) == {"snap_09": run, "snap_10": run}
    assert Backfills(database).of_snapshot(DEV, "snap_10") == second
    assert Backfills(database).of_snapshot(DEV, "snap_11") is None


def test_a_backfilled_snapshot_is_read_by_its_id_and_neither_listed_nor_published_nor_pruned(
    database: Database, run: str
) -> None:
    snapshots, publications = Snapshots(database), Publications(database, notice=0)
    keep(database, partition(run))
    assert snapshots.get(DEV, "snap_10").id == "snap_10"
    assert snapshots.list(DEV) == []
    assert [one.id for one in snapshots.list(DEV, backfilled=True)] == ["snap_10"]
    with pytest.raises(NotFoundError):
        publications.publish(DEV, {"congestion@v1": "snap_10"}, expected=0, reason="", principal="me")
    assert snapshots.prune(DEV, ["snap_10"], 10) == []
    snapshots.restore(DEV, "snap_10")
    assert snapshots.publishable(DEV, "snap_10")
    publications.publish(DEV, {"congestion@v1": "snap_10"}, expected=0, reason="", principal="me")


def test_what_is_discarded_is_pruned_but_for_what_another_backfill_keeps_or_was_promoted(
    database: Database, run: str
) -> None:
    snapshots, other = Snapshots(database), Runs(database).submit(DEV, "backfill", {})
    alone, shared, promoted = (partition(run, NOON - n * DAY) for n in range(3))
    keep(database, alone, shared, promoted, partition(run, NOON + DAY, outcome="blocked", snapshot=None))
    keep(database, partition(other, shared.as_of))
    snapshots.restore(DEV, str(promoted.snapshot))
    with database.transaction() as connection:
        Backfills(database).discard(DEV, run, within=connection)
    assert Backfills(database).list(DEV, run) == []
    given_up = {one: snapshots.pruned_at(DEV, str(one)) is not None for one in ("snap_10", "snap_09", "snap_08")}
    assert given_up == {"snap_10": True, "snap_09": False, "snap_08": False}
    # Computed again, its files are there again.
    keep(database, partition(other, alone.as_of))
    assert snapshots.pruned_at(DEV, "snap_10") is None
    assert not snapshots.publishable(DEV, "snap_10")


def test_the_same_values_that_were_published_before_stay_recorded_as_they_were(database: Database, run: str) -> None:
    snapshots = Snapshots(database)
    snapshots.add(manifest("snap_10", as_of=NOON))
    keep(database, partition(run))
    assert [one.id for one in snapshots.list(DEV)] == ["snap_10"]
    with database.transaction() as connection:
        Backfills(database).discard(DEV, run, within=connection)
    assert snapshots.pruned_at(DEV, "snap_10") is None
