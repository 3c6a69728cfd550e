"""Notifications that follow from rows of lower rooms: releases that go live, and drift that begins or ends.

A move of the live pointer and a report of drift are committed by themselves and say everything, so these need no place
in their transactions: a look finds what was not said, also after a crash.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from antiphon.catalog.notifications import Notification, Notifications
from antiphon.core.clock import microseconds
from antiphon.learning.outcomes.drift_runs import DriftReports, DriftWarning
from antiphon.releases.notes import ReleaseNote, public
from antiphon.services.changes import release_notes
from antiphon.services.learning.outcomes import drift_reports
from antiphon.services.project.store import Store

RELEASE_LIVE, DRIFT = "release.live", "drift"
"""Kinds."""

SAID_FOR = timedelta(days=1)
"""Age at which a move or a warning is not said any more, after a long absence of every worker."""

NOTES = 20
"""Notes of an application that are looked at."""


class NotificationSources:
    """Reads releases and drift of one project, and hands over what was not said of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._notifications: Notifications = store.notifications
        self._drift: DriftReports = drift_reports(store)

    def append_new(self) -> int:
        """Hand over what is new; how many notifications it were."""
        scope, said = self._store.scope, 0
        for note in self._notes():
            said += self._notifications.append(scope, of_release(note)) is not None
        warnings = [of_drift(one) for one in self._drift.warnings(scope)]
        since = self._store.database.clock.now() - SAID_FOR
        covered = self._store.incidents.applications(scope)
        for warning in warnings:
            if warning.application in covered:
                continue  # It is a symptom of the incident, which was said.
            if warning.started_at >= since and not self._notifications.known(scope, warning.id, "firing"):
                said += self._notifications.append(scope, warning) is not None
        drifting = {one.id for one in warnings}
        for active in self._notifications.active(scope, DRIFT):
            if active.id not in drifting:
                at = self._store.database.clock.now()
                text = f"The newest report of {active.application} no longer says so."
                said += self._notifications.resolve(scope, active.id, at, text) is not None
        return said

    def _notes(self) -> Iterator[ReleaseNote]:
        """Notes of late that were not said, the oldest first."""
        store, scope = self._store, self._store.scope
        since = store.database.clock.now() - SAID_FOR
        for application in store.releases.applications(scope):
            recent = [
                move
                for move in store.releases.history(scope, application)[-NOTES:]
                if move.at >= since
                and not self._notifications.known(scope, _release_id(f"{application}/{move.sequence}"), "firing")
            ]
            if recent:
                ids = {f"{application}/{move.sequence}" for move in recent}
                notes = release_notes(store).of(scope, application, NOTES)
                yield from (note for note in reversed(notes) if note.id in ids)


def of_release(note: ReleaseNote) -> Notification:
    """A move of the live pointer as a notification, which is grave where it went back."""
    changes = "\n\n".join("\n".join((change.sentence, *change.lines)) for change in note.changes)
    (outside,) = public([note])
    return Notification(
        id=_release_id(note.id),
        kind=RELEASE_LIVE,
        severity="warning" if note.action == "rolled_back" else "info",
        state="firing",
        title=f"{note.application}: {note.sentence}",
        started_at=note.at,
        ended_at=note.at,
        text="\n\n".join(part for part in (f"{note.principal}: {note.reason}", changes) if part),
        application=note.application,
        labels={"release": note.release, "action": note.action},
        public=outside.sentence,
    )


def of_drift(warning: DriftWarning) -> Notification:
    """A warning of drift as a notification that lasts; a further variable makes another one."""
    return Notification(
        id=f"{DRIFT}:{warning.application}:{microseconds(warning.latest)}",
        kind=DRIFT,
        severity="warning",
        state="firing",
        title=f"{warning.application} drifts: {', '.join(warning.variables)}",
        started_at=warning.latest,
        text=f"The first of them since {warning.since:%Y-%m-%d %H:%MZ}. "
        f"`antiphon outcomes drift {warning.application} --kept` shows the report.",
        application=warning.application,
    )


def _release_id(note: str) -> str:
    return f"{RELEASE_LIVE}:{note}"
