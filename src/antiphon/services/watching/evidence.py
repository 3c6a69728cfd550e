"""Reading of the evidence about live releases from the history, outcomes and receipts, each of them once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from antiphon.catalog.measurements import FINEST, KEPT, Amounts, Measurements, begin_of
from antiphon.catalog.releases.releases import Activation, Release
from antiphon.catalog.releases.watches import MeasureEvidence, WatchRecord
from antiphon.core.scope import Scope
from antiphon.definitions.project import ProjectSpec
from antiphon.definitions.quality import WatchAction
from antiphon.definitions.watches import COUNTED, WatchSpec, usual_watch
from antiphon.learning.watching import evidence
from antiphon.learning.watching.ceilings import VIEW, ReleaseHistory, ceilings_of, shares_of_alpha
from antiphon.services.objectives import all_objectives
from antiphon.services.project.store import Store

REQUESTS = "antiphon_release_requests"

MOST_ANSWERS = 200
"""Receipts that one look reads; of more, as many spread evenly."""

_REFERENCE_ANSWERS = 1_000
_MOST_OUTCOMES = 2_000
_ROLLOUT_OUTCOMES = 5_000
_HOUR = timedelta(hours=1)
_SETTLED = timedelta(hours=2)
"""Counts of what is over for so long are not read again."""

LAG = timedelta(seconds=30)
"""Receipts are read so long after their moment: until then some may not be committed."""

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

_EVENTS = {"errors": "failed", "invalid": "invalid", "first_byte": "late_first_byte", "latency": "late"}


def watch_of(project: ProjectSpec, application: str) -> WatchSpec:
    """The declared watch of an application, or the usual one."""
    return project.watches.get(application) or usual_watch(application)


def view_actions(project: ProjectSpec, release: Release) -> dict[str, WatchAction]:
    """The views of this project that a release reads, with what is declared for each."""
    read = release.bundle.application.versions
    return {name: view.watch for name, view in project.views.items() if name in read}


class WatchEvidence:
    """Reads the evidence of one tenant's live releases; counts of what is over are kept."""

    def __init__(self, store: Store, scope: Scope, lag: timedelta = LAG) -> None:
        self._store = store
        self._scope = scope
        self._lag = lag
        self._periods: dict[datetime, Amounts] = {}
        self._read_from: datetime | None = None

    def begin(self, project: ProjectSpec, release: Release, activation: Activation) -> WatchRecord:
        """The watch of a release that went live, with its ceilings and before any evidence."""
        store, scope, application = self._store, self._scope, release.bundle.application
        watch, views = watch_of(project, application.name), view_actions(project, release)
        targets: dict[str, float] = {
            one.kind: one.target
            for one in all_objectives(project).values()
            if one.application == application.name and one.target is not None
        }
        shape = application.shape
        outcomes = (
            []
            if shape is None
            else store.outcomes.newly_joined(
                scope, application.name, shape.name, _BEGINNING, activation.at, _ROLLOUT_OUTCOMES, release=release.id
            )
        )
        answers = store.receipts.list(
            scope, application.name, roles=("evaluation",), releases=(release.id,), limit=_REFERENCE_ANSWERS
        )
        history = ReleaseHistory(
            application, targets, store.evaluations.latest(scope, release.id), answers, outcomes, views
        )
        bound = evidence.bound(watch.alpha, shares_of_alpha(watch, views))
        measures = {
            name: msgspec.structs.replace(measure, bound=bound) for name, measure in ceilings_of(watch, history).items()
        }
        at = activation.at
        return WatchRecord(
            scope, application.name, release.id, activation.sequence, at, at, at, store.database.clock.now(), measures
        )

    def read(self, record: WatchRecord, release: Release) -> WatchRecord:
        """The watch with everything that has come since it was read last."""
        store, application = self._store, release.bundle.application
        now, shape = store.database.clock.now(), application.shape
        measures = dict(record.measures)
        for name in COUNTED:
            if name in measures:
                measures[name] = evidence.with_counts(
                    measures[name], self.counts(application.name, release.id, name, record.since, now), record.since
                )
        outcomes_until = record.outcomes_until
        if shape is not None and (measures.keys() & {"quality", "calibration"}):
            until = store.outcomes.instant()
            outcomes = store.outcomes.newly_joined(
                self._scope, application.name, shape.name, outcomes_until, until, _MOST_OUTCOMES, release=release.id
            )
            for name in measures.keys() & {"quality", "calibration"}:
                measures[name] = evidence.with_outcomes(measures[name], outcomes, shape)
            outcomes_until = until if len(outcomes) < _MOST_OUTCOMES else outcomes[-1].created_at
        receipts_until = max(now - self._lag, record.receipts_until)
        if any(one.bins for one in measures.values()) and receipts_until > record.receipts_until:
            receipts = store.receipts.sample(
                self._scope, application.name, release.id,
                max(record.receipts_until, receipts_until - _HOUR), receipts_until, most=MOST_ANSWERS,
            )  # fmt: skip
            for name, measure in measures.items():
                measures[name] = evidence.with_answers(measure, receipts, application)
        return msgspec.structs.replace(
            record, measures=measures, outcomes_until=outcomes_until, receipts_until=receipts_until,
            read_at=max(now, record.read_at + timedelta(microseconds=1)),
        )  # fmt: skip

    def counts(
        self, application: str, release: str, measure: str, since: datetime, until: datetime
    ) -> dict[str, tuple[float, float]]:
        """Block to the bad requests of a release and all that could have been."""
        of = "generated" if measure in ("first_byte", "latency") else "requests"
        found: dict[str, tuple[float, float]] = {}
        again = any(
            one.release == release and one.at < since for one in self._store.releases.history(self._scope, application)
        )
        for start, measured in self._measured(since, until, again=again).items():
            total = _counted(measured, application, release, of)
            bad = min(_counted(measured, application, release, _EVENTS[measure]), total)
            if total:
                name = evidence.block_of(start, evidence.COUNTED)
                before = found.get(name, (0.0, 0.0))
                found[name] = (before[0] + bad, before[1] + total)
        return found

    def _measured(self, since: datetime, until: datetime, *, again: bool) -> Mapping[datetime, Amounts]:
        """The counts by ten minutes, from those in which a moment is. Of a release that is live ``again``, only what
        came after that moment."""
        first = begin_of(since, evidence.COUNTED)
        known = self._read_from is not None and self._read_from <= first
        begin = max([first, *self._periods]) - _SETTLED if known else first
        read = self._store.measurements.read(self._scope.tenant, evidence.COUNTED, max(begin, first), until, {REQUESTS})
        self._periods |= read
        self._read_from = first if self._read_from is None else min(self._read_from, first)
        found = {start: measured for start, measured in sorted(self._periods.items()) if start >= first}
        if again:
            found[first] = self._since(since, min(until, first + evidence.COUNTED), until)
        return found

    def _since(self, since: datetime, until: datetime, now: datetime) -> Measurements:
        """The counts of less than ten minutes, by the finest periods that are kept for so long; none after that.

        A process adds what it counted in the seconds before to the period in which it does so: the first begins later
        by as much.
        """
        found = Measurements()
        for period, kept in KEPT.items():
            if period < evidence.COUNTED and now - since < kept:
                first = begin_of(since + FINEST + period - timedelta(microseconds=1), period)
                read = self._store.measurements.read(self._scope.tenant, period, first, until, {REQUESTS})
                for measured in read.values():
                    found.add(measured)
                break
        return found


def _counted(measured: Amounts, application: str, release: str, event: str) -> float:
    amount = measured.get((REQUESTS, (application, release, event)))
    return 0.0 if amount is None else amount.total


def view_of(measure: MeasureEvidence) -> str | None:
    """The view whose values a measure is; ``None`` of a measure of the release itself."""
    return measure.name.removeprefix(VIEW) if measure.name.startswith(VIEW) else None
