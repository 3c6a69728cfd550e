"""Assesses a tenant's incidents: reads what was measured and recorded since, detects, explains, keeps incidents.

One process of a tenant does it at a time, the one that has the tenant's duties. Its state is nothing but what the
history has: another one that takes over reads the last hour and goes on. Two that do it for a moment find each other's
incidents, because these are read in the transaction that writes them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.incidents import Incident
from antiphon.catalog.measurements import FINEST, PLATFORM, begin_of
from antiphon.catalog.notifications import Notification
from antiphon.core.errors import UnavailableError
from antiphon.definitions.project import ProjectSpec
from antiphon.features.publication.healing import SnapshotHealth
from antiphon.operations.incidents.course import REOPENED_WITHIN, PeriodImpact, advance, impact_of, impact_sentence
from antiphon.operations.incidents.detection import SignalDetectors, Symptom
from antiphon.operations.incidents.evidence import AFTER_A_CHANGE
from antiphon.operations.incidents.explanation import Diagnosis, explain
from antiphon.operations.incidents.signals import READ, SIGNALS, SignalKey, SignalSample, readings
from antiphon.operations.incidents.topology import ACCESS, CATALOG, topology_of
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.incidents.records import OperationRecords
from antiphon.services.project.store import Store

ASSESS_SECONDS = 5.0
INCIDENT = "incident"
"""Kind of their notifications."""

_SETTLED = timedelta(seconds=2)
"""A period is read so long after its end: each process writes its row once in it."""

_WARM_UP = timedelta(hours=1)
_REFUSALS = frozenset({"denied", "throttled", "refused", "rejected"})
"""Symptoms that a change of keys, policies or quotas may have: only then the audit log is asked for one."""

_REMEMBERED = timedelta(minutes=10)
"""Symptoms that are over are explained together with those that last for so long."""

_SEASON_EVERY = timedelta(minutes=10)
_SEASON_DAYS = 7
_NO_HICCUP = timedelta(seconds=5)
"""For so long the catalog has to be away, or take no writes, to be an incident by itself."""

_SAID_AFTER = timedelta(seconds=20)
"""An incident without a cause is said so late: its cause is often known a period later."""


class IncidentWatch:
    """Keeps the incidents of the store's own tenant; arguments as of :class:`OperationRecords`."""

    def __init__(self, store: Store, features: FeaturePlatform, health: SnapshotHealth) -> None:
        self._store = store
        self._records = OperationRecords(store, features, health)
        self._detectors = SignalDetectors()
        self._until: datetime | None = None
        self._symptoms: dict[SignalKey, Symptom] = {}
        self._seen: dict[SignalKey, datetime] = {}
        self._traffic: dict[str, float] = {}
        self._engines: set[str] = set()
        self._workflows: set[str] = set()
        self._season: dict[SignalKey, SignalSample] = {}
        self._season_at: datetime | None = None
        self._away_since: datetime | None = None
        self._delayed_until: datetime | None = None
        self._untold: set[SignalKey] = set()
        """Lasted when nothing could be written: told once it can be, though it may be over by then."""
        self._project: tuple[datetime, ProjectSpec] | None = None

    def assess(self) -> int:
        """Assess what has been measured and recorded since; how many incidents changed."""
        store = self._store
        now = store.database.clock.now()
        try:
            found, fresh = self._measured(now)
            facts, changes = self._records.read(now, self._declared(now), self._engine())
        except UnavailableError:
            self._away_since = self._away_since or now
            for one in self._records.storage(now):
                self._symptoms[one.key], self._seen[one.key] = one, now
                self._untold.add(one.key)
            raise
        facts += self._catalog(now)
        if any(one.signal in _REFUSALS for one in (*found, *self._symptoms.values())):
            acts = self._records.access_changes(now)
            facts += acts[-1:]
            changes = {**changes, ACCESS: float(len(acts))}
        impact = impact_of(found if fresh else (), self._traffic if fresh else {})
        self._remember([*found, *facts], now)
        topology = topology_of(self._declared(now), self._engines, self._workflows)
        diagnoses = explain(self._symptoms.values(), topology, changes)
        if not diagnoses and not self._recorded(now, None):
            return 0  # Most looks end here, and take no write lock.
        try:
            changed = self._written(diagnoses, impact, now)
        except UnavailableError:
            self._untold |= {key for key, one in self._symptoms.items() if one.lasting}
            raise
        self._untold.clear()
        return changed

    def _catalog(self, now: datetime) -> list[Symptom]:
        """Times in which the catalog did not serve us: they can be told only once it does again."""
        delay, found = self._store.database.write_delays.last, []
        spans = []
        if self._away_since is not None:
            spans.append((self._away_since, now, "was away"))
            self._away_since = None
        if delay is not None and (self._delayed_until is None or delay.until > self._delayed_until):
            self._delayed_until = delay.until
            if delay.lasted >= _NO_HICCUP:
                spans.append((delay.since, delay.until, "took no writes"))
        for since, until, said in spans[:1]:
            found.append(Symptom(since, "catalog_away", CATALOG, lasting=until - since >= _NO_HICCUP,
                                 sentence=f"The catalog {said} from {since:%H:%M:%S}Z to {until:%H:%M:%S}Z.",
                                 record="catalog/health"))  # fmt: skip
        return found

    def _written(self, diagnoses: tuple[Diagnosis, ...], impact: PeriodImpact, now: datetime) -> int:
        """Keep what was diagnosed, with its notifications; how many incidents changed."""
        store = self._store
        with store.database.transaction() as connection:
            recorded = self._recorded(now, connection)
            changed = advance(recorded, diagnoses, impact, now)
            for incident in changed:
                store.incidents.put(store.scope, incident, within=connection)
            current = {one.id: one for one in (*recorded, *changed)}
            for incident in current.values():
                for notification in due(incident, now):
                    store.notifications.append(store.scope, notification, within=connection)
                for over in ended(incident):
                    store.notifications.resolve(
                        store.scope, over, incident.updated_at, impact_sentence(incident), within=connection
                    )
        return len(changed)

    def _recorded(self, now: datetime, within: Connection | None) -> list[Incident]:
        """Incidents that are not over, and those that may begin again."""
        incidents, scope = self._store.incidents, self._store.scope
        return [
            *incidents.active(scope, within=within),
            *incidents.list(scope, state="resolved", since=now - REOPENED_WITHIN, within=within),
        ]

    def _measured(self, now: datetime) -> tuple[tuple[Symptom, ...], bool]:
        """The symptoms after the last period that is over, and whether there was a new one."""
        store, end = self._store, begin_of(now - _SETTLED, FINEST)
        begin = self._until or end - _WARM_UP
        if begin >= end:
            return self._detectors.symptoms(), False
        own = store.measurements.read(store.scope.tenant, FINEST, begin, end, READ)
        platform = store.measurements.read(PLATFORM, FINEST, begin, end, READ)
        self._read_season(now)
        while begin < end:
            found = readings(own.get(begin, {}), platform.get(begin, {}))
            self._detectors.take(begin, found, self._season, changed=self._changed(begin))
            self._note(found)
            begin += FINEST
        self._until = end
        return self._detectors.symptoms(), True

    def _changed(self, at: datetime) -> bool:
        """True for a while after people have changed something, as far as it was known at the last look."""
        return any(
            one.signal in ("released", "applied", "reconfigured")
            and timedelta() <= at + FINEST - one.since <= AFTER_A_CHANGE * FINEST
            for one in self._symptoms.values()
        )

    def _note(self, found: dict[SignalKey, SignalSample]) -> None:
        self._traffic = {
            key.component.partition("/")[2]: one.value for key, one in found.items() if key.signal == "traffic"
        }
        engines = {key.component for key in found if key.signal == "silent"}
        self._engines = engines or self._engines
        self._workflows |= {key.component.partition("/")[2] for key in found if key.signal == "run_failed"}

    def _remember(self, found: list[Symptom], now: datetime) -> None:
        present = {one.key for one in found}
        for key, known in list(self._symptoms.items()):
            if key not in present:
                if now - self._seen[key] > _REMEMBERED:
                    del self._symptoms[key], self._seen[key]
                elif known.lasting is not (key in self._untold):
                    self._symptoms[key] = msgspec.structs.replace(known, lasting=key in self._untold)
        for one in found:
            self._symptoms[one.key], self._seen[one.key] = one, now

    def _read_season(self, now: datetime) -> None:
        if self._season_at is not None and now - self._season_at < _SEASON_EVERY:
            return
        store, season = self._store, dict[SignalKey, SignalSample]()
        period = timedelta(minutes=10)
        for days in range(1, _SEASON_DAYS + 1):
            begin = begin_of(now - timedelta(days=days), period) - period
            own = store.measurements.read(store.scope.tenant, period, begin, begin + 3 * period, READ)
            platform = store.measurements.read(PLATFORM, period, begin, begin + 3 * period, READ)
            for at in own.keys() | platform.keys():
                found = readings(own.get(at, {}), platform.get(at, {}))
                for key, one in found.items():
                    _add_season(season, key, one, period / FINEST)
        self._season, self._season_at = season, now

    def _declared(self, now: datetime) -> ProjectSpec:
        if self._project is None or now - self._project[0] > timedelta(seconds=30):
            self._project = now, self._store.applied.project(self._store.scope)
        return self._project[1]

    def _engine(self) -> str:
        return min(self._engines) if len(self._engines) == 1 else "engine/engine"


