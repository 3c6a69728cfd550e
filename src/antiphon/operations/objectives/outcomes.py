"""Losses and errors of answers by what came true, for objectives of quality and calibration.

Invariants:
- An answer counts at the moment at which it was given and not at which its outcome came, so that a file of outcomes
  from last month says nothing about today.
- What has not come yet counts for nothing. Windows end with the newest answer whose outcome is known, and where the
  outcome declares a ``delay``, no later than that ago: those that are known early may not stand for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from antiphon.catalog.database import Database
from antiphon.catalog.learning.outcomes import OutcomeRecord, Outcomes
from antiphon.catalog.measurements import begin_of
from antiphon.core.clock import parse_duration
from antiphon.core.scope import Scope
from antiphon.definitions.objectives import ObjectiveSpec
from antiphon.learning.watching.losses import calibration_error, loss_of
from antiphon.operations.objectives.burn import CountHistory, Counts
from antiphon.operations.objectives.counts import MINUTE

MOST_OUTCOMES = 50_000
"""Outcomes of an objective that are kept, the newest: a worker that begins reads as many once."""

_AT_ONCE = 2_000


class AnswerOutcomes:
    """Losses and errors of one tenant's answers by the minute, read once and then kept up with."""

    def __init__(self, database: Database, scope: Scope) -> None:
        self._outcomes = Outcomes(database)
        self._scope = scope
        self._counts: dict[ObjectiveSpec, dict[datetime, Counts]] = {}
        self._until: dict[ObjectiveSpec, datetime] = {}
        self._now = database.clock.now()

    def read(self, objectives: Iterable[ObjectiveSpec], now: datetime) -> None:
        """Take in the outcomes that were joined up to a moment."""
        listed, self._now = list(objectives), now
        for gone in self._counts.keys() - set(listed):
            del self._counts[gone], self._until[gone]
        if not listed:
            return
        until = self._outcomes.instant()
        for objective in listed:
            assert objective.shape is not None
            begin = now - parse_duration(objective.window)
            of = self._scope, objective.application, objective.shape.name
            since = self._until.get(objective) or self._outcomes.begin_of_newest(*of, begin, MOST_OUTCOMES)
            counts = self._counts.setdefault(objective, {})
            more = True
            while more:
                found = self._outcomes.newly_joined(*of, since, until, _AT_ONCE)
                for one in found:
                    _count(counts, objective, one)
                more = len(found) >= _AT_ONCE
                since = found[-1].created_at if more else until
            self._until[objective] = until
            _prune(counts, begin)

    def of(self, objective: ObjectiveSpec) -> CountHistory:
        """Those of an objective."""
        assert objective.shape is not None
        latest = self._now - timedelta(seconds=objective.shape.delay or 0.0)
        known = {start: one for start, one in self._counts.get(objective, {}).items() if start < latest}
        until = min(max(known) + MINUTE, latest) if known else None
        return CountHistory(known, known, "loss" if objective.kind == "quality" else "bias", until)


def _count(counts: dict[datetime, Counts], objective: ObjectiveSpec, one: OutcomeRecord) -> None:
    shape = objective.shape
    assert shape is not None
    # Of a sampled outcome those beside the sample were told about by choice.
    if one.as_of is None or one.prediction is None or not shape.sampled(one.prediction):
        return
    value = (loss_of if objective.kind == "quality" else calibration_error)(one, shape)
    if value is not None:
        start = begin_of(one.as_of, MINUTE)
        counts[start] = counts.get(start, Counts()) + Counts(value, 1.0)


def _prune(counts: dict[datetime, Counts], begin: datetime) -> None:
    """Forget what was before the window, and the oldest of more than is kept."""
    kept = 0.0
    for start in sorted(counts, reverse=True):
        kept += counts[start].total
        if start < begin or kept > MOST_OUTCOMES:
            del counts[start]
