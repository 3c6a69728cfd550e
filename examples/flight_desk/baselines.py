"""The outlook beside two that need no language model: a base rate and a logistic regression, on identical rows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy

from examples.flight_desk import demand
from examples.flight_desk.analysis import Bootstrap, Interval
from examples.flight_desk.data import Events
from examples.flight_desk.demand import Flight
from examples.flight_desk.records import Answered
from examples.flight_desk.settings import Settings
from examples.flight_desk.truth import Truth


class Score(msgspec.Struct, frozen=True):
    """How one forecaster did: area under the ROC curve (0.5 is chance) and Brier score (lower is better)."""

    name: str
    auc: Interval
    brier: Interval
    mean: float


class Scored(msgspec.Struct, frozen=True):
    """All forecasters on the same rows.

    ``rows`` questions whose flight left, ``left_out`` whose flight was cancelled (it has no delay), ``late`` the share
    that left late. ``forecasts`` and ``outcomes`` feed the reliability plot.
    """

    rows: int
    left_out: int
    late: float
    scores: tuple[Score, ...]
    forecasts: dict[str, tuple[float, ...]]
    outcomes: tuple[bool, ...]


def score(
    answers: Sequence[Answered],
    flights: Mapping[str, Flight],
    events: Events,
    settings: Settings,
    truth: Truth,
    order: Sequence[str],
    sample: Bootstrap,
) -> Scored:
    """Score the outlook of these answers (one way's) beside the two others.

    Args:
        order: flights as in the bootstrap's columns.
    """
    rows = [answer for answer in answers if answer.delayed is not None]
    kept = [answer for answer in rows if flights[answer.flight].dep_delay is not None]
    late = settings.analysis.late_after_minutes
    outcomes = numpy.array([(flights[answer.flight].dep_delay or 0) > late for answer in kept])
    train_inputs, train_outcomes = training_rows(events, settings, truth)
    regression = fit(train_inputs, train_outcomes)
    inputs = numpy.array([features(truth, answer.origin, answer.carrier, answer.dest, answer.asked) for answer in kept])
    forecasts = {
        "outlook (untuned model)": numpy.array([answer.delayed or 0.0 for answer in kept]),
        "base rate of January to March": numpy.full(len(kept), float(train_outcomes.mean())),
        "logistic regression": regression.predict_proba(inputs)[:, 1] if len(kept) else numpy.array([]),
    }
    place = {flight: number for number, flight in enumerate(order)}
    weights = sample.weights[:, [place[answer.flight] for answer in kept]]
    return Scored(
        rows=len(kept),
        left_out=len(rows) - len(kept),
        late=float(outcomes.mean()) if len(kept) else float("nan"),
        scores=tuple(_score(name, forecast, outcomes, weights, sample) for name, forecast in forecasts.items()),
        forecasts={name: tuple(map(float, forecast)) for name, forecast in forecasts.items()},
        outcomes=tuple(map(bool, outcomes)),
    )


def _score(name: str, forecast: Any, outcomes: Any, weights: Any, sample: Bootstrap) -> Score:
    squared = (forecast - outcomes) ** 2
    brier = (weights @ squared) / numpy.maximum(weights.sum(axis=1), 1e-12)
    auc = numpy.array([weighted_auc(forecast, outcomes, row) for row in weights])
    return Score(name, sample.interval(auc), sample.interval(brier), float(forecast.mean()) if len(forecast) else 0.0)


def weighted_auc(forecast: Any, outcomes: Any, weights: Any) -> float:
    """Area under the ROC curve: the weighted share of (late, not late) pairs that are ranked rightly, ties by half."""
    order = numpy.argsort(forecast, kind="stable")
    values, late, weight = forecast[order], outcomes[order], weights[order]
    positive, negative = numpy.where(late, weight, 0.0), numpy.where(late, 0.0, weight)
    if positive.sum() == 0 or negative.sum() == 0:
        return float("nan")
    starts = numpy.flatnonzero(numpy.r_[True, values[1:] != values[:-1]])
    positives, negatives = numpy.add.reduceat(positive, starts), numpy.add.reduceat(negative, starts)
    below = numpy.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (positive.sum() * negative.sum()))


def features(truth: Truth, origin: str, carrier: str, dest: str, at: datetime) -> tuple[float, ...]:
    """What the prompt also sees, unrounded: delay, wind, the airline's and the route's share; missing is ``nan``."""
    values = (
        truth.delay(origin, at),
        truth.wind(origin, at),
        truth.carrier(carrier, at),
        truth.route(origin, dest, at),
    )
    return tuple(float("nan") if value is None else value for value in values)


def training_rows(events: Events, settings: Settings, truth: Truth) -> tuple[Any, Any]:
    """Flights of January to March, each at one moment drawn like a question's: inputs and whether it left late."""
    first, last = settings.analysis.train_first, settings.analysis.train_last
    days = tuple(first + timedelta(days=offset) for offset in range((last - first).days + 1))
    random_numbers = random.Random(f"{settings.seed}/training")
    flown = [flight for flight in demand.read_flights(events.departures, days) if flight.dep_delay is not None]
    chosen = random_numbers.sample(flown, min(settings.analysis.train_rows, len(flown)))
    inputs, outcomes = [], []
    for flight in chosen:
        lead = max(
            settings.demand.shortest_lead_minutes, random_numbers.expovariate(1 / settings.demand.mean_lead_minutes)
        )
        asked = min(flight.scheduled, flight.departed) - timedelta(minutes=lead)
        inputs.append(features(truth, flight.origin, flight.carrier, flight.dest, asked))
        outcomes.append((flight.dep_delay or 0) > settings.analysis.late_after_minutes)
    return numpy.array(inputs), numpy.array(outcomes)


def fit(inputs: Any, outcomes: Any) -> Any:
    """scikit-learn's logistic regression on standardised inputs; a missing input is the training median."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(max_iter=500))
    return model.fit(inputs, outcomes)
