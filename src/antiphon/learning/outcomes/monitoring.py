"""Monitoring of an application in use: outcomes by status, metrics of its forecasts, drift."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from antiphon.catalog.learning.datasets import Datasets
from antiphon.catalog.learning.outcomes import Coverage, Outcomes
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import SEEN_ROLES, Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.embedding import named_model
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.features.embedding.vectors import Embedders, embedded, has_vector
from antiphon.features.lake.content import Lake
from antiphon.learning.datasets.table import Value
from antiphon.learning.outcomes.drift import (
    Drift,
    Printed,
    answer_tokens,
    drift_of,
    drifts,
    forecasts,
    printed_features,
    prompt_tokens,
    text_drift,
)
from antiphon.learning.outcomes.performance import Group, ScoredPredictions, Scores
from antiphon.learning.outcomes.submission import outcome_named
from antiphon.serving.features.printing import print_all

WEEK = timedelta(days=7)
MOST_RECEIPTS = 4_000
"""The newest receipts that drift is read from: a third of a second."""

MOST_TEXTS = 200
"""Texts of either time that are embedded: some milliseconds each."""
TEXT_MODEL = "minilm-l6-v2"


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


class PendingOutcome(msgspec.Struct, frozen=True):
    """A prediction that waits for an outcome, and until when (event time)."""

    prediction: str
    release: str
    as_of: datetime
    until: datetime


class DriftReport(msgspec.Struct, frozen=True):
    """Printed features, the forecasts of the labels that are scored and the length of answers, then and now.

    Attributes:
        reference: what the features are compared with: a dataset's id, or ``first week``. Forecasts and texts are
            always compared with the first week.
        since, until: event time of the recent predictions.
        texts: what was asked, and where no label is forecast what was answered, by their vectors; empty unless asked
            for.
    """

    application: str
    reference: str
    since: datetime | None
    until: datetime | None
    features: tuple[Drift, ...]
    forecasts: tuple[Drift, ...]
    texts: tuple[Drift, ...] = ()

    @property
    def all(self) -> tuple[Drift, ...]:
        """Forecasts and texts first, then features."""
        return (*self.forecasts, *self.texts, *self.features)


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Reads how applications do. Nothing is written."""

    outcomes: Outcomes
    receipts: Receipts
    datasets: Datasets
    applications: Callable[[Scope, str], ApplicationSpec]
    lake: Lake
    texts: Blobs
    embedders: Embedders
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
            if key not in declared.entity_keys and key.partition(".")[0] not in declared.versions:
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

    def drift(self, scope: Scope, application: str, *, recent: timedelta = WEEK, texts: bool = False) -> DriftReport:
        """Compare the newest ``recent`` of event time with what was learned from, else with the first week.

        Args:
            texts: also by the vectors of up to :data:`MOST_TEXTS` texts of either time, which takes some seconds.

        Raises:
            NotFoundError: there is no such application. SetupError: the embedding model is not on this machine.
        """
        declared = self.applications(scope, application)
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
            forecasts=tuple(_forecast_drift(declared.shape, first, later)),
            texts=tuple(self._text_drift(scope, declared.shape, first, later)) if texts else (),
        )

    def _text_drift(
        self, scope: Scope, shape: OutcomeShape | None, first: Sequence[Receipt], later: Sequence[Receipt]
    ) -> Iterator[Drift]:
        """Compares what was asked, and answers that are no label, which is forecast; yields nothing without a text."""
        parts = {"what is asked": [[one.question_blob for one in part] for part in (first, later)]}
        if shape is None or shape.form != "label":
            new = ([one for one in part if one.cache.origin == "generated"] for part in (first, later))
            parts["what is answered"] = [[one.text_blob for one in part] for part in new]
        embedder = self.embedders.get(named_model(TEXT_MODEL))
        for name, sides in parts.items():
            then, now = (self._sampled(scope, [blob for blob in side if blob is not None]) for side in sides)
            if then or now:
                yield text_drift(name, embedded(embedder, then)[0], embedded(embedder, now)[0])

    def _sampled(self, scope: Scope, blobs: Sequence[str]) -> list[str]:
        """At most :data:`MOST_TEXTS` of these texts, evenly spread over their order; erased ones are left out."""
        size, found = min(len(blobs), MOST_TEXTS), []
        for blob in (blobs[place * len(blobs) // size] for place in range(size)):
            with suppress(NotFoundError):
                found.append(self.texts.get(scope, blob).decode())
        return [text for text in found if has_vector(text)]

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


def _forecast_drift(shape: OutcomeShape | None, first: Sequence[Receipt], later: Sequence[Receipt]) -> Iterator[Drift]:
    """Of labels the drift of their probabilities; of anything else that of the lengths of prompts and answers."""
    if shape is None or shape.form != "label":
        for name, of in (("tokens of the answer", answer_tokens), ("tokens of the prompt", prompt_tokens)):
            yield drift_of(name, of(first), of(later))
        return
    for label in shape.labels if shape.positive is None else (shape.positive,):
        then, now = (forecasts(receipts, shape.property or "", label) for receipts in (first, later))
        yield drift_of(f"probability of {label}", then, now)
