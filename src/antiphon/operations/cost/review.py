"""The review of an application's cost: what its last training cost and bought, and what a correct answer costs. Pure.

As Markdown for people and as CSV for tables; both say the same.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime

import msgspec

from antiphon.operations.cost.amounts import MICROS, decimal_text


class MetricGain(msgspec.Struct, frozen=True):
    """A metric of the trained release less that of the release before, on the same rows, with its interval."""

    metric: str
    difference: float
    low: float
    high: float


class TrainingReview(msgspec.Struct, frozen=True):
    """The cost of a training, and what it bought.

    Attributes:
        worker_micros: of the run's attempts. process_micros: of processors and memory of its training.
        evaluation_micros: of answers that were made to evaluate its release.
        rows: of the evaluation; ``passed``: all its gates. Without an evaluation there are no ``gains``.
    """

    run: str
    ended_at: datetime
    release: str
    against: str | None
    worker_micros: int
    process_micros: int
    evaluation_micros: int
    rows: int | None
    passed: bool | None
    gains: tuple[MetricGain, ...] = ()

    @property
    def micros(self) -> int:
        """All that is charged for it."""
        return self.worker_micros + self.process_micros + self.evaluation_micros


class ReleaseReview(msgspec.Struct, frozen=True):
    """The cost of the answers of a release that users saw.

    Attributes:
        scored: predictions whose outcome is known, and says whether they were right; ``accuracy`` is the share of them.
    """

    release: str
    micros: int
    answers: int
    scored: int
    accuracy: float | None

    @property
    def per_answer(self) -> float | None:
        """Micro-units."""
        return self.micros / self.answers if self.answers else None

    @property
    def per_correct(self) -> float | None:
        """Micro-units of an answer over the share of those that were right."""
        return self.per_answer / self.accuracy if self.per_answer is not None and self.accuracy else None


class CostReview(msgspec.Struct, frozen=True):
    """The review of one application over ``since <= time < until``; the training is its last one, whenever it was."""

    application: str
    since: datetime
    until: datetime
    currency: str
    micros: int
    training: TrainingReview | None
    releases: tuple[ReleaseReview, ...]


def markdown(review: CostReview) -> str:
    """The review as a document."""
    return "\n".join(_document(review)) + "\n"


def _document(review: CostReview) -> Iterator[str]:
    currency = review.currency
    yield f"# Cost of {review.application}"
    yield ""
    span = f"From {review.since:%Y-%m-%d} until {review.until:%Y-%m-%d %H:%M}Z"
    yield f"{span}: {decimal_text(review.micros)} {currency}."
    yield ""
    yield "## The last training"
    yield ""
    training = review.training
    if training is None:
        yield "No training of it has ended."
    else:
        yield (
            f"`{training.run}` ended {training.ended_at:%Y-%m-%d %H:%M}Z with release `{training.release}`. It cost "
            f"{decimal_text(training.micros)} {currency}: {decimal_text(training.worker_micros)} of workers, "
            f"{decimal_text(training.process_micros)} of processors and memory, "
            f"{decimal_text(training.evaluation_micros)} of answers to evaluate it."
        )
        yield ""
        if training.rows is None:
            yield "Its release was not evaluated: what it bought is not known."
        else:
            passed = "passed its gates" if training.passed else "did not pass its gates"
            yield f"It was evaluated on {training.rows} rows and {passed}."
            if training.gains:
                yield ""
                yield f"| metric | change from `{training.against}` | interval |"
                yield "|---|---|---|"
                for gain in training.gains:
                    yield f"| {gain.metric} | {gain.difference:+.4f} | {gain.low:+.4f} to {gain.high:+.4f} |"
    yield ""
    yield "## Answers that users saw"
    yield ""
    if not review.releases:
        yield "There were none."
        return
    yield f"| release | answers | {currency} | {currency} an answer | scored | accuracy | {currency} a correct answer |"
    yield "|---|---|---|---|---|---|---|"
    for one in review.releases:
        accuracy = "–" if one.accuracy is None else f"{one.accuracy:.1%}"
        yield (
            f"| `{one.release}` | {one.answers} | {decimal_text(one.micros)} | {_small(one.per_answer)} "
            f"| {one.scored} | {accuracy} | {_small(one.per_correct)} |"
        )


def csv_text(review: CostReview) -> str:
    """The review as a table: a row a figure."""
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(["application", "subject", "figure", "value", "unit"])

    def row(subject: str, figure: str, value: object, unit: str = "") -> None:
        rows.writerow([review.application, subject, figure, value, unit])

    row("application", "cost", decimal_text(review.micros), review.currency)
    if (training := review.training) is not None:
        row(training.run, "cost", decimal_text(training.micros), review.currency)
        row(training.run, "cost of workers", decimal_text(training.worker_micros), review.currency)
        row(training.run, "cost of processes", decimal_text(training.process_micros), review.currency)
        row(training.run, "cost of evaluation", decimal_text(training.evaluation_micros), review.currency)
        for gain in training.gains:
            row(training.run, f"change of {gain.metric}", f"{gain.difference:.6f}")
            row(training.run, f"change of {gain.metric}, low", f"{gain.low:.6f}")
            row(training.run, f"change of {gain.metric}, high", f"{gain.high:.6f}")
    for one in review.releases:
        row(one.release, "answers", one.answers)
        row(one.release, "cost", decimal_text(one.micros), review.currency)
        row(one.release, "scored", one.scored)
        for name, value in (("cost of an answer", one.per_answer), ("cost of a correct answer", one.per_correct)):
            if value is not None:
                row(one.release, name, f"{value / MICROS:.9f}", review.currency)
        if one.accuracy is not None:
            row(one.release, "accuracy", f"{one.accuracy:.6f}")
    return written.getvalue()


def _small(micros: float | None) -> str:
    return "–" if micros is None else f"{micros / MICROS:.9f}"
