"""What fine-tuning and fresh features are worth, on a sample of all April's flights that was declared beforehand.

The same flights are asked about twice: at the moment somebody asked, and at dawn of that day. Every row goes through
the function that serves, with the features of its own moment; a logistic regression gets the same rows. It reads what
no desk would have known.
"""

from __future__ import annotations

import calendar
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pyarrow.parquet as parquet

from antiphon.app.wiring import open_learning
from antiphon.catalog.learning.evaluations import Evaluation, IntervalEstimate
from antiphon.core.errors import SetupError
from antiphon.core.ids import content_hash
from antiphon.learning.evaluation import metrics
from antiphon.learning.evaluation.metrics import LabelForecasts
from examples.flight_desk import baselines, data, demand
from examples.flight_desk.data import Events
from examples.flight_desk.demand import Flight
from examples.flight_desk.host import Say
from examples.flight_desk.learning.story import run
from examples.flight_desk.learning.traffic import APPLICATION
from examples.flight_desk.settings import Settings
from examples.flight_desk.truth import Truth

UNTUNED, TUNED, DAWN, LEARNED = "untuned", "fine-tuned", "fine-tuned, dawn features", "learned from outcomes"
REGRESSION, BASE_RATE = "logistic regression", "base rate"
COMPARED = {
    "fine-tuned − untuned": (TUNED, UNTUNED),
    "fresh − dawn features": (TUNED, DAWN),
    "learned − fine-tuned": (LEARNED, TUNED),
    "fine-tuned − logistic regression": (TUNED, REGRESSION),
}


class Forecaster(msgspec.Struct, frozen=True):
    """How one of them did on the sample: AUC and Brier score with 95 % intervals (bootstrap by flight)."""

    name: str
    auc: IntervalEstimate
    brier: IntervalEstimate


class Notices(msgspec.Struct, frozen=True):
    """What one release's notices needed: interventions of the guard and false statements per 1,000."""

    name: str
    notices: int
    guarded: float
    false: float


class Measured(msgspec.Struct, frozen=True):
    """Everything measured on the sample.

    ``differences``: what is compared to (AUC of the first − AUC of the second) on identical flights.
    """

    flights: int
    late: float
    forecasters: tuple[Forecaster, ...]
    differences: dict[str, IntervalEstimate]
    notices: tuple[Notices, ...]
    tokens: dict[str, float]

    def forecaster(self, name: str) -> Forecaster:
        """The one of this name."""
        return next(one for one in self.forecasters if one.name == name)


class Subject(msgspec.Struct, frozen=True):
    """Who is asked about the sample: a release, with the features of dawn or fresh ones, and for how many notices."""

    name: str
    release: str
    dawn: bool = False
    notices: int = 0


class Asked(msgspec.Struct, frozen=True):
    """What a subject answered: its evaluation, and in the sample's order the probability of being late and the moment
    of the question."""

    evaluation: Evaluation
    forecasts: Any
    moments: tuple[datetime, ...]


def sample(settings: Settings, count: int, events: Events) -> tuple[Flight, ...]:
    """The declared sample: so many of April's flights that somebody could have asked about both at dawn and later."""
    first, last = _month(settings)
    days = tuple(first + timedelta(days=offset) for offset in range((last - first).days + 1))
    eligible = [
        flight
        for flight in demand.read_flights(events, days)
        if flight.dep_delay is not None
        and settings.local(flight.day, settings.demand.first_departure) <= flight.scheduled
        and flight.departed > settings.local(flight.day, settings.dawn)
    ]
    # Two flights of one airline and route on one day are the same to the desk at dawn: only one of them is drawn.
    by_desk = {(flight.day, *flight.entity.values()): flight for flight in reversed(eligible)}
    distinct = sorted(by_desk.values(), key=lambda flight: (flight.scheduled, flight.event_id))
    chosen = random.Random(f"{settings.seed}/measured").sample(distinct, min(count, len(distinct)))
    return tuple(sorted(chosen, key=lambda flight: (flight.scheduled, flight.event_id)))


