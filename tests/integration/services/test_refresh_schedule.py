"""The slots of the refresh schedule over a real catalog, while what is due changes within a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.integration.services.test_apply_compatibility import ADDED, Project

from antiphon.core.clock import ManualClock
from antiphon.core.errors import InvalidInputError
from antiphon.features.offline.refresh import WORKFLOW
from antiphon.orchestration.refreshing import RefreshSchedule, RefreshSlot, due
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.refreshing import refresh_now

DAILY = ("source=orders)", 'source=orders, refresh="1d")')
# It makes no release: the view is applied as it stands.
ALONE = ('features=[Today], figures=[Figure("today.orders", step=5)],', "features=[],")
PLAIN = ('Prompt("{{ features.today.orders }}")', 'Prompt("{{ question }}")')


class Slots:
    """A project and the slots of its schedule, as worker after worker orders them."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.store = project.store
        self.now = datetime.now(UTC)

    def order(self) -> list[RefreshSlot]:
        """As a worker that has just started."""
        platform = FeaturePlatform(self.store)
        slots = due(platform.scheduled(), self.now)
        for slot in slots:
            platform.refresh_slot(slot)
        return list(slots)

    def runs(self) -> list[tuple[str, ...]]:
        found = self.store.runs.list(self.store.scope, 100, workflow=WORKFLOW)
        return [tuple(run.arguments["views"]) for run in reversed(found)]


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[Slots]:
    project = Project(tmp_path)
    project.apply(DAILY, ALONE, PLAIN)
    yield Slots(project)
    project.store.close()


def test_a_view_that_changes_within_a_slot_is_refreshed_in_it_and_the_next_slot_starts(slots: Slots) -> None:
    [slot] = slots.order()
    [old] = slots.runs()
    assert old == slot.views
    slots.project.apply(DAILY, ALONE, PLAIN, ADDED)
    for _ in range(3):  # worker after worker
        slots.order()
    assert len(slots.runs()) == 2
    assert slots.runs()[1] != old
    slots.now += timedelta(days=1)
    slots.order()
    assert slots.runs()[2] == slots.runs()[1]


def test_a_worker_that_was_killed_after_the_key_was_taken_leaves_the_run_to_the_next(slots: Slots) -> None:
    slots.order()
    [run] = slots.store.runs.list(slots.store.scope)
    slots.order()
    assert [run.id] == [one.id for one in slots.store.runs.list(slots.store.scope)]
    platform = FeaturePlatform(slots.store)
    try:
        assert refresh_now(slots.store, platform, run.id)["publication"] == 1
    finally:
        platform.close()


def test_what_was_refreshed_since_the_slot_began_is_not_refreshed_again_by_it(slots: Slots) -> None:
    slots.order()
    slots.project.apply(DAILY, ALONE, PLAIN, ADDED)
    platform = FeaturePlatform(slots.store)
    try:
        refresh_now(slots.store, platform, platform.refresh(slots.store.scope))
    finally:
        platform.close()
    before = slots.runs()
    slots.order()
    assert slots.runs() == before


def test_a_key_that_somebody_took_for_something_else_keeps_no_slot_from_starting(slots: Slots) -> None:
    [slot] = due(FeaturePlatform(slots.store).scheduled(), slots.now)
    slots.store.runs.submit(slots.store.scope, "batch", {"job": "job_1"}, key=slot.key)
    slots.order()
    slots.order()
    assert slots.runs() == [slot.views]


async def test_the_schedule_itself_goes_on_over_a_change(slots: Slots) -> None:
    platform = FeaturePlatform(slots.store)
    clock, stop = ManualClock(slots.now), asyncio.Event()
    schedule = RefreshSchedule(platform.scheduled, platform.refresh_slot, clock, look_every=0.001, poll=0.001)
    task = asyncio.create_task(schedule.run_until(stop))
    try:
        async with asyncio.timeout(20):
            while len(slots.runs()) < 1:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(slots.project.apply, DAILY, ALONE, PLAIN, ADDED)
            while len(slots.runs()) < 2:
                await asyncio.sleep(0.01)
            clock.advance(timedelta(days=1))
            while len(slots.runs()) < 3:
                await asyncio.sleep(0.01)
    finally:
        stop.set()
        await task
        platform.close()


def test_a_refresh_that_fails_is_no_error_of_the_schedule(slots: Slots) -> None:
    slots.order()
    (slots.project.folder / "orders.csv").unlink()
    [run] = slots.store.runs.list(slots.store.scope)
    platform = FeaturePlatform(slots.store)
    try:
        with pytest.raises(InvalidInputError):
            refresh_now(slots.store, platform, run.id)
    finally:
        platform.close()
    slots.order()
    slots.now += timedelta(days=1)
    slots.order()
    assert len(slots.runs()) == 2
