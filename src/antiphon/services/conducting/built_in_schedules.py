"""Schedules that nobody writes down: they follow from other declarations and stand among those that are written.

Invariant: their names hold a colon, which no declared name may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.project import ProjectSpec
from antiphon.definitions.schedules import MonitoringWork, RefreshWork, ScheduleSpec
from antiphon.definitions.triggers import Interval
from antiphon.services.apply.compatibility import views_in_use
from antiphon.services.project.store import Store

DRIFT = "drift:applications"
"""Reports of drift, once something is live: `[worker] drift`."""

SKEW = "skew:views"
"""Comparisons of batch and online, once something is published: `[features] skew`."""


def all_schedules(store: Store, scope: Scope, project: ProjectSpec) -> Mapping[str, ScheduleSpec]:
    """The declared schedules of a project, and the built-in ones that its settings leave on, by name."""
    settings, found = store.settings, dict(project.schedules)
    if settings.worker.refresh:
        found |= refresh_schedules(views_in_use(store, scope, project).values())
    if settings.worker.drift != "off" and store.releases.applications(scope):
        found[DRIFT] = ScheduleSpec(DRIFT, "", MonitoringWork("drift"), Interval(settings.worker.drift))
    if settings.features.skew != "off" and store.publications.current(scope) is not None:
        found[SKEW] = ScheduleSpec(SKEW, "", MonitoringWork("skew"), Interval(settings.features.skew))
    return found


def refresh_schedules(views: Iterable[FeatureViewSpec]) -> Mapping[str, ScheduleSpec]:
    """A schedule for each interval at which some of these views are refreshed. What Feast keeps, Feast refreshes."""
    groups: dict[int, list[str]] = {}
    for view in views:
        if view.refresh is not None and view.source.kind != "feast":
            groups.setdefault(view.refresh, []).append(view.key)
    found = {}
    for interval, keys in groups.items():
        work = RefreshWork(interval, tuple(sorted(keys)))
        found[work.schedule] = ScheduleSpec(work.schedule, "", work, Interval(work.schedule.partition(":")[2]))
    return found
