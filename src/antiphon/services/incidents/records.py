"""Facts that records other than the history tell: processes, runs, gates, releases, alerts, drift, disk and stores."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from antiphon.catalog.features.verdicts import Verdict
from antiphon.catalog.objective_states import ObjectiveStates
from antiphon.core import disk, memory
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.core.settings import FILE_NAME, load
from antiphon.definitions.project import ProjectSpec
from antiphon.features.publication.healing import SnapshotHealth
from antiphon.governance.audit.log import AuditFilter
from antiphon.learning.outcomes.drift_runs import DriftReports
from antiphon.operations.incidents.detection import Symptom
from antiphon.operations.incidents.topology import (
    ACCESS,
    DEFINITIONS,
    GATEWAY,
    HOST,
    ONLINE_STORE,
    REFRESHES,
    WORKER,
)
from antiphon.operations.processes import ProcessStatus, descriptors, statuses
from antiphon.operations.processors import LimitWatch, ProcessorWatch
from antiphon.operations.settings_changes import settings_changes
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.incidents.gateway_probe import GatewayProbe
from antiphon.services.learning.outcomes import drift_reports
from antiphon.services.project.store import Store

_RECENT = timedelta(minutes=10)
"""For so long after it a restart or failed run is told, and as context a change."""

_LASTS = timedelta(seconds=30)
"""A process that was started again is no symptom any more after so long."""

_ACCESS = ("key.*", "policy.*", "budgets.*", "tenant.*")
_HARMLESS = frozenset(
    {"key.create", "key.allow", "key.approve", "key.restore", "policy.propose", "policy.reject", "tenant.create",
     "tenant.resume"}
)  # fmt: skip
"""Of these, the ones by which nobody is refused what was allowed before."""

_SUPERVISED = ("engine", "gateway", "worker")
_WAITED_FOR = ("engine", "gateway")
"""Of these, the ones that users wait for."""

_LAST_DESCRIPTORS = 0.98
"""Share of the files and sockets that a process may open, from which it has hardly one left."""

_AT_STORE = "online store"
"""Words of a run's error that tell of the online store."""

_VERDICTS = 50
_NAMED = 5


