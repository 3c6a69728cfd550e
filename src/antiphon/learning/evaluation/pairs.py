"""Scores shadow pairs: the losses of the live release's answer and of the candidate's on one request.

Invariants:
- A loss is from 0 to 1, by the same metric that evaluations decide by; an answer that says nothing has 1.
- While the truth is not known, the difference of the losses has bounds that it cannot leave whatever comes true.
- A metric of the answers alone that has no value of either answer says nothing of the pair, whosever answer it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import RolloutRecord, ShadowPair
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import Conversations
from antiphon.catalog.serving.receipt import Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.outcome_shape import OutcomeShape, number_of
from antiphon.definitions.own_metrics import OwnMetric
from antiphon.learning.evaluation.metrics import scoring_of
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.releases.shadow_pairs import PairedOutcome
from antiphon.serving.answering.probabilities import said_of
from antiphon.serving.recorded import RecordedRequest, recorded_request

OutcomeValues = Callable[[Scope, Sequence[str], str], Mapping[str, str]]
"""Returns the joined value of each prediction; those without one are left out (``Outcomes.values``)."""


@dataclass(frozen=True)
class PairScorer:
    """Scores the pairs of rollouts by the first outcome of their candidate's application, or by one of its metrics.

    Attributes:
        values: returns the joined values of predictions, of an outcome by its name.
        scorer: calls the functions of metrics; it needs no judge models.
    """

    values: OutcomeValues
    receipts: Receipts
    texts: Blobs
    releases: Releases
    conversations: Conversations
    scorer: AnswerScorer

    def application(self, rollout: RolloutRecord) -> ApplicationSpec:
        """The candidate's application, which says what decides."""
        return self.releases.get(rollout.scope, rollout.candidate).bundle.application

    def truths(self, scope: Scope, shape: OutcomeShape, predictions: Sequence[str]) -> Mapping[str, str]:
        """Prediction to what came true; without those of which nothing is known."""
        return self.values(scope, predictions, shape.name)

    def unit(self, pair: ShadowPair) -> str:
        """The user who asked, as the receipt names it; the prediction itself where nobody is named, or once the receipt
        is gone."""
        with suppress(NotFoundError):
            return self.receipts.get(pair.scope, pair.prediction).user or pair.prediction
        return pair.prediction

    def score(self, pair: ShadowPair, shape: OutcomeShape, truth: str | None) -> PairedOutcome:
        """One pair, with what came true or before it is known."""
        if shape.form == "label":
            return label_pair(pair, truth)
        if pair.same_text and truth is None:
            return _pair(pair, None, None, 0.0, 0.0, None)
        if shape.form != "number" and truth is None:
            return _pair(pair, None, None, -1.0, 1.0, None)
        try:
            live = said_of(shape, self._text(pair.scope, pair.prediction))
            shadow = None if pair.shadow is None else said_of(shape, self._text(pair.scope, pair.shadow))
        except NotFoundError:
            return _pair(pair, None, None, -1.0, 1.0, None)  # erased: nothing tells which was better
        if truth is None:
            least, most = _number_bounds(live, shadow, shape)
            return _pair(pair, None, None, least, most, None)
        losses = [None if said is None else loss(said, truth, shape) for said in (live, shadow)]
        return _scored(pair, losses[0], losses[1], truth)

    def measure(self, rollout: RolloutRecord, pair: ShadowPair, metric: OwnMetric) -> PairedOutcome:
        """One pair by a metric of its two answers. Calls the user's function, so that no event loop may run in this
        thread."""
        try:
            receipt = self.receipts.get(pair.scope, pair.prediction)
            request = recorded_request(receipt, self.texts, self.conversations)
            live = self._value(rollout.control, receipt, request, metric)
            shadow: float | str | None = None
            if pair.shadow is not None:
                answered = self.receipts.get(pair.scope, pair.shadow)
                shadow = self._value(rollout.candidate, answered, request, metric)
        except NotFoundError:
            live = shadow = "a text of the request or of an answer was erased"
        for value in (live, shadow):
            if isinstance(value, str):
                return msgspec.structs.replace(_pair(pair, None, None, -1.0, 1.0, None), unscored=value)
        losses = [None if isinstance(value, str | None) else metric.loss(value) for value in (live, shadow)]
        return _scored(pair, losses[0], losses[1], metric.name)

    def _value(self, release: str, receipt: Receipt, request: RecordedRequest, metric: OwnMetric) -> float | str:
        """The metric's value of an answer, or the reason why it has none."""
        scores = asyncio.run(
            self.scorer.score(
                self.releases.get(receipt.scope, release), receipt, self._text(receipt.scope, receipt.prediction),
                entity=request.entity, question=request.question or "", outcomes={}, earlier=request.turns,
                metrics=(metric,),
            )
        )  # fmt: skip
        return scores.values[metric.name] if metric.name in scores.values else scores.failed[metric.name]

    def _text(self, scope: Scope, prediction: str) -> str:
        receipt = self.receipts.get(scope, prediction)
        return self.texts.get(scope, receipt.text_blob).decode()


