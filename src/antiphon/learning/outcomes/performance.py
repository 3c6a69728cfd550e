"""Metrics of predictions against outcomes: whole, by release, by day and by slice. Everything here is pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from antiphon.catalog.learning.evaluations import Bin
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.learning.datasets.table import Value
from antiphon.learning.evaluation import metrics
from antiphon.learning.evaluation.metric import ScoredRows
from antiphon.learning.evaluation.metrics import LabelForecasts
from antiphon.learning.evaluation.slices import slice_names
from antiphon.learning.evaluation.texts import TextAnswers


class Scores(msgspec.Struct, frozen=True):
    """Metrics of some predictions.

    Attributes:
        labels: label to the number of rows in which it came true; of numbers and texts nothing.
        metrics: by name (``learning.evaluation.metrics``), without the AUC when only one label came true; ``trivial``
            those of a trivial forecaster, but of texts.
        mean_forecast: label that is scored to its mean probability.
        reliability: of labels non-empty bins of equal width.
    """

    rows: int
    labels: dict[str, int]
    metrics: dict[str, float]
    trivial: dict[str, float]
    mean_forecast: dict[str, float]
    reliability: tuple[Bin, ...]


class Group(msgspec.Struct, frozen=True):
    """The metrics of one release, day, or value of a key; ``key`` is empty but for slices."""

    key: str
    value: str
    scores: Scores


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions with the values of one outcome, read once for all groups.

    Attributes:
        outcomes, rows: of the predictions that can be scored, in the same order; ``rows`` is ``None`` of nothing.
        without: joined outcomes of predictions that say nothing of it.
    """

    shape: OutcomeShape
    outcomes: tuple[OutcomeRecord, ...]
    rows: ScoredRows | None
    without: int

    @classmethod
    def read(cls, joined: Iterable[OutcomeRecord], shape: OutcomeShape) -> ScoredPredictions:
        """The joined values of an outcome, oldest first, beside what was predicted."""
        known = [one for one in joined if one.outcome == shape.name and one.as_of is not None]
        telling = [one for one in known if _says(one, shape)]
        rows: ScoredRows | None = None
        if telling and shape.form in ("reference", "correction"):
            truths = [one.value for one in telling]
            rows = TextAnswers.scored([one.scores for one in telling], truths, metrics.scoring_of(shape))
        elif telling:
            rows = metrics.read_rows(shape, [(one.probabilities, one.said, one.value) for one in telling])
        return cls(shape, tuple(telling), rows, len(known) - len(telling))

    def score(self, places: Sequence[int] | None = None) -> Scores | None:
        """Every metric of the predictions at some places, of all by default; ``None`` of nothing."""
        if self.rows is None:
            return None
        chosen = list(range(len(self.outcomes))) if places is None else list(places)
        rows = self.rows.at(chosen)
        labels = rows if isinstance(rows, LabelForecasts) else None
        came_true = Counter(self.outcomes[place].value for place in chosen)
        means = {} if labels is None else dict(zip(labels.labels, labels.probabilities.mean(axis=0), strict=True))
        scored = self.shape.labels if self.shape.positive is None else (self.shape.positive,)
        return Scores(
            rows=rows.rows,
            labels={} if labels is None else dict(sorted(came_true.items())),
            metrics=metrics.measure(rows),
            # Texts are scored as their references come, and beside no other row's.
            trivial={} if isinstance(rows, TextAnswers) else metrics.measure_trivial(rows),
            mean_forecast={} if labels is None else {label: float(means[label]) for label in scored},
            reliability=() if labels is None else metrics.reliability(labels),
        )

    def by_release(self) -> tuple[Group, ...]:
        """One group a release."""
        return self._groups(lambda outcome: outcome.release)

    def by_day(self) -> tuple[Group, ...]:
        """One group a UTC day of the questions, in order."""
        return self._groups(lambda outcome: None if outcome.as_of is None else outcome.as_of.date().isoformat())

    def by_slice(
        self, keys: Sequence[str], features: Mapping[str, Mapping[str, Value]] = {}, most: int = 20
    ) -> tuple[Group, ...]:
        """For each key the groups of its ``most`` frequent values.

        Args:
            features: prediction to its features' values; one that is not among them is in no slice of a feature.
        """
        found: list[Group] = []
        for key in keys:
            groups = self._groups(partial(_value, key) if "." not in key else self._by_feature(key, features), key)
            found += sorted(groups, key=lambda group: (-group.scores.rows, group.value))[:most]
        return tuple(found)

    def _by_feature(
        self, key: str, features: Mapping[str, Mapping[str, Value]]
    ) -> Callable[[OutcomeRecord], str | None]:
        made = [one.prediction or "" for one in self.outcomes]
        known = {one: features[one].get(key) for one in made if one in features}
        names = dict(zip(known, slice_names(list(known.values())), strict=True))
        return lambda outcome: names.get(outcome.prediction or "")

    def _groups(self, named: Callable[[OutcomeRecord], str | None], key: str = "") -> tuple[Group, ...]:
        held: dict[str, list[int]] = {}
        for place, outcome in enumerate(self.outcomes):
            if (name := named(outcome)) is not None:
                held.setdefault(name, []).append(place)
        found = ((value, self.score(held[value])) for value in sorted(held))
        return tuple(Group(key, value, scores) for value, scores in found if scores is not None)


def _value(key: str, outcome: OutcomeRecord) -> str | None:
    return outcome.entity.get(key)


def _says(outcome: OutcomeRecord, shape: OutcomeShape) -> bool:
    """Tells whether a prediction said something of an outcome as it is declared now."""
    if outcome.kind != shape.form or not shape.admits(outcome.value):
        return False
    if shape.form == "label":
        scored = set(outcome.probabilities)
        return scored == {shape.positive} if shape.positive is not None else bool(scored) and scored <= {*shape.labels}
    return outcome.said is not None if shape.form == "number" else bool(outcome.scores)