class OperationRecords:
    """Reads the facts of one tenant.

    Args:
        health: of its online snapshots; the healer's, so that what was healed between two looks is told.
    """

    def __init__(self, store: Store, features: FeaturePlatform, health: SnapshotHealth) -> None:
        self._store = store
        self._features = features
        self._health = health
        self._drift: DriftReports = drift_reports(store)
        self._alerts = ObjectiveStates(store.database)
        self._verdict: str | None = None
        self._gated: list[Symptom] = []
        self._since: dict[tuple[str, str], datetime] = {}
        self._processors, self._limits = ProcessorWatch(), LimitWatch()
        self._gateway = GatewayProbe(store.paths.run)

    def read(self, now: datetime, project: ProjectSpec, engine: str) -> tuple[list[Symptom], Mapping[str, float]]:
        """Facts and changes as they stand, and how many changes a component has in a day.

        Args:
            engine: the component of an engine that runs beside this process.
        """
        running = statuses(self._store.paths.run)
        found = [*self._processes(now, running, engine), *self._host(now, running, engine), *self._stores(now)]
        found += self._unanswered(now, running)
        found += [*self._gates(), *self._runs(now, project)]
        found += [
            Symptom(one.began_at, "burning", f"application/{one.application}", sentence=one.reason,
                    record=f"objective/{one.objective}")
            for one in self._alerts.open_alerts(self._store.scope)
            if one.severity == "critical"
        ]  # fmt: skip
        found += [
            Symptom(one.latest, "drifting", f"application/{one.application}", record=f"drift/{one.application}",
                    sentence=f"{one.application} drifts: {', '.join(one.variables)}.")
            for one in self._drift.warnings(self._store.scope)
        ]  # fmt: skip
        changes = list(self._changes(now, engine))
        counts: dict[str, float] = {}
        for change in changes:
            counts[change.component] = counts.get(change.component, 0.0) + 1.0
        return [*found, *(one for one in changes if now - one.since <= 2 * _RECENT)], counts

    def _processes(self, now: datetime, running: Sequence[ProcessStatus], engine: str) -> Iterator[Symptom]:
        for one in running:
            kind = one.name.partition("-")[0]
            if kind not in _SUPERVISED:
                continue
            component, record = _component(one.name, engine), f"process/{one.name}"
            left = one.state == "away" or (one.ended != "" and now - one.started_at <= _RECENT)
            broken = self._broken_settings() if left else None
            if self._lasts("settings_broken", one.name, broken is not None, now):
                yield Symptom(self._since["settings_broken", one.name], "settings_broken", component,
                              sentence=f"The process {one.name} cannot start: {broken}", record=record)  # fmt: skip
            # One that was asked to end did nothing wrong.
            if one.ended and now - one.started_at <= _RECENT:
                yield Symptom(one.started_at, "restarted", component, record=record,
                              sentence=f"The process {one.name} ended ({one.ended}) and was started again.",
                              lasting=now - one.started_at <= _LASTS)  # fmt: skip
            opened = descriptors(one.pid) if one.state == "running" else None
            for signal, bad, said in (
                ("away", one.state == "away", "does not run"),
                ("standstill", one.state == "paused", "stands still"),
                ("no_descriptors", opened is not None and opened[0] >= _LAST_DESCRIPTORS * opened[1],
                 f"has {opened[0]} of {opened[1]} files and sockets open" if opened else ""),
            ):  # fmt: skip
                if self._lasts(signal, one.name, bad, now):
                    yield Symptom(self._since[signal, one.name], signal, component, record=record,
                                  sentence=f"The process {one.name} {said}.")  # fmt: skip

    def _broken_settings(self) -> str | None:
        """The error of the settings as they are now, if they have one."""
        try:
            load(self._store.paths.root)
        except AntiphonError as error:
            return error.what
        except OSError as error:
            return f"{FILE_NAME} cannot be read: {error.strerror}."
        return None

    def _unanswered(self, now: datetime, running: Sequence[ProcessStatus]) -> Iterator[Symptom]:
        """A gateway that runs, and has for a while, and answers no new connections."""
        gateways = [one for one in running if one.name.partition("-")[0] == "gateway"]
        said = None
        if gateways and all(one.state == "running" and now - one.started_at >= _LASTS for one in gateways):
            said = self._gateway.look()
        else:
            self._gateway.forget()
        if self._lasts("unanswered", GATEWAY, said is not None, now):
            yield Symptom(self._since["unanswered", GATEWAY], "unanswered", GATEWAY, sentence=said or "",
                          record="process/gateway")  # fmt: skip

    def access_changes(self, now: datetime) -> list[Symptom]:
        """Changes of the last day to keys, policies, budgets and tenants by which requests may be refused since."""
        store = self._store
        found = [
            entry
            for prefix in _ACCESS
            for entry in store.audit.query(store.scope, AuditFilter(action=prefix, since=now - timedelta(days=1)))
            if entry.outcome != "denied" and entry.action not in _HARMLESS
        ]
        return [
            Symptom(entry.at, "governed", ACCESS, record=f"audit/{entry.sequence}",
                    sentence=f"{entry.action} of {entry.subject or 'an erased subject'} was carried out.")
            for entry in sorted(found, key=lambda entry: entry.at)
        ]  # fmt: skip

    def _host(self, now: datetime, running: Sequence[ProcessStatus], engine: str) -> Iterator[Symptom]:
        yield from self.storage(now)
        pids = {one.name: one.pid for one in running if one.alive}
        yield from self._limited(now, pids, engine)
        waited_for = {name: pid for name, pid in pids.items() if name.partition("-")[0] in _WAITED_FOR}
        taken = self._processors.look(waited_for, {*pids.values(), os.getsid(0)})
        if self._lasts("processors_taken", HOST, taken is not None, now) and taken is not None:
            yield Symptom(
                self._since["processors_taken", HOST], "processors_taken", HOST, record="host/processors",
                sentence=f"Others use {taken.taken:.0%} of the processors: the process {taken.process} waits for one "
                f"for {taken.waited:.0%} of the time.",
            )  # fmt: skip

    def storage(self, now: datetime) -> Iterator[Symptom]:
        """Shortages of the machine, told without the catalog."""
        folder = self._store.paths.directory
        for signal, short in (
            ("disk_full", disk.shortage(folder)),
            ("disk_read_only", disk.refusal(folder)),
            ("memory_short", memory.shortage()),
        ):
            if self._lasts(signal, HOST, short is not None, now):
                record = f"host/{signal.partition('_')[0]}"
                yield Symptom(self._since[signal, HOST], signal, HOST, sentence=short or "", record=record)

    def _limited(self, now: datetime, pids: Mapping[str, int], engine: str) -> Iterator[Symptom]:
        """A limit that keeps one process from its work, or all of a machine or container."""
        limited = self._limits.look(pids)
        components = {_component(name, engine) for name in limited}
        component = HOST if len(components) > 1 else next(iter(components), "")
        for one in (HOST, GATEWAY, WORKER, engine):
            if self._lasts("processor_limit", one, one == component, now):
                name = max(limited, key=lambda key: limited[key])
                yield Symptom(
                    self._since["processor_limit", one], "processor_limit", one, record=f"process/{name}",
                    sentence=f"The limit of its control group keeps the process {name} from the processors in "
                    f"{limited[name]:.0%} of the periods.",
                )  # fmt: skip

    def _stores(self, now: datetime) -> Iterator[Symptom]:
        since, said = now, ""
        try:
            self._features.overlay.read(())
        except UnavailableError:
            said = "The online store is away."
        else:
            healed = {view: at for view, at in self._health.healed.items() if now - at <= _LASTS}
            if damaged := self._health.damaged():
                since = min(one.since for one in damaged)
                said = f"The online store has lost what is published of {_listed(one.view for one in damaged)}."
            elif healed:
                since = min(healed.values())
                said = f"The online store had lost what is published of {_listed(healed)}; it was built again."
        if self._lasts("store_away", ONLINE_STORE, bool(said), since):
            yield Symptom(self._since["store_away", ONLINE_STORE], "store_away", ONLINE_STORE, sentence=said,
                          record="online-store/health")  # fmt: skip

    def _gates(self) -> list[Symptom]:
        store = self._store
        newest = store.verdicts.list(store.scope, limit=1)
        if not newest or newest[0].id == self._verdict:
            return self._gated
        latest: dict[str, Verdict] = {}
        for verdict in store.verdicts.list(store.scope, limit=_VERDICTS):
            latest.setdefault(verdict.view, verdict)
        self._verdict = newest[0].id
        self._gated = [
            Symptom(one.created_at, "blocked" if one.outcome == "blocked" else "warned", f"view/{one.view}",
                    record=f"view/{one.view}",
                    sentence=f"A gate {'blocked' if one.outcome == 'blocked' else 'warned of'} {one.view}: "
                    f"{one.findings[0].rule if one.findings else one.outcome}")
            for one in latest.values()
            if one.outcome != "passed"
        ]  # fmt: skip
        return self._gated

    def _runs(self, now: datetime, project: ProjectSpec) -> Iterator[Symptom]:
        store = self._store
        said: set[str] = set()
        for run in store.runs.list(store.scope, 20, status="failed"):
            ended = run.ended_at or run.updated_at
            refresh = run.workflow in REFRESHES
            if not (refresh or run.schedule) or now - ended > 36 * _RECENT or run.workflow in said:
                continue
            said.add(run.workflow)
            since = store.runs.list(store.scope, 1, workflow=run.workflow, status="succeeded")
            mended = bool(since) and (since[0].ended_at or since[0].updated_at) > ended
            component = _named(run.error or "", project) if refresh else None
            if _AT_STORE in (run.error or ""):
                yield Symptom(ended, "store_away", ONLINE_STORE, record=f"run/{run.id}", lasting=not mended,
                              sentence=f"The online store refused what a run of {run.workflow} wrote.")  # fmt: skip
            yield Symptom(ended, "refresh_failed" if component else "run_failed", component or
                          f"workflow/{run.workflow}", record=f"run/{run.id}", lasting=not mended,
                          sentence=f"A run of {run.workflow} failed for good.")  # fmt: skip

    def _changes(self, now: datetime, engine: str) -> Iterator[Symptom]:
        store, day = self._store, now - timedelta(days=1)
        for application in store.releases.applications(store.scope):
            for move in store.releases.history(store.scope, application)[-20:]:
                # A step back mends: it must not take the place of the move that it undoes.
                if move.sequence > 1 and move.at >= day and move.action != "rollback":
                    yield Symptom(move.at, "released", f"release/{application}", record=f"release/{move.release}",
                                  sentence=f"{move.release} of {application} went live.")  # fmt: skip
        for applied in store.applied.list(store.scope, 5):
            if applied.number > 1 and applied.created_at >= day:
                yield Symptom(applied.created_at, "applied", DEFINITIONS, record=f"applied/{applied.number}",
                              sentence=f"Definitions were applied for the {applied.number}th time.")  # fmt: skip

        for started in settings_changes(store.paths.run):
            if started.at >= day:
                yield Symptom(started.at, "reconfigured", _component(started.process, engine),
                              sentence=started.sentence, record=f"process/{started.process}")  # fmt: skip

    def _lasts(self, signal: str, name: str, bad: bool, now: datetime) -> bool:
        if bad:
            self._since.setdefault((signal, name), now)
        else:
            self._since.pop((signal, name), None)
        return bad


def _component(process: str, engine: str) -> str:
    kind = process.partition("-")[0]
    return engine if kind == "engine" else kind


def _listed(views: Iterable[str]) -> str:
    names = sorted(set(views))
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} others" if len(names) > _NAMED else "")


def _named(error: str, project: ProjectSpec) -> str | None:
    """The source or view that an error names; the source of a view, where both are."""
    for names, component in ((project.sources, _as_source), (project.views, _as_view)):
        for name in sorted(names, key=len, reverse=True):
            if re.search(rf"(?<![\w]){re.escape(name)}(?![\w])", error):
                return component(name)
    return None


def _as_source(name: str) -> str:
    return f"source/{name}"


def _as_view(name: str) -> str:
    return f"view/{name}"
