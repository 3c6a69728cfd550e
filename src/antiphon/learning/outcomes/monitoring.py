"""Monitoring of an application in use: outcomes by status, and metrics of its forecasts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from antiphon.catalog.learning.outcomes import Coverage, Outcomes
from antiphon.catalog.serving.receipt import SEEN_ROLES
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import Clock
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.learning.datasets.table import Value
from antiphon.learning.outcomes.performance import Group, ScoredPredictions, Scores
from antiphon.learning.outcomes.submission import outcome_named

MOST_RECEIPTS = 4_000
"""The newest receipts that predictions without an outcome, and features of slices, are looked for in."""


class Performance(msgspec.Struct, frozen=True):
    """Measures of an application's predictions against outcomes, over questions with ``since <= as_of < until``.

    Attributes:
        counts: kind of outcome to status to how many, over all time.
        coverage: of each release, over all time.
        outcome, form, property, positive: the outcome that they are measured by; ``outcomes`` the names of all.
        without_probability: joined outcomes of predictions that say nothing of it: no probability of a label, no
            number, no text.
        whole: metrics of everything in the window; ``None`` when nothing is scored yet.
        releases, days, slices: the same of parts.
    """

    application: str
    outcome: str
    form: str
    outcomes: tuple[str, ...]
    property: str | None
    positive: str | None
    since: datetime | None
    until: datetime | None
    at: datetime
    counts: dict[str, dict[str, int]]
    coverage: tuple[Coverage, ...]
    without_probability: int
    whole: Scores | None
    releases: tuple[Group, ...]
    days: tuple[Group, ...]
    slices: tuple[Group, ...]


class SignalRates(msgspec.Struct, frozen=True):
    """Values of one signal that users of a release sent.

    Attributes:
        predictions: answers of the release that users saw. sent: those of which it was sent.
        values: how often each was. good, bad: the shares of those sent that speak for and against the answer; ``None``
            where no value is declared that does.
    """

    release: str
    signal: str
    predictions: int
    sent: int
    values: dict[str, int]
    good: float | None
    bad: float | None


class PendingOutcome(msgspec.Struct, frozen=True):
    """A prediction that waits for an outcome, and until when (event time)."""

    prediction: str
    release: str
    as_of: datetime
    until: datetime


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Reads how applications do. Nothing is written."""

    outcomes: Outcomes
    receipts: Receipts
    applications: Callable[[Scope, str], ApplicationSpec]
    clock: Clock

    def performance(
        self,
        scope: Scope,
        application: str,
        outcome: str | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        slices: Sequence[str] = (),
    ) -> Performance:
        """Measures the predictions of an application against outcomes.

        Args:
            outcome: name of the outcome; the first by default.
            slices: entity keys, and features as ``view.feature``, which the newest :data:`MOST_RECEIPTS` receipts hold;
                those of the application's gates by default.

        Raises:
            NotFoundError: there is no such application. InvalidInputError: it declares no outcome (of the name), or a
                slice is of nothing that it has.
        """
        declared = self.applications(scope, application)
        shape, _ = outcome_named(declared, outcome)
        joined = self.outcomes.scored(scope, application, shape.name, since=since, until=until)
        scored = ScoredPredictions.read(joined, shape)
        keys = tuple(slices) or declared.gates.slices
        for key in keys:
            view, _, feature = key.partition(".")
            if key not in declared.entity_keys and (view not in declared.versions or not feature):
                raise InvalidInputError(
                    f"There is no entity key or feature {key!r}.",
                    where="slices",
                    next_step=f"Name one of {', '.join([*declared.entity_keys, *declared.versions])}; a feature is "
                    "VIEW.FEATURE.",
                )
        return Performance(
            application=application,
            outcome=shape.name,
            form=shape.form,
            outcomes=tuple(one.name for one in declared.shapes),
            property=shape.property,
            positive=shape.positive,
            since=since,
            until=until,
            at=self.clock.now(),
            counts=self.outcomes.counts(scope, application),
            coverage=tuple(self.outcomes.coverage(scope, application, shape.name)),
            without_probability=scored.without,
            whole=scored.score(),
            releases=scored.by_release(),
            days=scored.by_day(),
            slices=scored.by_slice(keys, self._features(scope, application) if any("." in key for key in keys) else {}),
        )

    def _features(self, scope: Scope, application: str) -> dict[str, dict[str, Value]]:
        """Prediction to its features' values, of the newest receipts."""
        made = self.receipts.list(scope, application, limit=MOST_RECEIPTS, roles=SEEN_ROLES)
        return {one.prediction: {feature.name: feature.value for feature in one.features} for one in made}

    def signals(self, scope: Scope, application: str) -> tuple[SignalRates, ...]:
        """The signals of an application by release, newest first; those that are declared no more say neither good nor
        bad. Raises ``NotFoundError`` when there is no such application."""
        declared = self.applications(scope, application)
        values: dict[tuple[str, str], dict[str, int]] = {}
        for one in self.outcomes.signals_by_release(scope, application):
            values.setdefault((one.release, one.signal), {})[one.value] = one.predictions
        seen = self.outcomes.coverage(scope, application, "") if values else []
        made = {one.release: one.predictions for one in seen}
        found = []
        for (release, name), counts in values.items():
            signal, sent = declared.signal(name), sum(counts.values())
            good, bad = (signal.good, signal.bad) if signal is not None else ((), ())
            shares = (sum(counts.get(value, 0) for value in side) / sent if side else None for side in (good, bad))
            found.append(SignalRates(release, name, made.get(release, 0), sent, counts, *shares))
        return tuple(sorted(found, key=lambda one: (one.signal, one.release), reverse=True))

    def pending(
        self, scope: Scope, application: str, outcome: str | None = None, *, limit: int = 50
    ) -> tuple[PendingOutcome, ...]:
        """Predictions of the outcome's sample that users saw and nothing is told about, oldest first, while its window
        is open; raises as :meth:`performance`."""
        shape, window = outcome_named(self.applications(scope, application), outcome)
        made = self.receipts.list(scope, application, limit=MOST_RECEIPTS, roles=SEEN_ROLES)
        since = self.clock.now() - window
        waiting = [one for one in made if one.as_of >= since and shape.sampled(one.prediction)]
        known = self.outcomes.values(scope, [one.prediction for one in waiting], shape.name)
        left = sorted((one.as_of, one.prediction, one.release) for one in waiting if one.prediction not in known)
        return tuple(
            PendingOutcome(prediction, release, as_of, as_of + window) for as_of, prediction, release in left[:limit]
        )
