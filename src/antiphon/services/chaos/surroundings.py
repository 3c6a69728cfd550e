"""The project as experiments find it, and the measures of its catalog and its processes."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from antiphon.core.clock import parse_duration, to_the_minute
from antiphon.core.errors import InvalidInputError
from antiphon.operations.chaos.blast_radius import Surroundings, kind_of
from antiphon.operations.chaos.clock_injector import clock_obstacle
from antiphon.operations.chaos.measures import (
    ExceededBudgetsMeasure,
    Measure,
    ProcessStateMeasure,
    RepeatedRunsMeasure,
    RunsWaitingMeasure,
    StaleViewsMeasure,
    StreamLagMeasure,
)
from antiphon.operations.chaos.proxy_control import proxies_that_answer
from antiphon.operations.processes import statuses
from antiphon.services.budgets.project_budgets import ProjectBudgets
from antiphon.services.chaos.repeated_runs import repeated_runs
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.streams import ProjectStreams
from antiphon.services.features.view_status import read_view_statuses
from antiphon.services.project.store import Store

_WORST_FIRST = ("away", "stopped", "paused", "running")
_MOST_RUNS = 1_000
_OF_THE_MACHINE = ("/", "/tmp", "/var", "/var/tmp", "/home", "/dev/shm")


def surroundings(store: Store) -> Surroundings:
    """Read what there is here to be broken, and what must be heeded."""
    scope, settings, now = store.scope, store.settings, store.database.clock.now()
    applied = store.applied.current(scope)
    sources = {} if applied is None else applied.project.sources
    freezes = [one for one in store.run_holds.lasting(scope) if one.kind == "freeze" and one.begins <= now]
    live = store.releases.live_ones(scope)
    return Surroundings(
        environment=scope.environment,
        processes=tuple(one.name for one in statuses(store.paths.run) if one.alive),
        proxies=proxies_that_answer(store.paths.run),
        streams=tuple(sorted(name for name, one in sources.items() if one.kind == "stream")),
        applications=tuple(sorted(one.bundle.application.name for one in live)),
        models=tuple(sorted({one.bundle.model.version for one in live if one.bundle.model.version is not None})),
        tenants=tuple(one.id for one in store.keys.principals.tenants.list()),
        rollouts=tuple(sorted({one.application for one in store.rollouts.list_active(scope)})),
        holds=tuple(f"A freeze lasts until {to_the_minute(one.until)} ({one.reason})." for one in freezes),
        lease=parse_duration(settings.worker.lease).total_seconds(),
        silence=settings.supervision.silence_seconds,
        own_disk=_own_disk(store.paths.directory),
        available=_available(),
        no_clocks=clock_obstacle(store.paths.run),
    )


class ProjectMeasures:
    """Measures of one project that are read where they are kept, not through a gateway that may be broken."""

    def __init__(self, store: Store, platform: FeaturePlatform) -> None:
        self._store = store
        self._platform = platform
        self._streams = ProjectStreams(store, platform)

    def measure(self, measure: Measure) -> Any:
        """The value of a measure; raises what the catalog or a store raises."""
        scope = self._store.scope
        match measure:
            case ProcessStateMeasure(process):
                return self._state(process)
            case RunsWaitingMeasure():
                now = self._store.database.clock.now()
                queued = self._store.runs.list(scope, status="queued", limit=_MOST_RUNS)
                return sum(one.not_before <= now for one in queued)
            case StaleViewsMeasure():
                views = read_view_statuses(self._store, self._platform, scope)
                return sum(one.state not in ("fresh", "held", "waiting") for one in views)
            case StreamLagMeasure(stream):
                found = [one.lag for one in self._streams.status(scope) if stream in (None, one.stream)]
                if stream is not None and not found:
                    raise InvalidInputError(f"There is no stream {stream!r}.", where=stream)
                return max(found, default=0)
            case RepeatedRunsMeasure(window):
                return repeated_runs(self._store, parse_duration(window))
            case ExceededBudgetsMeasure():
                lines = ProjectBudgets(self._store, scope).list()
                return sum(
                    one.budget.at_limit != "warn" and one.spent_micros > one.budget.limit_micros for one in lines
                )
        raise InvalidInputError("Questions and readiness are measured elsewhere.", where=type(measure).__name__)

    def _state(self, process: str) -> str:
        found = [
            one.state for one in statuses(self._store.paths.run) if process in (one.name, kind_of(one.name))
        ]  # fmt: skip
        return min(found, key=_WORST_FIRST.index, default="away")


def _own_disk(folder: Path) -> bool:
    """Tells whether a folder is on a file system apart from those that the machine needs."""
    others = set()
    for path in (*_OF_THE_MACHINE, str(Path.home()), tempfile.gettempdir()):
        with suppress(OSError):
            others.add(os.stat(path).st_dev)
    return os.stat(folder).st_dev not in others


def _available() -> int:
    with suppress(OSError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1_024
    return 0
