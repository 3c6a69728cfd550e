"""Verdicts of the gates, snapshots that wait and views that are held, on every database."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER, manifest

from antiphon.catalog.database import Database
from antiphon.catalog.features.publications import FeatureHolds
from antiphon.catalog.features.snapshots import QuarantinedRows, SnapshotFile
from antiphon.catalog.features.verdicts import (
    GateFinding,
    StagedSnapshot,
    StagedSnapshots,
    Verdict,
    Verdicts,
    verdict_id,
)
from antiphon.core.clock import ManualClock
from antiphon.core.errors import NotFoundError

HOUR = timedelta(hours=1)


def verdict(run: str, at: datetime = NOON, **fields: object) -> Verdict:
    made = Verdict(
        id=verdict_id(run, "congestion@v1"), scope=DEV, view="congestion", definition_version="v1", outcome="warned",
        findings=(GateFinding("volume", "warn", "300 rows, ° 10 before"),), snapshot=run, manifest=manifest(run),
        run=run, principal="me", reason="refresh", created_at=at,
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


def aside(run: str, at: datetime = NOON) -> Verdict:
    rows = QuarantinedRows(SnapshotFile(f"aside/{run}.parquet", "cc", 2, 50), 2, reasons={"null key": 2})
    return verdict(run, at, manifest=manifest(run, quarantined=rows))


def test_a_verdict_is_read_back_and_its_first_writing_stays(database: Database) -> None:
    verdicts, first = Verdicts(database), verdict("run_1")
    verdicts.add(first)
    verdicts.add(msgspec.structs.replace(first, outcome="blocked"))
    assert verdicts.get(DEV, first.id) == first
    assert verdicts.list(OTHER) == []
    with pytest.raises(NotFoundError):
        verdicts.get(OTHER, first.id)


def test_the_latest_verdict_about_a_view_is_found(database: Database) -> None:
    verdicts = Verdicts(database)
    for number in (1, 3, 2):
        verdicts.add(verdict(f"run_{number}", NOON + number * HOUR))
    verdicts.add(verdict("run_9", NOON + 9 * HOUR, view="weather"))
    latest = verdicts.latest(DEV, "congestion", "v1")
    assert latest is not None
    assert latest.run == "run_3"
    assert [one.run for one in verdicts.list(DEV, "congestion", limit=2)] == ["run_3", "run_2"]
    assert verdicts.latest(DEV, "congestion", "v2") is None


def test_rows_that_were_kept_aside_expire_once(database: Database, clock: ManualClock) -> None:
    verdicts, old, new = Verdicts(database), aside("run_1"), aside("run_2", NOON + 2 * HOUR)
    for one in (old, new, verdict("run_3")):
        verdicts.add(one)
    assert sorted(verdicts.files(DEV)) == ["aside/run_1.parquet", "aside/run_2.parquet"]
    assert verdicts.expiring(DEV, NOON + HOUR) == [(old.id, "congestion", NOON)]
    assert verdicts.expired_at(DEV, old.id) is None
    verdicts.expire(DEV, [old.id])
    clock.advance(HOUR)
    verdicts.expire(DEV, [old.id])
    assert verdicts.expired_at(DEV, old.id) == NOON
    assert verdicts.files(DEV) == ["aside/run_2.parquet"]
    assert verdicts.expiring(DEV, NOON + HOUR) == []


def test_snapshots_wait_for_their_moment(database: Database, clock: ManualClock) -> None:
    staged = StagedSnapshots(database)
    first, second = (
        StagedSnapshot(DEV, "congestion", "v1", f"s{number}", NOON + number * HOUR, "embargo", "me")
        for number in (1, 2)
    )
    assert staged.due_in(DEV) is None
    staged.add(second)
    staged.add(first)
    staged.add(msgspec.structs.replace(first, publish_at=NOON))
    assert staged.list(DEV) == [first, second]
    assert staged.list(DEV, due_by=NOON + HOUR) == [first]
    assert (staged.due_in(DEV), staged.list(OTHER)) == (3600.0, [])
    clock.advance(2 * HOUR)
    assert staged.due_in(DEV) == 0.0
    staged.remove(DEV, "s1")
    staged.remove(DEV, "s1")
    assert staged.list(DEV) == [second]


def test_a_held_view_is_held_for_the_last_reason(database: Database, clock: ManualClock) -> None:
    holds = FeatureHolds(database)
    holds.put(DEV, "congestion", reason="a bad source", principal="me")
    clock.advance(HOUR)
    held = holds.put(DEV, "congestion", reason="still bad", principal="you")
    assert holds.of(DEV) == {"congestion": held}
    assert (held.reason, held.principal, held.created_at) == ("still bad", "you", NOON + HOUR)
    assert holds.of(OTHER) == {}
    assert holds.remove(DEV, "congestion")
    assert not holds.remove(DEV, "congestion")
