"""Built-in schedules over a real catalog: what follows from the definitions is ordered, told and held as what is
declared, while definitions change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select
from tests.catalogs import KINDS
from tests.integration.services.test_apply_compatibility import ADDED, Project
from tests.integration.services.test_assets import server

from antiphon.catalog import schema
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from antiphon.durable.run import Run
from antiphon.features.offline.refresh import WORKFLOW
from antiphon.governance.audit.log import AuditFilter
from antiphon.governance.identity.principal import Principal, orderer
from antiphon.orchestration.conductor.conductor import Conductor
from antiphon.services.apply.apply import plan
from antiphon.services.conducting.schedule_lines import ScheduleLine
from antiphon.services.conducting.schedule_states import ScheduleStates
from antiphon.services.conducting.scheduled_orders import ScheduledOrders, conductor
from antiphon.services.conducting.schedules import ProjectSchedules
from antiphon.services.conducting.upcoming import upcoming_work
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.refreshing import refresh_now
from antiphon.services.workflows import DRIFT

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DAILY = ("source=orders)", 'source=orders, refresh="1d")')
# It makes no release: the view is applied as it stands.
ALONE = ('features=[Today], figures=[Figure("today.orders", step=5)],', "features=[],")
PLAIN = ('Prompt("{{ features.today.orders }}")', 'Prompt("{{ question }}")')
NAME = "refresh:1d"


class Conducted:
    """A project, and its conductor in worker after worker."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.store = project.store
        self.clock = self.store.database.clock = ManualClock(NOON)

    def orders(self) -> ScheduledOrders:
        unused: Any = None
        return ScheduledOrders(self.store, unused, unused, unused)

    def conductor(self) -> Conductor:
        return conductor(self.store, self.orders())

    def look(self) -> float:
        """As a worker that has just started; the seconds until it looks again."""
        return self.conductor().look()

    def apply(self, *changes: tuple[str, str]) -> None:
        self.project.apply(DAILY, ALONE, PLAIN, *changes)

    def runs(self) -> list[Run]:
        """Refreshes, the first one first."""
        return self.store.runs.list(self.store.scope, 100, workflow=WORKFLOW)[::-1]

    def views(self) -> list[tuple[str, ...]]:
        return [tuple(run.arguments["views"]) for run in self.runs()]

    def end(self) -> None:
        """End the runs that are open, whatever comes of them."""
        for run in self.store.runs.open(self.store.scope, WORKFLOW):
            self.store.runs.cancel(self.store.scope, run.id)

    def refresh(self, run: str) -> dict[str, Any]:
        platform = FeaturePlatform(self.store)
        try:
            return refresh_now(self.store, platform, run)
        finally:
            platform.close()

    @property
    def schedules(self) -> ProjectSchedules:
        return ProjectSchedules(self.store, self.store.scope)

    def line(self) -> ScheduleLine:
        return next(one for one in self.schedules.list() if one.name == NAME)

    def rows(self, table: Any) -> int:
        with self.store.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


@pytest.fixture
def conducted(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Conducted]:
    kind = getattr(request, "param", "sqlite")
    project = Project(tmp_path, "" if kind == "sqlite" else server(tmp_path / "server", monkeypatch))
    found = Conducted(project)
    found.apply()
    yield found
    project.store.close()


@pytest.mark.parametrize("conducted", KINDS, indirect=True)
def test_a_cadence_is_ordered_once_a_period_in_its_own_name(conducted: Conducted) -> None:
    conducted.look()
    [run] = conducted.runs()
    assert (run.schedule, run.key, run.deadline) == (NAME, "schedule:refresh:1d:1", NOON + DAY / 2)
    assert run.cause == "its views were not refreshed since 2026-06-01 00:00Z"
    assert run.arguments["principal"] == "schedule:refresh:1d"
    assert conducted.line().outlook.reason == f"its run {run.id} is queued"
    assert conducted.refresh(run.id)["publication"] == 1
    assert conducted.look() == 10.0
    assert len(conducted.runs()) == 1
    line = conducted.line()
    assert (line.outlook.stage, line.outlook.earliest, line.work_of) == ("waits", NOON + DAY / 2, "refresh of today")
    conducted.clock.advance(DAY / 2 - timedelta(seconds=3))
    assert conducted.look() == pytest.approx(3.0)
    conducted.clock.advance(3 * DAY)  # What came meanwhile is not made up for.
    conducted.look()
    conducted.end()
    conducted.look()
    assert len(conducted.runs()) == 2


def test_a_view_that_changes_within_a_period_is_refreshed_in_it_and_the_next_period_starts(
    conducted: Conducted,
) -> None:
    conducted.look()
    [old] = conducted.views()
    conducted.apply(ADDED)
    conducted.look()
    assert conducted.views() == [old], "one run at a time"
    conducted.end()
    for _ in range(3):  # worker after worker
        conducted.look()
    _, new = conducted.views()
    assert new != old
    conducted.end()
    conducted.clock.advance(DAY)
    conducted.look()
    assert conducted.views() == [old, new, new]


