"""Watches the live releases of a tenant, and does what is declared when one turns bad.

Invariants:
- The evidence, a decision, its notification and the move of the pointer are one transaction, conditional on the live
  release and on the evidence that was read before. A crash leaves all of it or nothing, and the next look goes on.
- A rollback of a view publishes and so has transactions of its own: it is recorded before, and finished by the next
  look of any process; the hold that it writes in the transaction of its flip says that it is done.
- A release that is live because of a rollback is not rolled back by itself: nothing flaps.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.notifications import Notification
from antiphon.catalog.releases.releases import Activation, Release, activation_stack
from antiphon.catalog.releases.watches import MeasureEvidence, WatchDecision, WatchVerdict
from antiphon.core.clock import parse_duration
from antiphon.core.errors import AntiphonError, ConflictError
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.definitions.project import ProjectSpec
from antiphon.definitions.watches import COUNTED, WatchSpec
from antiphon.learning.watching.evidence import first_bad_block
from antiphon.learning.watching.losses import loss_of
from antiphon.releases.candidate import unread
from antiphon.releases.rollout import RolloutTransitions
from antiphon.services.features.feature_services import FeatureRollback
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_transitions
from antiphon.services.watching.evidence import LAG, WatchEvidence, view_of, watch_of
from antiphon.services.watching.wording import TITLES, figures

_log = logging.getLogger("antiphon.worker")

WATCHER = "watcher"
"""The principal in whose name live releases and views are rolled back by themselves. It has no key, and signs in
nowhere; all that it can do is in this file."""

WATCH = "watch"
"""Kind of the notifications."""

WATCH_SECONDS = 15.0

MOST_PUBLICATIONS = 1_000
_MOST_OUTCOMES = 2_000


class ReleaseWatcher:
    """Watches one tenant's live releases. Any number of workers may do so at once.

    Args:
        lag: receipts are read so long after their moment.
    """

    def __init__(self, store: Store, rollback: FeatureRollback, *, lag: timedelta = LAG) -> None:
        self._store = store
        self._scope: Scope = store.scope
        self._rollback = rollback
        self._transitions: RolloutTransitions = rollout_transitions(store)
        self._evidence = WatchEvidence(store, store.scope, lag)

    def look(self) -> int:
        """Looks at each live release once, and does what is due; returns the number of decisions."""
        decided = 0
        project = self._store.applied.project(self._scope)
        for decision in self._store.watches.pending(self._scope):
            self._finish(decision)
        for release in self._store.releases.live_ones(self._scope):
            watch = watch_of(project, release.bundle.application.name)
            if watch.mode == "off":
                continue
            try:
                decided += self._look_at(project, watch, release)
            except ConflictError as conflict:
                _log.info("The live release %s was moved by another process: %s", release.id, conflict)
            except Exception:
                # The next look tries again; one release must not keep the others from being watched.
                _log.exception("The live release %s cannot be watched; trying again.", release.id)
        return decided

    def _look_at(self, project: ProjectSpec, watch: WatchSpec, release: Release) -> int:
        application = release.bundle.application.name
        activation = self._store.releases.history(self._scope, application)[-1]
        before = self._store.watches.get(self._scope, application, activation.sequence)
        begun = before or self._evidence.begin(project, release, activation)
        record = self._evidence.read(begun, release)
        known = {
            one.measure
            for one in self._store.watches.decisions(
                self._scope, application, activation=activation.sequence, limit=1_000
            )
        }
        crossed = [one for one in record.measures.values() if one.evidence >= one.bound > 0 and one.name not in known]
        # What rolls a release back goes first: after it nothing else is decided about this release.
        crossed.sort(key=lambda one: (view_of(one) is not None, -one.evidence))
        decisions = [one for one in (self._decided(project, watch, release, activation, m) for m in crossed) if one]
        moving = next((one for one in decisions if one.decision == "roll_back" and one.view is None), None)
        decisions = decisions if moving is None else [moving]
        with self._store.database.transaction() as connection:
            self._store.watches.put(record, before, within=connection)
            for decision in decisions:
                self._act(decision, connection)
        for decision in decisions:
            _log.warning("%s", decision.sentence)
            if decision.done_at is None:
                self._finish(decision)
        return len(decisions)

    def _act(self, decision: WatchDecision, connection: Connection) -> None:
        """Record a decision, move the pointer where it says so, and tell people, in one transaction."""
        scope, reason = self._scope, decision.sentence
        if decision.decision == "roll_back" and decision.view is None:
            moved = self._transitions.rollback(
                scope, decision.application, principal=WATCHER, reason=reason, expected=decision.release,
                within=connection,
            )  # fmt: skip
            if moved.release != decision.to:
                raise ConflictError(
                    f"The release before {decision.release} is {moved.release}, not {decision.to}.", where=str(scope)
                )
        self._store.watches.decide(decision, within=connection)
        detail = {
            "application": decision.application, "measure": decision.measure, "decision": decision.decision,
            "reason": reason,
        }  # fmt: skip
        self._store.audit.append(scope, WATCHER, "release.watch", decision.release, detail, within=connection)
        self._store.notifications.append(scope, _notification(decision), within=connection)

    def _decided(
        self, project: ProjectSpec, watch: WatchSpec, release: Release, activation: Activation, measure: MeasureEvidence
    ) -> WatchDecision | None:
        """The decision about a measure beyond its bound; ``None`` where it is not to be watched any more."""
        view, now = view_of(measure), self._store.database.clock.now()
        if view is None:
            declared = watch.action(measure.name)
        else:
            declared = project.views[view].watch if view in project.views else "off"
        if declared == "off":
            return None
        verdict: WatchVerdict = declared
        to, since_snapshot, why = None, None, ""
        if view is not None:
            to, since_snapshot = self._good_snapshot(release, view, measure)
        elif verdict == "roll_back":
            to, why = self._predecessor(watch, release, activation, measure, now)
        if watch.mode == "tell" and verdict != "tell":
            verdict, why = "tell", f"The watch is a dry run; declared is {_words(declared)}."
        elif verdict == "roll_back" and to is None:
            verdict, why = "hold", why or f"No earlier snapshot of {view} was published before it."
        done = view is None or verdict == "tell"
        sentence = _sentence(release, measure, verdict, to, view, why)
        return WatchDecision(
            new_id("wdec"), self._scope, release.bundle.application.name, release.id, activation.sequence,
            measure.name, verdict, declared, sentence, measure.units, measure.mean, measure.ceiling,
            measure.evidence, measure.bound, now,
            to=to if verdict == "roll_back" else None, view=view, since_snapshot=since_snapshot,
            done_at=now if done else None,
        )  # fmt: skip

    def _predecessor(
        self, watch: WatchSpec, release: Release, activation: Activation, measure: MeasureEvidence, now: datetime
    ) -> tuple[str | None, str]:
        """The release to go back to, or why there is no going back without a person."""
        application = release.bundle.application.name
        stack = activation_stack(self._store.releases.history(self._scope, application))
        if len(stack) < 2:
            return None, "No release was live before."
        previous = self._store.releases.get(self._scope, stack[-2])
        if activation.action == "rollback":
            return None, "It is live because of a rollback, and what was before that is not gone back to by itself."
        if (active := self._store.rollouts.active(self._scope, application)) is not None:
            return None, f"The rollout {active.id} is under way, whose control it is."
        if now - activation.at > parse_duration(watch.within):
            return None, f"It has been live for longer than {watch.within}."
        if gone := unread(self._transitions.feature_exists, self._scope, previous):
            return (
                None,
                f"Release {previous.number} before it reads features that are not published: {', '.join(gone)}.",
            )
        if (no_better := self._no_better(previous, release, measure, activation)) is not None:
            return None, no_better
        if watch.during_freeze == "hold":
            holds = self._store.run_holds.lasting(self._scope)
            freeze = next((one for one in holds if one.kind == "freeze" and one.begins <= now), None)
            if freeze is not None:
                return None, f"The freeze {freeze.id} lasts until {freeze.until:%Y-%m-%d %H:%M} UTC ({freeze.reason})."
        return previous.id, ""

    def _no_better(
        self, previous: Release, release: Release, measure: MeasureEvidence, activation: Activation
    ) -> str | None:
        """Says why the release before was no better while it was live; ``None`` without a sign."""
        application, before = release.bundle.application, self._store.watches.of_release(self._scope, previous.id)
        words = f"Release {previous.number} before it was no better"
        if measure.name in COUNTED and measure.ceiling is not None:
            since = (
                self._store.releases.history(self._scope, application.name)[0].at if before is None else before.since
            )
            counts = self._evidence.counts(application.name, previous.id, measure.name, since, activation.at)
            bad, total = (sum(one[place] for one in counts.values()) for place in (0, 1))
            if total and bad / total > measure.ceiling:
                return f"{words}: {bad / total:.1%} of {total:,.0f}."
        elif measure.name == "quality" and application.shape is not None and before is not None:
            shape = application.shape
            outcomes = self._store.outcomes.newly_joined(
                self._scope, application.name, shape.name, before.since, activation.at, _MOST_OUTCOMES,
                release=previous.id,
            )  # fmt: skip
            losses = [one for one in (loss_of(outcome, shape) for outcome in outcomes) if one is not None]
            if losses and measure.mean is not None and sum(losses) / len(losses) >= measure.mean:
                return f"{words}: a loss of {sum(losses) / len(losses):.3f} over {len(losses):,} outcomes."
        elif before is not None:
            known = before.measures.get(measure.name)
            if known is not None and known.evidence >= known.bound > 0:
                return f"{words}: it had left its own bounds."
        return None

    def _good_snapshot(self, release: Release, view: str, measure: MeasureEvidence) -> tuple[str | None, str | None]:
        """The last snapshot before the first bad one, and that one."""
        bad = first_bad_block(measure)
        key = f"{view}@{release.bundle.application.versions[view]}"
        history = self._store.publications.list(self._scope, MOST_PUBLICATIONS)  # the latest first
        places = [place for place, one in enumerate(history) if one.snapshots.get(key) == bad]
        earlier = history[places[-1] + 1 :] if places else []
        good = next((one.snapshots[key] for one in earlier if one.snapshots.get(key) not in (None, bad)), None)
        return (None if good == history[0].snapshots.get(key) else good), bad

    def _finish(self, decision: WatchDecision) -> None:
        """Roll back or hold the view that a recorded decision is about, unless that was done already."""
        assert decision.view is not None
        view, reason, done = decision.view, decision.sentence, decision
        held = self._rollback.held(self._scope).get(view)
        try:
            if held is None and decision.decision == "roll_back":
                self._rollback.view(self._scope, view, decision.to, reason=reason, principal=WATCHER, hold=True)
            elif held is None:
                self._rollback.hold(self._scope, view, reason=reason, principal=WATCHER)
            elif held.reason != reason:
                done = msgspec.structs.replace(
                    decision, decision="tell", sentence=f"{reason} {held.principal} holds it already: {held.reason}"
                )
        except AntiphonError as error:
            _log.warning("The view %s cannot be rolled back: %s", view, error)
            if not error.of_platform:
                done = msgspec.structs.replace(decision, decision="tell", sentence=f"{reason} It failed: {error.what}")
            else:
                return
        now = self._store.database.clock.now()
        with self._store.database.transaction() as connection:
            self._store.watches.done(msgspec.structs.replace(done, done_at=now), within=connection)


def _sentence(
    release: Release, measure: MeasureEvidence, verdict: WatchVerdict, to: str | None, view: str | None, why: str
) -> str:
    name = f"{release.bundle.application.name} release {release.number}"
    if view is not None:
        acts = {
            "roll_back": f"The view {view} is back at {to}, and held",
            "hold": f"The view {view} is held: its refreshes publish nothing",
            "tell": f"The view {view} has drifted",
        }
    else:
        acts = {
            "roll_back": f"{name} was rolled back to {to}",
            "hold": f"{name} needs a person",
            "tell": f"{name} has left its bounds",
        }
    return f"{acts[verdict]}: {figures(measure)}." + (f" {why}" if why else "")


def _notification(decision: WatchDecision) -> Notification:
    title = {"roll_back": "was rolled back", "hold": "needs a decision", "tell": "has left its bounds"}
    subject = f"The live release of {decision.application}" if decision.view is None else f"The view {decision.view}"
    return Notification(
        f"{WATCH}:{decision.id}",
        f"{WATCH}.{decision.decision.replace('_', '.')}",
        "warning" if decision.decision == "tell" else "critical",
        "firing",
        f"{subject} {title[decision.decision]}: {TITLES.get(decision.measure, 'its values')}",
        decision.created_at,
        decision.sentence,
        decision.application,
        ended_at=decision.created_at,
        labels={"application": decision.application, "release": decision.release, "measure": decision.measure},
    )


def _words(action: str) -> str:
    return action.replace("_", " ")
