"""Backfills of a project: what is refused at the order, what is foretold, and what becomes of one."""

from __future__ import annotations

import asyncio
import shutil
from collections import namedtuple
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.harness.refresh import run_refresh
from tests.integration.services.test_apply_compatibility import Project

from antiphon.core.errors import AntiphonError, ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.features.offline.backfill import WORKFLOW
from antiphon.governance.audit.log import AuditFilter
from antiphon.governance.identity.principal import Principal
from antiphon.services.export.export import export_backfill
from antiphon.services.features.backfills import BackfillOrder, ProjectBackfills
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.governance.identity import at_terminal
from antiphon.services.lineage.references import references_of
from antiphon.services.runs import ProjectRuns

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
VIEWER = Principal("guest", "default", "viewer", "person")


class Backfilled:
    """A project whose view is applied and was refreshed."""

    def __init__(self, folder: Path) -> None:
        self.project = Project(folder)
        self.project.apply()
        self.store = self.project.store
        self.scope = self.store.scope
        self.platform = FeaturePlatform(self.store)
        self.backfills = ProjectBackfills(self.store, self.platform)
        self.runs = ProjectRuns(self.store, self.platform)
        self.who = at_terminal(self.store)

    def order(self, *, days: float = 3, **fields: Any) -> BackfillOrder:
        given: dict[str, Any] = {"views": ("today",), "since": FIRST, "until": FIRST + days * DAY, "reason": "a test"}
        return BackfillOrder(**(given | fields))

    async def work(self, run: str) -> Run:
        registry, stop = WorkflowRegistry(), asyncio.Event()
        registry.add(WORKFLOW, self.platform.backfiller.backfill)
        executor = Executor(self.store.database, registry, "test", self.scope, poll=0.01)
        working = asyncio.create_task(executor.run_until(stop))
        async with asyncio.timeout(60):
            while self.store.runs.get(self.scope, run).status not in ENDED:
                await asyncio.sleep(0.01)
        stop.set()
        await working
        return self.store.runs.get(self.scope, run)

    def audited(self, action: str) -> list[str]:
        return [entry.principal for entry in self.store.audit.query(self.scope, AuditFilter(action=action))]


@pytest.fixture
def shops(tmp_path: Path) -> Iterator[Backfilled]:
    found = Backfilled(tmp_path)
    yield found
    found.platform.close()
    found.store.close()


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"views": ("yesterday",)}, NotFoundError, "No view named 'yesterday' is applied"),
        ({"since": FIRST + 4 * DAY}, InvalidInputError, "The first moment comes after the last one"),
        ({"until": datetime(2100, 1, 1, tzinfo=UTC)}, InvalidInputError, "2100-01-01 00:00:00Z is to come"),
        ({"every": 1.0}, InvalidInputError, "The backfill has 259,201 partitions; 5,000 at most are computed"),
    ],
)
def test_what_can_be_known_at_the_order_is_refused_there(
    shops: Backfilled, fields: dict[str, Any], error: type[AntiphonError], said: str
) -> None:
    for refuse in (shops.backfills.outlook, lambda scope, order: shops.backfills.order(scope, shops.who, order)):
        with pytest.raises(error, match=said):
            refuse(shops.scope, shops.order(**fields))
    assert shops.store.runs.list(shops.scope, workflow=WORKFLOW) == []


def test_another_tenant_and_who_may_not_publish_order_none(shops: Backfilled) -> None:
    with pytest.raises(NotFoundError):
        shops.backfills.order(Scope("rival", shops.scope.environment), shops.who, shops.order())
    with pytest.raises(ForbiddenError):
        shops.backfills.order(shops.scope, VIEWER, shops.order())