def test_of_views_of_one_cadence_the_new_one_alone_is_refreshed_within_a_period(conducted: Conducted) -> None:
    conducted.look()
    conducted.end()
    more = '\n\n@feature_view(entity=Entity("shop", keys=["shop"]), source=orders, refresh="24h")\nclass Week:\n'
    conducted.apply(("\n\ndesk =", f'{more}    orders = count(window="168h")\n\n\ndesk ='))
    conducted.look()
    first, second = conducted.views()
    assert [key.partition("@")[0] for key in second] == ["week"]
    assert conducted.runs()[1].cause == "1 of its 2 views were not refreshed since 2026-06-01 00:00Z"
    conducted.end()
    conducted.look()
    conducted.clock.advance(DAY)
    conducted.look()
    assert conducted.views()[2:] == [(*first, *second)]


def test_what_was_ordered_before_a_crash_is_counted_and_not_ordered_again(
    conducted: Conducted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any, **__: Any) -> bool:
        raise UnavailableError("The process died here.", where="a test")

    with monkeypatch.context() as crash:
        crash.setattr(type(conducted.store.schedules), "advance", dies)
        with pytest.raises(UnavailableError):
            conducted.look()
    [run] = conducted.runs()
    conducted.look()
    [again] = conducted.runs()
    assert (again.id, again.schedule, conducted.line().record.sequence) == (run.id, NAME, 1)


def test_what_was_refreshed_since_the_period_began_is_not_refreshed_again_by_it(conducted: Conducted) -> None:
    conducted.look()
    conducted.end()
    conducted.apply(ADDED)
    platform = FeaturePlatform(conducted.store)
    try:
        refresh_now(conducted.store, platform, platform.refresh(conducted.store.scope))
    finally:
        platform.close()
    before = conducted.views()
    conducted.look()
    assert conducted.views() == before


def test_a_refresh_that_fails_is_no_error_of_the_schedule(conducted: Conducted) -> None:
    conducted.look()
    (conducted.project.folder / "orders.csv").unlink()
    with pytest.raises(InvalidInputError):
        conducted.refresh(conducted.runs()[0].id)
    conducted.look()
    conducted.clock.advance(DAY)
    conducted.look()
    assert len(conducted.runs()) == 2


async def test_the_loop_goes_on_over_a_change_and_a_period(conducted: Conducted) -> None:
    loop, stop = conducted.conductor(), asyncio.Event()
    loop._poll = 0.01
    running = asyncio.create_task(loop.run_until(stop))
    try:
        async with asyncio.timeout(20):
            for change in (lambda: conducted.apply(ADDED), lambda: conducted.clock.advance(DAY), lambda: None):
                before = len(conducted.runs())
                while len(conducted.runs()) == before and before < 3:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(conducted.end)
                await asyncio.to_thread(change)
    finally:
        stop.set()
        await running
    assert len(conducted.runs()) == 3


@pytest.mark.parametrize("conducted", KINDS, indirect=True)
def test_a_pause_with_a_reason_holds_a_cadence_and_nothing_piles_up_in_it_or_in_a_freeze(conducted: Conducted) -> None:
    conducted.schedules.pause("ada", NAME, "the source is being moved", NOON + 2 * DAY)
    for _ in range(2):
        conducted.look()
        assert (conducted.runs(), conducted.line().outlook.reason) == ([], "paused by ada: the source is being moved")
        conducted.clock.advance(DAY)
    conducted.look()
    [first] = conducted.runs()
    conducted.schedules.freeze("ada", "the launch", NOON + 9 * DAY, ["training", "batch"])
    assert "no worker runs" in _why(conducted, first), "a freeze that does not name refreshes holds none"
    hold = conducted.schedules.freeze("ada", "the launch", NOON + 9 * DAY, ["refresh"])
    for _ in range(3):
        conducted.clock.advance(DAY)
        conducted.look()
    assert [run.id for run in conducted.runs()] == [first.id]
    assert "a freeze by ada: the launch" in _why(conducted, first)
    assert "it was due again at 2026-06-04 00:00Z" in conducted.line().outlook.reason
    conducted.schedules.thaw("ada", hold.id)
    said = {entry.action for entry in conducted.store.audit.query(conducted.store.scope)}
    assert {"schedule.pause", "freeze.begin"} <= said


def _why(conducted: Conducted, run: Run) -> str:
    return next(one.why for one in upcoming_work(conducted.store, conducted.store.scope) if one.run == run.id)


