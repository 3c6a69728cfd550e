"""Monitoring of an application in use: outcomes by status, metrics of its forecasts, drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import msgspec

from antiphon.catalog.learning.datasets import Datasets
from antiphon.catalog.learning.outcomes import Coverage, Outcomes
from antiphon.catalog.serving.receipts import SEEN_ROLES, Receipts
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.features.lake.content import Lake
from antiphon.learning.outcomes.drift import Drift, Printed, drift_of, drifts, forecasts, printed_features
from antiphon.learning.outcomes.performance import Group, Scores, by_day, by_release, by_slice, forecasts_of, score
from antiphon.learning.outcomes.submission import labels_of
from antiphon.serving.features.printing import print_all

WEEK = timedelta(days=7)
MOST_RECEIPTS = 4_000
"""The newest receipts that drift is read from: a third of a second."""


class Performance(msgspec.Struct, frozen=True):
    """Measures of an application's predictions against outcomes, over questions with ``since <= as_of < until``.

    Attributes:
        counts: kind of outcome to status to how many, over all time.
        coverage: of each release, over all time.
        without_probability: joined labels of predictions that gave no probability.
        whole: metrics of everything in the window; ``None`` when nothing is scored yet.
        releases, days, slices: the same of parts.
    """

    application: str
    property: str
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


class DriftReport(msgspec.Struct, frozen=True):
    """Printed features and the forecasts of the labels that are scored, then and now.

    Attributes:
        reference: what the features are compared with: a dataset's id, or ``first week``.
        since, until: event time of the recent predictions.
    """

    application: str
    reference: str
    since: datetime | None
    until: datetime | None
    features: tuple[Drift, ...]
    forecasts: tuple[Drift, ...]


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Reads how applications do. Nothing is written."""

    outcomes: Outcomes
    receipts: Receipts
    datasets: Datasets
    applications: Callable[[Scope, str], ApplicationSpec]
    lake: Lake
    clock: Clock

    def performance(
        self,
        scope: Scope,
        application: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        slices: Sequence[str] = (),
    ) -> Performance:
        """Measures the predictions of an application against outcomes.

        Args:
            slices: entity keys; those of the application's gates by default.

        Raises:
            NotFoundError: there is no such application. InvalidInputError: it declares no outcome.
        """
        declared = self.applications(scope, application)
        labels_of(declared)
        assert declared.outcome is not None  # labels_of
        scored = self.outcomes.scored(scope, application, since=since, until=until)
        found, without = forecasts_of(scored)
        scores = partial(score, labels=declared.labels, positive=declared.outcome.positive)
        return Performance(
            application=application,
            property=declared.outcome.property,
            positive=declared.outcome.positive,
            since=since,
            until=until,
            at=self.clock.now(),
            counts=self.outcomes.counts(scope, application),
            coverage=tuple(self.outcomes.coverage(scope, application)),
            without_probability=without,
            whole=scores(found),
            releases=by_release(found, scores),
            days=by_day(found, scores),
            slices=by_slice(found, scores, tuple(slices) or declared.gates.slices),
        )

    def drift(self, scope: Scope, application: str, *, recent: timedelta = WEEK) -> DriftReport:
        """Compare the newest ``recent`` of event time with what was learned from, else with the first week; raises as
        :meth:`performance`."""
        declared = self.applications(scope, application)
        labels_of(declared)
        outcome = declared.outcome
        assert outcome is not None  # labels_of
        made = self.receipts.list(scope, application, limit=MOST_RECEIPTS, roles=SEEN_ROLES)
        seen = sorted(made, key=lambda receipt: receipt.as_of)
        first = [receipt for receipt in seen if receipt.as_of < seen[0].as_of + WEEK]
        latest = [receipt for receipt in seen if receipt.as_of > seen[-1].as_of - recent]
        later = [receipt for receipt in latest if receipt.as_of >= seen[0].as_of + WEEK]
        learned = self._learned(scope, declared)
        if learned is not None:
            named, features = learned[0], drifts(learned[1], printed_features(latest))
        else:
            named, features = "first week", drifts(printed_features(first), printed_features(later))
        return DriftReport(
            application=application,
            reference=named,
            since=latest[0].as_of if latest else None,
            until=latest[-1].as_of if latest else None,
            features=features,
            forecasts=tuple(
                drift_of(
                    f"probability of {label}",
                    forecasts(first, outcome.property, label),
                    forecasts(later, outcome.property, label),
                )
                for label in (declared.labels if outcome.positive is None else (outcome.positive,))
            ),
        )

    def _learned(self, scope: Scope, declared: ApplicationSpec) -> tuple[str, dict[str, list[Printed]]] | None:
        """The printed features of the newest training set, when there is one whose file is there."""
        import pyarrow.parquet

        known = self.datasets.list(scope, declared.name, kind="training", limit=1)
        if not known or known[0].spec.views != dict(declared.features):
            return None
        try:
            file = self.lake.open(known[0].path)
        except AntiphonError:
            return None
        names = [figure.feature for figure in declared.figures if figure.feature in known[0].columns]
        found: dict[str, list[Printed]] = {name: [] for name in names}
        with file:
            rows = pyarrow.parquet.read_table(file, columns=names).to_pylist()
        for row in rows:
            prints = print_all(row, declared.figures)
            for name in names:
                found[name].append(prints[name])
        return known[0].id, found
