"""Comparisons of batch and online that nobody asked for: when they are due, what stays of them, and how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.services.watched_project import Project
from tests.unit.catalog.examples import DEV, NOON, open_database

from antiphon.catalog.features.skew_reports import SCHEDULE, FeatureSkew, SkewReport, SkewReports
from antiphon.core.clock import ManualClock
from antiphon.core.scope import Scope
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.features.monitoring.skew.selection import WORKFLOW
from antiphon.governance.audit.log import AuditFilter
from antiphon.services.conducting.scheduled_orders import ScheduledOrders, conductor
from antiphon.services.features.skew import ProjectSkew

DAY = timedelta(days=1)


def report(**different: int) -> SkewReport:
    features = tuple(
        FeatureSkew(view, "paid", "v1", "online", 4, 4 - wrong, wrong) for view, wrong in different.items()
    )
    return SkewReport(3, NOON, 4, 0, 0.5, True, 4 * len(features), sum(different.values()), features)


def test_reports_stay_by_view_and_expire_but_for_what_was_found_last(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    database = open_database(tmp_path, clock)
    kept = SkewReports(database)
    written: list[str] = []

    def add(identity: str, found: SkewReport, trigger: str = SCHEDULE) -> bool:
        clock.advance(DAY)
        return kept.add(DEV, identity, found, trigger, also=lambda connection: written.append(identity))

    assert kept.last(DEV) == ()
    assert kept.scheduled_at(DEV) is None
    assert add("skew_1", report(spend=0, stock=1))
    assert add("skew_2", report(spend=2), "ada")
    assert not add("skew_1", report(spend=3)), "a step that was done again changes nothing"
    assert add("skew_3", report(spend=0))
    assert written == ["skew_1", "skew_2", "skew_3"]
    assert [(one.report, one.different, one.share) for one in kept.list(DEV, "spend")] == [
        ("skew_3", 0, 0.0), ("skew_2", 2, 0.5), ("skew_1", 0, 0.0),
    ]  # fmt: skip
    assert {one.view: one.report for one in kept.latest_by_view(DEV).values()} == {"spend": "skew_3", "stock": "skew_1"}
    assert kept.get(DEV, "skew_1") == msgspec.structs.replace(
        report(spend=0, stock=1), features=report(stock=1, spend=0).features
    ), "the different first"
    assert kept.get(DEV, "skew_1", "stock") == report(stock=1)
    assert [one.view for one in kept.last(DEV, "stock")] == ["stock"]
    assert kept.scheduled_at(DEV) == NOON + 4 * DAY
    assert kept.list(Scope("rival", "dev")) == []
    assert kept.get(Scope("rival", "dev"), "skew_1") is None
    assert kept.expire(DEV, NOON + 10 * DAY, ["spend", "stock"]) == 1, "skew_2: the others say what is known of a view"
    assert {one.report for one in kept.list(DEV)} == {"skew_1", "skew_3"}
    assert kept.expire(DEV, NOON + 10 * DAY, ["spend"]) == 2, "there is no stock any more"
    assert {one.report for one in kept.list(DEV)} == {"skew_3"}
    database.close()


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    made = Project(tmp_path)
    await made.refresh()
    yield made
    made.close()


async def worked(project: Project, skew: ProjectSkew, run: str) -> str:
    registry, stop = WorkflowRegistry(), asyncio.Event()
    registry.add(WORKFLOW, skew.compare)
    working = asyncio.create_task(
        Executor(project.store.database, registry, "test", project.store.scope, poll=0.01).run_until(stop)
    )
    async with asyncio.timeout(60):
        while (ended := project.store.runs.get(project.store.scope, run)).status not in ENDED:
            await asyncio.sleep(0.01)
    stop.set()
    await working
    return ended.status


def every(project: Project, interval: str) -> None:
    features = msgspec.structs.replace(project.store.settings.features, skew=interval)
    project.store.settings = msgspec.structs.replace(project.store.settings, features=features)


def look(project: Project) -> Run | None:
    """What the conductor ordered last of this, after another look."""
    unused: Any = None
    conductor(project.store, ScheduledOrders(project.store, unused, unused, unused)).look()
    return next(iter(project.store.runs.list(project.store.scope, 1, workflow=WORKFLOW)), None)


async def test_the_worker_compares_when_it_is_due_and_a_difference_is_news(project: Project) -> None:
    store = project.store
    skew, another = ProjectSkew(store, project.platform), ProjectSkew(store, project.platform)
    assert look(project) is None, "the first publication is younger than a day"
    every(project, "1ms")
    project.alter("today")
    project.predicted("tea")
    run = look(project)
    assert run is not None
    assert (run.schedule, run.arguments) == ("skew:views", {})
    assert await worked(project, skew, run.id) == "succeeded"
    assert store.runs.get(store.scope, run.id).result == {"compared": 11, "different": 6, "complete": True}
    lines = {one.view: one for one in store.skew_reports.list(store.scope)}
    assert {name: (one.trigger, one.different) for name, one in lines.items()} == {
        "crowd": (SCHEDULE, 0), "today": (SCHEDULE, 6)
    }  # fmt: skip
    (entry,) = store.audit.query(store.scope, AuditFilter(action="features.differ"))
    assert (entry.principal, entry.subject) == (SCHEDULE, "view/today")
    found = another.last(store.scope, "today")
    assert found is not None
    assert found.features[0].examples[0].entity is not None, "what differs can be looked at"
    (ordered,) = store.audit.query(store.scope, AuditFilter(action="schedule.order"))
    assert (ordered.principal, ordered.subject) == ("schedule:skew:views", "skew:views")
    for interval in ("off", "24h"):
        every(project, interval)
        assert look(project) == store.runs.get(store.scope, run.id), "nothing new is due"
    assert skew.expire() == 0


async def test_every_comparison_draws_other_entities_and_a_seed_the_same(project: Project) -> None:
    skew = ProjectSkew(project.store, project.platform)
    project.alter("today")

    def drawn(seed: int | None = None) -> tuple[int, str]:
        report = skew.measure(project.store.scope, ["today"], sample=1, seed=seed)
        wrong = next(one for one in report.features if one.different)
        assert wrong.examples[0].entity is not None
        return report.seed, wrong.examples[0].entity["shop"]

    assert {drawn(seed)[1] for seed in range(8)} == {"tea", "cake"}, "of two shops"
    first, second = drawn(), drawn()
    assert first[0] != second[0]
    assert [drawn(first[0]), drawn(second[0])] == [first, second]