def test_a_worker_that_is_to_refresh_nothing_orders_and_tells_of_nothing(conducted: Conducted) -> None:
    worker = msgspec.structs.replace(conducted.store.settings.worker, refresh=False)
    conducted.store.settings = msgspec.structs.replace(conducted.store.settings, worker=worker)
    conducted.look()
    assert (conducted.runs(), [one.name for one in conducted.schedules.list()]) == ([], ["drift:applications"])
    with pytest.raises(NotFoundError):
        conducted.schedules.pause("ada", NAME, "why", NOON + DAY)


def test_a_refresh_writes_a_run_and_no_other_row(conducted: Conducted) -> None:
    conducted.look()
    conducted.end()
    before = {table.name: conducted.rows(table) for table in schema.metadata.sorted_tables}
    conducted.clock.advance(DAY / 2)
    conducted.look()
    after = {table.name: conducted.rows(table) for table in schema.metadata.sorted_tables}
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {"runs": 1}


def test_by_hand_all_views_are_refreshed_on_record_and_the_period_is_served(conducted: Conducted) -> None:
    run = conducted.orders().begin(NAME, Principal("ada", "default", "admin", "person"), "a late file came")
    assert conducted.store.runs.get(conducted.store.scope, run).cause == "begun by ada: a late file came"
    [entry] = conducted.store.audit.query(conducted.store.scope, AuditFilter(action="schedule.order"))
    assert (entry.principal, entry.subject) == ("schedule:refresh:1d", NAME)
    conducted.end()
    conducted.look()
    assert len(conducted.runs()) == 1


def test_what_is_wrong_with_one_schedule_keeps_no_view_from_being_refreshed(
    conducted: Conducted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    conducted.apply(
        ("import Application, Entity, Figure, Prompt", "import Application, Entity, Evaluate, Figure, Prompt, every"),
        ("\n\ndesk =", "\n\nEvaluate('desk', when=every('999999999d'))\n\ndesk ="),
    )
    found = conducted.conductor()
    found.look()
    found.look()
    assert len(conducted.runs()) == 1
    assert sum("evaluate-desk orders nothing" in record.message for record in caplog.records) == 1, "said once"
    line = next(one for one in conducted.schedules.list() if one.name == "evaluate-desk")
    assert (line.outlook.stage, line.outlook.reason.split(":")[0]) == ("refused", "it cannot be decided")


def test_the_plan_of_an_apply_tells_of_it(conducted: Conducted) -> None:
    line = next(one for one in plan(conducted.store).schedules if one.name == NAME)
    assert (line.declared, line.outlook.stage, line.outlook.earliest) == ("every 1d", "due", NOON)


def test_its_identity_may_publish_views_and_nothing_else(conducted: Conducted) -> None:
    by = orderer("schedule:refresh:1d", conducted.store.scope.tenant)
    assert by.limits.refusal("publish", "view/today") is None
    for action, resource in (("train", "application/desk"), ("promote", "release/desk"), ("publish", "stream/visits")):
        assert by.limits.refusal(action, resource) is not None
    assert orderer("schedule:retrain-desk", "default").limits.refusal("train", "application/desk") is None


def test_reports_of_drift_are_ordered_by_interval_while_something_is_live(conducted: Conducted) -> None:
    conducted.look()
    line = next(one for one in conducted.schedules.list() if one.name == "drift:applications")
    assert (line.work, line.declared, line.outlook.earliest) == ("evaluation", "every 24h", NOON + DAY)
    conducted.clock.advance(DAY)
    for _ in range(3):
        conducted.look()
    [run] = conducted.store.runs.list(conducted.store.scope, workflow=DRIFT)
    assert (run.schedule, run.cause) == ("drift:applications", "24h have passed since 2026-06-01 12:00Z")
    [entry] = conducted.store.audit.query(conducted.store.scope, AuditFilter(action="schedule.order"))
    assert entry.principal == "schedule:drift:applications"
    conducted.store.runs.cancel(conducted.store.scope, run.id)
    conducted.look()
    assert len(conducted.store.runs.list(conducted.store.scope, workflow=DRIFT)) == 1, "an interval after the last"
    worker = msgspec.structs.replace(conducted.store.settings.worker, drift="off")
    conducted.store.settings = msgspec.structs.replace(conducted.store.settings, worker=worker)
    assert [one.name for one in conducted.schedules.list()] == [NAME]


def test_a_schedule_whose_state_cannot_be_read_is_told_of_once_and_begins_nothing(
    conducted: Conducted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("views")

    monkeypatch.setattr(ScheduleStates, "_refreshed", broken)
    found = conducted.conductor()
    found.look()
    found.look()
    assert sum("The state of the schedule refresh:1d cannot be read" in one.message for one in caplog.records) == 1
    assert [one.outlook.stage for one in conducted.schedules.list()] == ["waits", "refused"], "drift goes on"
    with pytest.raises(ConflictError, match="its state cannot be read: KeyError"):
        conducted.orders().begin(NAME, Principal("ada", "default", "admin", "person"), "a late file came")
    assert conducted.runs() == []