def loss(said: str, truth: str, shape: OutcomeShape) -> float:
    """The loss of a number, a text or an output: the error as a share of the declared range, or the distance of chrF or
    of F1 of fields from 1."""
    if shape.form != "number":
        scoring = scoring_of(shape)
        return 1.0 - scoring.of(said, truth)[scoring.deciding]
    number, true = number_of(said), number_of(truth)
    return 1.0 if number is None or true is None else min(abs(number - true) / shape.span, 1.0)


def label_pair(pair: ShadowPair, truth: str | None) -> PairedOutcome:
    """A pair of forecasts of labels; probabilities that are none count as not measured."""
    live = _probabilities(pair.live_probabilities)
    shadow = {} if pair.error is not None else _probabilities(pair.shadow_probabilities)
    known = live or shadow
    if truth is not None:
        scores = [brier(forecast, truth) if forecast else None for forecast in (live, shadow)]
        # Of a question of yes or no it counts whether it was yes.
        return _scored(pair, scores[0], scores[1], str(truth in known) if len(known) == 1 else truth)
    # The label that stands for no has no name.
    labels = (*known, "") if len(known) < 2 else tuple(known)
    differences = [brier(shadow, label) - brier(live, label) for label in labels]
    # A live answer that was not measured may have been perfect; that must not promote.
    most = differences if live else [brier(shadow, label) for label in labels]
    return _pair(pair, None, None, min(differences), max(most), None)


def _scored(pair: ShadowPair, live: float | None, shadow: float | None, truth: str) -> PairedOutcome:
    worst = 1.0 if shadow is None else shadow
    least = worst - (1.0 if live is None else live)
    most = worst if live is None else least
    if live is None and shadow is None:
        return _pair(pair, None, None, least, most, truth)
    return _pair(pair, 1.0 if live is None else live, worst, least, most, truth)


def _pair(
    pair: ShadowPair, live: float | None, shadow: float | None, least: float, most: float, truth: str | None
) -> PairedOutcome:
    return PairedOutcome(pair.rollout, pair.prediction, live, shadow, least, most, truth, pair.created_at)


def _number_bounds(live: str | None, shadow: str | None, shape: OutcomeShape) -> tuple[float, float]:
    """The difference of two errors is no larger than that of the numbers."""
    first, second = number_of(live), number_of(shadow)
    if second is None:
        return (0.0, 1.0)
    if first is None:
        return (-1.0, 1.0)
    apart = min(abs(first - second) / shape.span, 1.0)
    return (-apart, apart)


def brier(probabilities: Mapping[str, float], label: str) -> float:
    """From 0 to 1: half of the squared distances of all labels, which of yes and no are the same."""
    if not probabilities:
        return 1.0
    if len(probabilities) == 1:
        ((yes, probability),) = probabilities.items()
        return (probability - (label == yes)) ** 2
    return 0.5 * sum((probability - (name == label)) ** 2 for name, probability in probabilities.items())


def _probabilities(found: Mapping[str, float]) -> dict[str, float]:
    # Not a number is in no interval.
    return dict(found) if all(0.0 <= value <= 1.0 for value in found.values()) else {}
