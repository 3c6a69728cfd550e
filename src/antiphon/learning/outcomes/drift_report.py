"""Reports of drift: an application's recent requests and answers beside those of its live release's first week.

Invariant: the reference is the answers of the release that is live, from the moment when it went live on; so a report
that is made again of the same time says the same, and what another release changed is no drift.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from antiphon.catalog.learning.datasets import Datasets
from antiphon.catalog.releases.releases import Activation, Release, Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import Conversations
from antiphon.catalog.serving.receipt import Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, NotFoundError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.embedding import named_model
from antiphon.definitions.outcome_shape import OutcomeShape, metric_key
from antiphon.features.embedding.vectors import embedded, has_vector
from antiphon.features.lake.content import Lake
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.outcomes.drift import (
    LEAST_ROWS,
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
from antiphon.serving.answering.probabilities import said_of
from antiphon.serving.features.printing import print_all
from antiphon.serving.recorded import earlier_turns

T = TypeVar("T")

_log = logging.getLogger(__name__)

WEEK = timedelta(days=7)
"""The length of the reference, a whole week of users' habits; and by default of what is compared with it."""

FIRST_WEEK = "first week"

MOST_RECEIPTS = 2_000
"""Receipts of either time, spread evenly over it: some tenths of a second."""

MOST_NUMBERS = 500
"""Answers of either time whose numbers are read."""

MOST_TEXTS = 200
"""Texts of either time that are embedded: some milliseconds each."""

MOST_SCORED = 100
"""Answers of either time that are scored by declared metrics."""

TEXT_MODEL = "minilm-l6-v2"


