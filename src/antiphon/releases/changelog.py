"""The change log: what happened to an application's releases, in sentences, and what was live at any time.

Nothing is written for it. It is told from pointers, stages and moves, which only grow, so it never disagrees with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from antiphon.catalog.releases.releases import Activation, Release, Releases, StageMove
from antiphon.catalog.releases.rollouts import UNDER_WAY, RolloutMove, RolloutRecord, Rollouts
from antiphon.core.scope import Scope
from antiphon.releases import bundle as bundles
from antiphon.releases.candidate import NOT_PASSED


class Entry(msgspec.Struct, frozen=True):
    """One change. ``sentence`` says who did what and why; ``release`` is the one it concerns."""

    at: datetime
    principal: str
    release: str
    sentence: str


class LiveSnapshot(msgspec.Struct, frozen=True):
    """Releases that answered at an instant of wall time.

    Attributes:
        release: the live release; ``None`` before the first.
        candidate: the release of a rollout under way then.
        state: ``shadow`` or ``canary``; ``weight`` is the share of users that the candidate answered.
    """

    at: datetime
    release: Release | None
    rollout: str | None = None
    candidate: Release | None = None
    state: str | None = None
    weight: float = 0.0


class Changelog:
    """Reads the change log of an application."""

    def __init__(self, releases: Releases, rollouts: Rollouts) -> None:
        self._releases = releases
        self._rollouts = rollouts

    def of(self, scope: Scope, application: str) -> list[Entry]:
        """Every change, first to last. Empty for an application that has no release."""
        releases = {release.id: release for release in reversed(self._releases.list(scope, application))}
        history = self._releases.history(scope, application)
        rollouts = self._rollouts.list(scope, application, limit=10_000)
        entries = [*_pointer_entries(history, releases), *_made_entries(releases)]
        for release in releases.values():
            entries += _stage_entries(self._releases.stages(scope, release.id), release)
        for rollout in rollouts:
            entries += _move_entries(self._rollouts.moves(scope, rollout.id), rollout, releases)
        # What one transaction did has one instant; the cause is told before its effect.
        return [entry for _, _, entry in sorted(entries, key=lambda one: (one[0], one[1]))]

    def at(self, scope: Scope, application: str, moment: datetime) -> LiveSnapshot:
        """Returns the live release, and the one in a rollout beside it, at an instant of wall time."""
        live = self._releases.live_at(scope, application, moment)
        for rollout in self._rollouts.list(scope, application, limit=10_000):
            if rollout.created_at > moment:
                continue
            then = [move for move in self._rollouts.moves(scope, rollout.id) if move.at <= moment][-1]
            if then.state not in UNDER_WAY:
                break
            weight = msgspec.structs.replace(rollout, state=then.state, step=then.step).weight
            candidate = self._releases.get(scope, rollout.candidate)
            return LiveSnapshot(moment, live, rollout.id, candidate, then.state, weight)
        return LiveSnapshot(moment, live)


_Dated = tuple[datetime, int, Entry]


def _made_entries(releases: dict[str, Release]) -> Iterator[_Dated]:
    by_number = {release.number: release for release in releases.values()}
    for number, release in by_number.items():
        before = by_number.get(number - 1)
        differs = (
            ""
            if before is None
            else f" It differs from {_name(before)} in {bundles.summary(bundles.diff(before.bundle, release.bundle))}."
        )
        sentence = f"{release.author} made {_name(release)}: {_said(release.rationale)}{differs}"
        yield release.created_at, 0, Entry(release.created_at, release.author, release.id, sentence)


def _pointer_entries(history: list[Activation], releases: dict[str, Release]) -> Iterator[_Dated]:
    before: Release | None = None
    for move in history:
        release = releases[move.release]
        if before is None:
            act = f"made {_name(release)} the first live release"
        elif move.action == "rollback":
            act = f"rolled back from {_name(before)} to {_name(release)}"
        else:
            changes = bundles.summary(bundles.diff(before.bundle, release.bundle))
            act = f"made {_name(release)} live in place of {_name(before)}, which changes {changes}"
        yield move.at, 3, Entry(move.at, move.principal, release.id, f"{move.principal} {act}: {_said(move.reason)}")
        before = release


def _stage_entries(stages: list[StageMove], release: Release) -> Iterator[_Dated]:
    # The other stages are told by the pointer and by the rollout, also the one that an abort gives back.
    before = None
    for move in stages:
        aborted, before = before in UNDER_WAY, move.stage
        if move.stage == "validated" and not aborted:
            sentence = f"{move.principal} validated {_name(release)}: {_said(move.reason)}"
            yield move.at, 1, Entry(move.at, move.principal, release.id, sentence)
        elif move.stage == "draft" and move.reason.startswith(NOT_PASSED):
            sentence = f"{_name(release)} {_said(move.reason)}"
            yield move.at, 1, Entry(move.at, move.principal, release.id, sentence[0].upper() + sentence[1:])


def _move_entries(moves: list[RolloutMove], rollout: RolloutRecord, releases: dict[str, Release]) -> Iterator[_Dated]:
    candidate, control = _name(releases[rollout.candidate]), _name(releases[rollout.control])
    held = False
    for move in moves:
        if move.held != held:
            act = f"{'held' if move.held else 'resumed'} the rollout of {candidate}"
        elif move.state == "shadow":
            act = f"let {candidate} answer in shadow of {control}"
        elif move.state == "canary":
            share = rollout.plan.canary[move.step]
            act = f"let {candidate} answer {share} % of users, beside as many on {control}"
        elif move.state == "promoted":
            act = f"promoted {candidate} over {control}"
        elif move.state == "rolled_back":
            act = f"rolled back {candidate}; {control} answers all users"
        else:
            act = f"aborted the rollout of {candidate}"
        held = move.held
        sentence = f"{move.principal} {act}: {_said(move.reason)}"
        yield move.at, 2, Entry(move.at, move.principal, rollout.candidate, sentence)


def _name(release: Release) -> str:
    return f"release {release.number} ({release.id})"


def _said(reason: str) -> str:
    reason = " ".join(reason.split())
    return reason if reason.endswith((".", "!", "?")) else f"{reason}."