def _add_season(season: dict[SignalKey, SignalSample], key: SignalKey, one: SignalSample, periods: float) -> None:
    kind = SIGNALS[key.signal].kind
    known = season.setdefault(key, SignalSample(buckets={}))
    if kind in ("count", "height", "ceiling"):
        known.value = max(known.value, one.value / periods if kind == "count" else one.value)
    else:
        known.add(one.value, one.weight, one.buckets)


def due(incident: Incident, now: datetime) -> tuple[Notification, ...]:
    """Notifications that an incident is due as it stands; one that was said before is not said again."""
    if incident.state not in ("open", "acknowledged"):
        return ()
    if not incident.roots and now - incident.opened_at < _SAID_AFTER:
        return ()
    symptoms = "\n".join(f"- {one.evidence.sentence}" for one in incident.symptoms[:20])
    return (
        Notification(
            _notification_id(incident, incident.severity),
            INCIDENT,
            incident.severity,
            "firing",
            incident.title,
            incident.opened_at,
            f"{incident.class_}. {impact_sentence(incident)}\n{symptoms}\n"
            f"`antiphon incidents show {incident.id}` has the path of evidence.",
            incident.applications[0] if len(incident.applications) == 1 else None,
            labels={"incident": incident.id, "class": incident.class_},
            link=f"/incidents/{incident.id}",
        ),
    )


def ended(incident: Incident) -> tuple[str, ...]:
    """Notifications of an incident that are over: all, once it is resolved; those of lesser severities before."""
    return tuple(
        _notification_id(incident, severity)
        for severity in ("info", "warning", "critical")
        if not incident.active or severity != incident.severity
    )


def _notification_id(incident: Incident, severity: str) -> str:
    return f"{INCIDENT}:{incident.id}:{incident.reopened}:{severity}"
