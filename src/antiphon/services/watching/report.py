"""Reports about watches of live releases: policy, evidence so far, and decisions. Nothing is written."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.catalog.releases.watches import MeasureEvidence, WatchDecision
from antiphon.core.scope import Scope
from antiphon.definitions.quality import WatchAction
from antiphon.definitions.watches import WATCHED, WatchSpec
from antiphon.services.project.store import Store
from antiphon.services.watching.evidence import view_actions, view_of, watch_of
from antiphon.services.watching.wording import figures, strength, title


class MeasureLine(msgspec.Struct, frozen=True):
    """One measure of a live release.

    Attributes:
        action: that is declared. status: ``off``, ``unmeasured`` (``sentence`` says why), ``within`` its ceiling as far
            as is known, ``decided``.
        evidence: that it is above its ceiling, as a factor; ``bound`` at which it is decided, in figures for people.
    """

    name: str
    title: str
    action: WatchAction
    status: str
    units: float
    mean: float | None
    ceiling: float | None
    log_evidence: float
    log_bound: float
    evidence: str
    bound: str
    sentence: str


class ReleaseWatchReport(msgspec.Struct, frozen=True):
    """A release as it is or was watched.

    Attributes:
        live: it is the live one. since: when it went live the last time.
        read_at: ``None`` before the first look.
    """

    application: str
    release: str
    live: bool
    watch: WatchSpec
    since: datetime | None
    read_at: datetime | None
    measures: tuple[MeasureLine, ...]
    decisions: tuple[WatchDecision, ...]


class ProjectWatches:
    """Reports about watches of one tenant."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope

    def of_release(self, release: str) -> ReleaseWatchReport:
        """The watch of one release.

        Raises:
            NotFoundError: there is no such release here.
        """
        found = self._store.releases.get(self._scope, release)
        application = found.bundle.application.name
        live = self._store.releases.live(self._scope, application)
        project = self._store.applied.project(self._scope)
        watch = watch_of(project, application)
        record = self._store.watches.of_release(self._scope, release)
        decisions = self._store.watches.decisions(self._scope, application, release=release)
        decided = {one.measure for one in decisions if record is not None and one.activation == record.sequence}
        views = view_actions(project, found)
        known = {} if record is None else record.measures
        lines = []
        for name in dict.fromkeys((*WATCHED, *known)):
            measure = known.get(name) or MeasureEvidence(name, note="It was not looked at yet.")
            view = view_of(measure)
            action: WatchAction = watch.action(name) if view is None else views.get(view, "off")
            lines.append(_line(measure, "off" if watch.mode == "off" else action, name in decided))
        return ReleaseWatchReport(
            application, release, live is not None and live.id == release, watch,
            None if record is None else record.since, None if record is None else record.read_at,
            tuple(lines), decisions,
        )  # fmt: skip

    def live(self, application: str) -> ReleaseWatchReport | None:
        """The watch of an application's live release; ``None`` while nothing is live."""
        live = self._store.releases.live(self._scope, application)
        return None if live is None else self.of_release(live.id)

    def decisions(self, application: str | None = None, limit: int = 50) -> tuple[WatchDecision, ...]:
        """Decisions, the latest first."""
        return self._store.watches.decisions(self._scope, application, limit=limit)


def _line(measure: MeasureEvidence, action: WatchAction, decided: bool) -> MeasureLine:
    if decided:
        status = "decided"
    elif action == "off":
        status = "off"
    else:
        status = "unmeasured" if measure.mean is None else "within"
    sentence = measure.note if measure.note and measure.mean is None else figures(measure)
    return MeasureLine(
        measure.name, title(measure), action, status, measure.units, measure.mean, measure.ceiling, measure.evidence,
        measure.bound, strength(measure.evidence), strength(measure.bound), sentence,
    )  # fmt: skip