async def ask(
    project: Path,
    settings: Settings,
    events: Events,
    flights: Sequence[Flight],
    subjects: Sequence[Subject],
    say: Say,
) -> dict[str, Asked]:
    """Ask every subject about these flights of April, through the function that serves; by its name.

    Raises:
        SetupError: a row got no answer, so that the comparison would not be on identical rows.
    """
    asked: dict[str, Asked] = {}
    _, last = _month(settings)
    data.write_history(events, settings.local(last + timedelta(days=2), "00:00"), project / "sources")
    # Both sets before the first question, so that everybody is asked with the sources as they then are.
    sets = {dawn: await _dataset(project, settings, events, flights, dawn=dawn) for dawn in (False, True)}
    async with open_learning(project) as (learning, store):
        for subject in subjects:
            built, moments = sets[subject.dawn]
            dataset = store.datasets.get(store.scope, built)
            release = store.releases.get(store.scope, subject.release)
            await learning.serve(release)
            notices = f" and for {subject.notices} whole notices" if subject.notices else ""
            say(f"asking {subject.name} about {dataset.rows} flights{notices}")
            evaluation = await learning.evaluators.on_datasets.evaluate(
                release,
                dataset,
                mode="classes",
                whole=subject.notices,
                with_safety=False,
                # Asked once: whoever asks again after an interruption gets what was found, or goes on.
                id=f"eval_{content_hash(['measured', release.id, dataset.id, subject.notices])[:26]}",
            )
            answers = learning.evaluators.on_datasets.rows_of(evaluation).rows
            forecasts = {answer.example: answer.probabilities.get("delayed") for answer in answers}
            # An entity and a moment are one flight of the sample.
            places = {(frozenset(row.entity.items()), row.moment): row.example for row in learning.rows(dataset)}
            found = [
                forecasts.get(places.get((frozenset(flight.entity.items()), moment), ""))
                for flight, moment in zip(flights, moments, strict=True)
            ]
            if None in found:
                failed = evaluation.failed or "none failed"
                raise SetupError(
                    f"{found.count(None)} of {len(flights)} flights got no answer ({failed}).",
                    where=evaluation.id,
                    next_step="Look at the engine's log in .antiphon/logs and measure again.",
                )
            asked[subject.name] = Asked(evaluation, numpy.array(found, dtype=float), moments)
    return asked


def _month(settings: Settings) -> tuple[date, date]:
    start = settings.learning.start
    return start, start.replace(day=calendar.monthrange(start.year, start.month)[1])


async def _dataset(
    project: Path, settings: Settings, events: Events, flights: Sequence[Flight], *, dawn: bool
) -> tuple[str, tuple[datetime, ...]]:
    """The sample as an evaluation set of the desk, by its id, and the moment of each flight's question."""
    first, last = _month(settings)
    until = settings.local(last + timedelta(days=2), "00:00")
    table = project / "sources" / ("measured-dawn.parquet" if dawn else "measured.parquet")
    only = [flight.event_id for flight in flights]
    data.write_outcomes(events, settings, until, table, first=first, last=last, dawn=dawn, only=only)
    rows = parquet.read_table(table, columns=["event_id", "asked"]).to_pylist()
    moments = {row["event_id"]: row["asked"].astimezone(UTC) for row in rows}
    built = await run(
        project, "datasets", "build", APPLICATION, "--kind", "evaluation", "--from", "history", "--table", str(table),
        "--cutoff", until.isoformat(), "--examples", str(len(flights)),
        "--first", settings.local(first, "00:00").isoformat(),
        "--last", settings.local(last + timedelta(days=1), "00:00").isoformat(),
    )  # fmt: skip
    return built["id"], tuple(moments[flight.event_id] for flight in flights)


def lateness(flights: Sequence[Flight], settings: Settings) -> Any:
    """Whether each flight left late: an array of 1.0 and 0.0 in the sample's order."""
    return numpy.array([(flight.dep_delay or 0) > settings.analysis.late_after_minutes for flight in flights], float)


def compare(
    settings: Settings, flights: Sequence[Flight], events: Events, truth: Truth, asked: Mapping[str, Asked]
) -> Measured:
    """Everybody who was asked, a logistic regression and the base rate, on identical rows."""
    late = lateness(flights, settings)
    moments = zip(flights, asked[UNTUNED].moments, strict=True)
    inputs = [truth.figures(one.origin, one.carrier, one.dest, moment) for one, moment in moments]
    regression, base_rate = baselines.without_a_model(inputs, events, settings, truth)
    forecasts = {name: one.forecasts for name, one in asked.items()} | {REGRESSION: regression, BASE_RATE: base_rate}
    options = {"resamples": settings.learning.bootstrap_rounds, "seed": settings.seed}
    read = {name: LabelForecasts.yes_or_no(forecast, late, "late") for name, forecast in forecasts.items()}
    found = {name: metrics.intervals(one, **options) for name, one in read.items()}
    evaluations = {name: one.evaluation for name, one in asked.items()}
    return Measured(
        flights=len(flights),
        late=float(late.mean()),
        forecasters=tuple(Forecaster(name, one["auc"], one["brier"]) for name, one in found.items()),
        differences={
            words: metrics.differences(read[one], read[other], **options)["auc"]
            for words, (one, other) in COMPARED.items()
            if one in read and other in read
        },
        notices=tuple(
            Notices(name, one.whole_rows, 1000 * (one.guard_share or 0.0), 1000 * (one.false_share or 0.0))
            for name, one in evaluations.items()
            if name in (UNTUNED, TUNED)
        ),
        tokens={name: one.tokens for name, one in evaluations.items()},
    )