async def test_time_and_room_are_foretold_from_the_last_snapshots(
    shops: Backfilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = shops.backfills.outlook(shops.scope, shops.order())
    assert (unknown.moments, unknown.partitions, unknown.seconds, unknown.bytes) == (4, 4, None, None)
    await run_refresh(shops.store, shops.platform)
    (made,) = shops.store.snapshots.list(shops.scope)
    known = shops.backfills.outlook(shops.scope, shops.order(days=2.5))
    assert (known.moments, known.first, known.last) == (4, FIRST, FIRST + 2.5 * DAY)
    assert known.seconds == pytest.approx(4 * made.duration_seconds)
    assert known.bytes == 4 * made.cost.bytes_written
    slow = shops.backfills.outlook(shops.scope, shops.order(rate=0.5))
    assert slow.seconds == 480.0
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2**30, 2**30, 2**25))
    with pytest.raises(InvalidInputError, match=r"The backfill takes about .* MB, and 34 MB are free"):
        shops.backfills.order(shops.scope, shops.who, shops.order())


async def test_a_backfill_from_its_order_to_its_promotion(shops: Backfilled, tmp_path: Path) -> None:
    run = shops.backfills.order(shops.scope, shops.who, shops.order(key="once"))
    assert shops.backfills.order(shops.scope, shops.who, shops.order(key="once")).id == run.id
    with pytest.raises(ConflictError, match="is queued"):
        shops.backfills.promote(shops.scope, shops.who, run.id, reason="early")
    with pytest.raises(ConflictError, match="is queued"):
        shops.backfills.discard(shops.scope, shops.who, run.id, reason="early")
    shops.runs.pause(shops.scope, run.id, shops.who, "wait for it")
    assert shops.runs.waits(shops.scope, [shops.store.runs.get(shops.scope, run.id)])[run.id].kind == "paused"
    assert shops.backfills.list(shops.scope)[0].paused_by == shops.who.id
    with pytest.raises(ForbiddenError):
        shops.runs.resume(shops.scope, run.id, VIEWER)
    shops.runs.resume(shops.scope, run.id, shops.who)
    with pytest.raises(ConflictError, match="is not paused"):
        shops.runs.resume(shops.scope, run.id, shops.who)
    ended = await shops.work(run.id)
    # Before the first order there is no entity, which blocks a partition.
    assert ended.status == "succeeded_with_failures"
    report = shops.backfills.report(shops.scope, run.id)
    assert [one.outcome for one in report.partitions] == ["blocked", "passed", "passed", "passed"]
    assert (report.backfill.kept, report.backfill.blocked, report.backfill.total) == (4, 1, 4)
    told = references_of(ended, shops.store.runs.steps(shops.scope, run.id))
    assert [one.id for one in told.outputs] == [one.snapshot for one in report.partitions[1:]]
    written = export_backfill(shops.store, "today", run.id, tmp_path / "table", principal=shops.who)
    assert len(written) == 3
    assert sorted(one.name for one in (tmp_path / "table").iterdir())[0] == "as_of=2026-01-02T000000Z"
    with pytest.raises(ForbiddenError):
        shops.backfills.promote(shops.scope, VIEWER, run.id, reason="mine")
    made = shops.backfills.promote(shops.scope, shops.who, run.id, reason="the past is mended")
    assert shops.store.publications.snapshots(shops.scope) == {report.partitions[-1].key: made.views[0].snapshot}
    difference = shops.platform.history.difference(
        shops.scope, str(report.partitions[1].snapshot), str(report.partitions[3].snapshot)
    )
    assert difference.view == "today"
    shops.backfills.discard(shops.scope, shops.who, run.id, reason="done with it")
    assert shops.store.snapshots.pruned_at(shops.scope, str(report.partitions[1].snapshot)) is not None
    assert shops.store.snapshots.pruned_at(shops.scope, made.views[0].snapshot) is None
    with pytest.raises(NotFoundError, match="Nothing is kept of the backfill"):
        shops.backfills.promote(shops.scope, shops.who, run.id, reason="again")
    for action in ("features.backfill", "run.pause", "run.resume", "features.promote", "features.discard"):
        assert shops.audited(action)[0] == shops.who.id, action


def test_a_refresh_as_of_the_past_publishes_only_on_purpose(shops: Backfilled) -> None:
    with pytest.raises(InvalidInputError, match="would publish values of the past") as refused:
        shops.runs.refresh(shops.scope, ["today"], FIRST)
    assert "features backfill" in (refused.value.next_step or "")
    assert shops.runs.refresh(shops.scope, ["today"], FIRST, past=True).workflow == "refresh"