class DriftReport(msgspec.Struct, frozen=True):
    """Distributions of what was asked and answered, in the live release's first week and now.

    Attributes:
        at: when it was made. release: the live one; ``None`` when there is none.
        reference: what the features are compared with: a dataset's id, or ``first week``. All else is always compared
            with the first week.
        reference_since, reference_until: the first week, by the moments of the answers.
        since: from when on answers are recent.
        forecasts: probabilities of labels, numbers that are said, lengths of prompts and answers.
        metrics: declared metrics of answers that need no outcome and no judge, of a few answers; empty unless asked
            for.
        texts: what was asked, and where no label is forecast what was answered, by their vectors; empty unless asked
            for.
        problems: sentences that say what is not compared, and why.
    """

    application: str
    at: datetime
    release: str | None = None
    reference: str = FIRST_WEEK
    reference_since: datetime | None = None
    reference_until: datetime | None = None
    since: datetime | None = None
    features: tuple[Drift, ...] = ()
    forecasts: tuple[Drift, ...] = ()
    texts: tuple[Drift, ...] = ()
    metrics: tuple[Drift, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[Drift, ...]:
        """Forecasts, metrics and texts first, then features."""
        return (*self.forecasts, *self.metrics, *self.texts, *self.features)

    @property
    def shifted(self) -> tuple[Drift, ...]:
        """The variables that have drifted beyond their bound."""
        return tuple(one for one in self.all if one.verdict == "shifted")

    @property
    def comparison(self) -> str:
        """A sentence that says what is compared with what."""
        if self.reference_since is None or self.reference_until is None or self.since is None:
            return "Nothing is compared."
        days = f"{self.reference_since:%Y-%m-%d %H:%M} to {self.reference_until:%Y-%m-%d %H:%M} UTC"
        learned = "" if self.reference == FIRST_WEEK else f"; features with what was learned from, {self.reference}"
        return (
            f"Answers since {self.since:%Y-%m-%d %H:%M} UTC are compared with the first week of release "
            f"{self.release}, {days}{learned}."
        )

    def continuing(self, before: DriftReport | None) -> DriftReport:
        """The same with the moments since which variables have shifted, by the report made before it."""
        known = {} if before is None or before.release != self.release else {one.name: one for one in before.shifted}

        def dated(found: Sequence[Drift]) -> tuple[Drift, ...]:
            return tuple(
                msgspec.structs.replace(one, since=(known[one.name].since if one.name in known else None) or self.at)
                if one.verdict == "shifted"
                else one
                for one in found
            )

        return msgspec.structs.replace(
            self,
            features=dated(self.features),
            forecasts=dated(self.forecasts),
            texts=dated(self.texts),
            metrics=dated(self.metrics),
        )


@dataclass(frozen=True)
class _Receipts:
    """Receipts of the live release: of its first week, of the recent time, and of these those after the first week."""

    live: Activation | None
    first: Sequence[Receipt]
    latest: Sequence[Receipt]
    later: Sequence[Receipt]


@dataclass(frozen=True, kw_only=True)
class DriftReader:
    """Reads whether an application's requests and answers are distributed as they were. Nothing is written."""

    receipts: Receipts
    releases: Releases
    datasets: Datasets
    applications: Callable[[Scope, str], ApplicationSpec]
    lake: Lake
    texts: Blobs
    conversations: Conversations
    scorer: AnswerScorer
    clock: Clock

    def compare(self, scope: Scope, application: str, *, recent: timedelta = WEEK, texts: bool = False) -> DriftReport:
        """Compare the newest ``recent`` with the live release's first week, features with what was learned from.

        Args:
            texts: also by the vectors of up to :data:`MOST_TEXTS` texts of either time, which takes some seconds.

        Raises:
            NotFoundError: there is no such application. SetupError: the embedding model is not on this machine.
        """
        declared, now = self.applications(scope, application), self.clock.now()
        read = self._read(scope, application, now, recent)
        learned = self._learned(scope, declared)
        if learned is not None:
            reference, features = learned[0], drifts(learned[1], printed_features(read.latest))
        else:
            reference, features = FIRST_WEEK, drifts(printed_features(read.first), printed_features(read.later))
        begun = None if read.live is None else read.live.at
        return DriftReport(
            application=application,
            at=now,
            release=None if read.live is None else read.live.release,
            reference=reference,
            reference_since=begun,
            reference_until=None if begun is None else begun + WEEK,
            since=now - recent,
            features=features,
            forecasts=tuple(self._forecasts(scope, declared, read)),
            texts=tuple(self._texts(scope, declared.shape, read)) if texts else (),
            problems=tuple(_problems(application, read, now)),
        )

    async def compare_all(self, scope: Scope, application: str) -> DriftReport:
        """Compare everything, texts and declared metrics too; what cannot be is a sentence of the report's problems.

        Raises:
            NotFoundError: there is no such application.
        """
        try:
            report, problems = await asyncio.to_thread(self.compare, scope, application, texts=True), []
        except UnavailableError:
            raise  # nothing is wrong with the application
        except Exception as error:
            # Whatever is wrong with the embedding model, all else is compared, or raises again.
            report = await asyncio.to_thread(self.compare, scope, application)
            problems = [f"Texts are not compared: {reason_of(error)}"]
        try:
            metrics = tuple(await self._metrics(scope, application, report.at))
        except UnavailableError:
            raise
        except Exception as error:
            metrics, problems = (), [*problems, f"Metrics are not compared: {reason_of(error)}"]
        return msgspec.structs.replace(report, metrics=metrics, problems=(*report.problems, *problems))

    def _read(self, scope: Scope, application: str, now: datetime, recent: timedelta) -> _Receipts:
        history = self.releases.history(scope, application)
        if not history:
            return _Receipts(None, (), (), ())
        live = history[-1]
        until = live.at + WEEK
        first, latest = (
            self.receipts.sample(scope, application, live.release, since, before, most=MOST_RECEIPTS)
            for since, before in ((live.at, until), (max(live.at, now - recent), None))
        )
        return _Receipts(live, first, latest, [one for one in latest if one.created_at >= until])

    def _forecasts(self, scope: Scope, declared: ApplicationSpec, read: _Receipts) -> Iterator[Drift]:
        """Of labels the drift of their probabilities, of numbers that of what is said; and that of lengths."""
        for place, shape in enumerate(declared.shapes):
            if shape.form == "label":
                for label in shape.labels if shape.positive is None else (shape.positive,):
                    then, now = (forecasts(part, shape.property or "", label) for part in (read.first, read.later))
                    yield drift_of(metric_key(shape, f"probability of {label}", place == 0), then, now)
            elif shape.form == "number":
                then, now = (self._numbers(scope, shape, part) for part in (read.first, read.later))
                yield drift_of(f"number of {shape.name}", then, now)
        for name, of in (("tokens of the answer", answer_tokens), ("tokens of the prompt", prompt_tokens)):
            yield drift_of(name, of(read.first), of(read.later))

    def _numbers(self, scope: Scope, shape: OutcomeShape, receipts: Sequence[Receipt]) -> list[Printed]:
        """The number that each of some answers says, ``None`` of one that says none; erased ones are left out."""
        texts = self._sampled(scope, [one.text_blob for one in receipts], MOST_NUMBERS)
        return [None if (said := said_of(shape, text)) is None else float(said) for text in texts]

    def _texts(self, scope: Scope, shape: OutcomeShape | None, read: _Receipts) -> Iterator[Drift]:
        """Compares what was asked, and answers that are no label, which is forecast; yields nothing without a text."""
        both = (read.first, read.later)
        parts = {"what is asked": [[one.question_blob for one in part] for part in both]}
        if shape is None or shape.form != "label":
            new = ([one for one in part if one.cache.origin == "generated"] for part in both)
            parts["what is answered"] = [[one.text_blob for one in part] for part in new]
        for name, sides in parts.items():
            then, now = (
                [text for text in self._sampled(scope, [blob for blob in side if blob is not None], MOST_TEXTS)
                 if has_vector(text)]
                for side in sides
            )  # fmt: skip
            if min(len(then), len(now)) < LEAST_ROWS:
                if then or now:
                    yield Drift(name, None, None, len(then), len(now), "too-few")
                continue
            embedder = self.scorer.embedders.get(named_model(TEXT_MODEL))
            yield text_drift(name, embedded(embedder, then)[0], embedded(embedder, now)[0])

    async def _metrics(self, scope: Scope, application: str, now: datetime) -> list[Drift]:
        """The drift of what declared metrics say of a few answers of either time, without what needs an outcome."""
        read = await asyncio.to_thread(self._read, scope, application, now, WEEK)
        if read.live is None or min(len(read.first), len(read.later)) < LEAST_ROWS:
            return []
        release = await asyncio.to_thread(self.releases.get, scope, read.live.release)
        if not release.bundle.application.own_metrics:
            return []
        then, recent = [await self._scores(release, part) for part in (read.first, read.later)]
        return [
            drift_of(name, then.get(name, []), recent.get(name, [])) for name in sorted(then.keys() | recent.keys())
        ]

    async def _scores(self, release: Release, receipts: Sequence[Receipt]) -> dict[str, list[Printed]]:
        """Metric to its values of a few of these answers, each with the earlier turns of its conversation; those of
        which a text is erased, or an earlier turn not kept, are left out."""
        found: dict[str, list[Printed]] = {}
        for receipt in _spread(receipts, MOST_SCORED):
            blobs = (receipt.entity_blob, receipt.text_blob, receipt.question_blob)
            try:
                entity, text, question = [await asyncio.to_thread(self._text, receipt.scope, blob) for blob in blobs]
                earlier = await asyncio.to_thread(earlier_turns, receipt, self.conversations)
            except NotFoundError:
                continue
            scores = await self.scorer.score(
                release, receipt, text, entity=msgspec.json.decode(entity, type=dict[str, str]), question=question,
                outcomes={}, earlier=earlier,
            )  # fmt: skip
            for name, value in scores.values.items():
                found.setdefault(name, []).append(value)
        return found

    def _text(self, scope: Scope, blob: str | None) -> str:
        return "" if blob is None else self.texts.get(scope, blob).decode()

    def _sampled(self, scope: Scope, blobs: Sequence[str], most: int) -> list[str]:
        """At most so many of these texts, evenly spread over their order; erased ones are left out."""
        found = []
        for blob in _spread(blobs, most):
            with suppress(NotFoundError):
                found.append(self.texts.get(scope, blob).decode())
        return found

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


def _spread(items: Sequence[T], most: int) -> Iterator[T]:
    """At most so many items, evenly spread over their order."""
    size = min(len(items), most)
    return (items[place * len(items) // size] for place in range(size))


def _problems(application: str, read: _Receipts, now: datetime) -> Iterator[str]:
    live = read.live
    if live is None:
        yield f"No release of {application} is live: there is nothing to compare with."
    elif now < live.at + WEEK:
        yield (
            f"Release {live.release} is live since {live.at:%Y-%m-%d %H:%M} UTC: its answers of the first week, until "
            f"{live.at + WEEK:%Y-%m-%d %H:%M} UTC, are the reference, and later ones are compared with them."
        )
    elif not read.first:
        yield f"Release {live.release} gave no user an answer in its first week: there is nothing to compare with."
    elif not read.later:
        yield f"Release {live.release} gave no user an answer lately: there is nothing to compare."


def reason_of(error: Exception) -> str:
    """An error as a report says it; one that is not expected is logged whole."""
    if isinstance(error, AntiphonError):
        return str(error)
    _log.warning("A part of a drift report failed.", exc_info=error)
    return f"{type(error).__name__}: {error}"[:200]
