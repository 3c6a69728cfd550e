"""The outlook beside two that need no language model: a base rate and a logistic regression, on identical rows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import numpy

from antiphon.catalog.learning.evaluations import Bin, IntervalEstimate
from antiphon.learning.evaluation.metrics import LABEL_METRICS, LabelForecasts, reliability
from examples.flight_desk import demand
from examples.flight_desk.analysis import Bootstrap
from examples.flight_desk.data import Events
from examples.flight_desk.demand import Flight
from examples.flight_desk.records import Answered
from examples.flight_desk.settings import Settings
from examples.flight_desk.truth import Truth


class Score(msgspec.Struct, frozen=True):
    """How one forecaster did: area under the ROC curve (0.5 is chance) and Brier score (lower is better)."""

    name: str
    auc: IntervalEstimate
    brier: IntervalEstimate
    mean: float


class Scored(msgspec.Struct, frozen=True):
    """All forecasters on the same rows.

    ``rows`` questions whose flight left, ``left_out`` whose flight was cancelled (it has no delay), ``late`` the share
    that left late; ``reliability`` of each forecaster, in tenths.
    """

    rows: int
    left_out: int
    late: float
    scores: tuple[Score, ...]
    reliability: dict[str, tuple[Bin, ...]]


def score(
    answers: Sequence[Answered],
    flights: Mapping[str, Flight],
    events: Events,
    settings: Settings,
    truth: Truth,
    order: Sequence[str],
    sample: Bootstrap,
) -> Scored | None:
    """Score the outlook of these answers (one way's) beside the two others; ``None`` where there is no row to score.

    Args:
        order: flights as in the bootstrap's columns.
    """
    rows = [answer for answer in answers if answer.delayed is not None]
    kept = [answer for answer in rows if flights[answer.flight].dep_delay is not None]
    if not kept:
        return None
    late = settings.analysis.late_after_minutes
    outcomes = numpy.array([(flights[answer.flight].dep_delay or 0) > late for answer in kept])
    inputs = [truth.figures(*answer.subject, answer.asked) for answer in kept]
    regression, base_rate = without_a_model(inputs, events, settings, truth)
    forecasts = {
        "outlook (untuned model)": numpy.array([answer.delayed for answer in kept]),
        "base rate of January to March": base_rate,
        "logistic regression": regression,
    }
    read = {name: LabelForecasts.yes_or_no(forecast, outcomes, "late") for name, forecast in forecasts.items()}
    place = {flight: number for number, flight in enumerate(order)}
    weights = sample.weights[:, [place[answer.flight] for answer in kept]]

    def interval(one: LabelForecasts, metric: str) -> IntervalEstimate:
        return sample.interval(LABEL_METRICS[metric].weighted(one, weights))

    return Scored(
        rows=len(kept),
        left_out=len(rows) - len(kept),
        late=float(outcomes.mean()),
        scores=tuple(
            Score(name, interval(one, "auc"), interval(one, "brier"), float(forecasts[name].mean()))
            for name, one in read.items()
        ),
        reliability={name: reliability(one) for name, one in read.items()},
    )


def without_a_model(
    inputs: Sequence[tuple[float, ...]], events: Events, settings: Settings, truth: Truth
) -> tuple[Any, Any]:
    """Forecasts of rows of figures by scikit-learn's logistic regression on standardised inputs, where a missing one is
    the training median, and by the base rate; both learned from January to March."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, late = _training_rows(events, settings, truth)
    model = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(max_iter=500))
    regression = model.fit(known, late).predict_proba(numpy.array(inputs))[:, 1]
    return regression, numpy.full(len(inputs), float(late.mean()))


def _training_rows(events: Events, settings: Settings, truth: Truth) -> tuple[Any, Any]:
    """Flights of January to March, each at one moment drawn like a question's: inputs and whether it left late."""
    first, last = settings.analysis.train_first, settings.analysis.train_last
    days = tuple(first + timedelta(days=offset) for offset in range((last - first).days + 1))
    random_numbers = random.Random(f"{settings.seed}/training")
    flown = [flight for flight in demand.read_flights(events, days) if flight.dep_delay is not None]
    chosen = random_numbers.sample(flown, min(settings.analysis.train_rows, len(flown)))
    inputs, outcomes = [], []
    for flight in chosen:
        lead = max(
            settings.demand.shortest_lead_minutes, random_numbers.expovariate(1 / settings.demand.mean_lead_minutes)
        )
        asked = min(flight.scheduled, flight.departed) - timedelta(minutes=lead)
        inputs.append(truth.figures(flight.origin, flight.carrier, flight.dest, asked))
        outcomes.append((flight.dep_delay or 0) > settings.analysis.late_after_minutes)
    return numpy.array(inputs), numpy.array(outcomes)
