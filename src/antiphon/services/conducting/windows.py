"""Windows of one project: the times that are declared for work or against it, as holds of its runs.

Invariant: what a blackout holds is written days ahead, so that it holds also while no process conducts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

import msgspec

from antiphon.catalog.run_holds import RunHold
from antiphon.core.ids import content_hash
from antiphon.definitions.project import ProjectSpec
from antiphon.definitions.schedules import WorkClass
from antiphon.definitions.windows import WindowSpec
from antiphon.services.project.store import Store
from antiphon.services.workflows import WORK

AHEAD = timedelta(days=3)
"""Blackouts are written for so long ahead; the next one of each is, however far it is."""

MOST_OCCURRENCES = 200
"""Occurrences of a window that are looked at."""


class WindowOccurrence(msgspec.Struct, frozen=True):
    """A window at one time."""

    window: WindowSpec
    begins: datetime
    until: datetime


def occurrences(window: WindowSpec, now: datetime, until: datetime) -> Iterator[WindowOccurrence]:
    """The occurrences of a window that are not over and begin before a moment, and the next one if none does."""
    moment = now
    for number in range(MOST_OCCURRENCES):
        found = window.occurrence(moment)
        if found is None or (found[0] >= until and number > 0):
            return
        yield WindowOccurrence(window, *found)
        moment = found[1]


def put_windows(store: Store) -> None:
    """Write what the blackouts of the applied project hold from now on, in place of what was written before."""
    scope, now = store.scope, store.database.clock.now()
    applied = store.applied.current(scope)
    project = None if applied is None else applied.project
    holds = [] if project is None or applied is None else list(_holds(project, applied.principal, now))
    if holds or any(one.kind == "window" for one in store.run_holds.lasting(scope)):
        store.run_holds.put_windows(scope, holds)


def held_workflows(work: tuple[WorkClass, ...]) -> tuple[str, ...]:
    """The workflows of these classes of work."""
    return tuple(sorted(workflow for one in work for workflow in WORK[one]))


def held_work(workflows: Collection[str]) -> tuple[str, ...]:
    """The classes of work of which a hold holds every workflow, and the workflows of others that it holds."""
    classes = [one for one, names in WORK.items() if set(names) <= set(workflows)]
    known = {name for one in classes for name in WORK[one]}
    return (*classes, *(name for name in workflows if name not in known))


def _holds(project: ProjectSpec, principal: str, now: datetime) -> Iterator[RunHold]:
    for window in project.windows.values():
        if window.kind != "blackout":
            continue
        for one in occurrences(window, now, now + AHEAD):
            parts = [window.name, one.begins.isoformat(), one.until.isoformat(), *window.work]
            yield RunHold(
                f"hold_{content_hash(parts)[:24]}",
                "window",
                window.name,
                held_workflows(window.work),
                one.begins,
                one.until,
                f"the window {window.name}",
                principal,
            )
