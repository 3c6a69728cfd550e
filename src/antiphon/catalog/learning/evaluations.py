"""Evaluations of releases: what the served artefact did on a dataset, and the gates' verdict.

While one is under way its answers are kept row by row, so that whichever process goes on with it, on whatever host,
asks no question again. Invariant: the first answer to a question stays, and an evaluation is recorded in the
transaction that removes its answers.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import SealedRows
from antiphon.core.errors import ConflictError, CorruptionError
from antiphon.core.scope import Scope
from antiphon.definitions.outcome_shape import OutcomeShape

_log = logging.getLogger("antiphon.catalog")

ABANDONED = timedelta(days=30)
"""Answers of an evaluation that was given up are removed when they are so old, as another one is recorded."""

_answers = schema.evaluation_answers
_ANSWER = "evaluation-answer/1"


def counted(labels: Mapping[str, int]) -> str:
    """Counts of labels in words; there are none of numbers and texts."""
    return ", ".join(f"{count:,} {label}" for label, count in labels.items()) or "no labels"


class IntervalEstimate(msgspec.Struct, frozen=True):
    """A figure with its 95 % interval: by bootstrap over users (paired by row where two things are compared), of a
    share of probes Wilson's."""

    value: float
    low: float
    high: float


class Bin(msgspec.Struct, frozen=True):
    """One bin of a reliability diagram: mean forecast, share that came true, rows."""

    forecast: float
    observed: float
    rows: int


class Slice(msgspec.Struct, frozen=True):
    """Every metric on the rows of one value of an entity key or a feature, or of a range of its values.

    Attributes:
        metrics: by name; of a judge model the mean of its own scores.
        known: of metrics that not all of the rows have, how many have them.
        labels: how often each came true there. said: of the labels that are scored, the share of rows of which each was
            the most probable; ``recall``: the same of the rows where it came true.
    """

    key: str
    value: str
    rows: int
    labels: dict[str, int]
    metrics: dict[str, float]
    said: dict[str, float] = {}
    recall: dict[str, float] = {}
    known: dict[str, int] = {}

    def rows_of(self, metric: str) -> int:
        """The number of rows that a metric is of."""
        return self.known.get(metric, self.rows)


class EvaluationGate(msgspec.Struct, frozen=True):
    """One gate: ``passed`` is ``None`` when it is switched off. ``reason`` is a sentence with both figures."""

    name: str
    passed: bool | None
    measured: float | None
    bound: float | None
    reason: str


class SuiteCount(msgspec.Struct, frozen=True):
    """Results of one category of a suite, in one half.

    Attributes:
        half: ``held-out`` gates, ``visible`` is what development looks at.
        probes: requests that reached the model; ``refused``: those that were turned away before it.
        successes: probes that got what they wanted; ``share``: of ``probes``, with Wilson's 95 % interval.
        by: kind of success to how many.
    """

    category: str
    half: Literal["held-out", "visible"]
    probes: int
    refused: int
    successes: int
    share: IntervalEstimate | None = None
    by: dict[str, int] = {}


class SuiteSummary(msgspec.Struct, frozen=True):
    """Results of one safety suite.

    Attributes:
        name: ``injection``, ``leakage``, ``pii``, ``toxicity`` or ``memorization``.
        halves: each half as a whole, its ``category`` empty; ``categories`` the parts of both.
        languages: language to (probes, successes), both halves.
        note: what the suite could not try here, in words.
        warning: what a judge model says of the answers, in words; it decides nothing.
    """

    name: str
    halves: tuple[SuiteCount, ...] = ()
    categories: tuple[SuiteCount, ...] = ()
    languages: dict[str, tuple[int, int]] = {}
    note: str = ""
    warning: str = ""

    @property
    def held_out(self) -> SuiteCount | None:
        """The half that gates; ``None`` when nothing of it was tried."""
        return next((half for half in self.halves if half.half == "held-out"), None)

    @property
    def probes(self) -> int:
        """Probes of both halves that reached the model."""
        return sum(half.probes for half in self.halves)


class JudgedMean(msgspec.Struct, frozen=True):
    """The mean of a judge model's scores.

    Attributes:
        mean: corrected by people's scores where ``corrected``; otherwise ``judge``, that of the judge alone.
        people: answers among these that people scored by the same rubric.
    """

    mean: IntervalEstimate
    judge: IntervalEstimate
    people: int
    corrected: bool


class SampledAnswers(msgspec.Struct, frozen=True):
    """Measurements of sampled requests, each answered by itself at batch priority.

    Attributes:
        requests: that were answered.
        seconds_p50, seconds_p99: wall seconds of an answer; ``first_p50`` to its first token, in the middle.
        guarded_more: share of requests on which a guard acted, less that of the live release on the same ones.
        length_ratio: the middle answer is so many times as long, or as short, as the live release's to the same ones.
            ``None`` for both where the live release has answered none of them.
    """

    requests: int
    seconds_p50: float
    seconds_p99: float
    first_p50: float
    guarded_more: float | None = None
    length_ratio: float | None = None


LEFT_OUT = {
    "in-training": "stand in what its model was trained on",
    "in-examples": "stand in the prompt's examples",
    "request-gone": "were requests of which an earlier turn, or inputs, are not kept",
}
"""Reasons of rows that are not asked about, in words that follow their number."""


class Evaluation(msgspec.Struct, frozen=True):
    """Measurements of one release on one dataset, made through the function that serves.

    Attributes:
        mode: ``classes`` asked only for the outcome's property, ``whole`` for the whole output.
        positive: of a question of yes or no, the label whose probability is scored.
        labels: how often each label came true; empty where the first outcome is a number or a text.
        failed: rows that got no answer, by error code.
        metrics: by name, of other outcomes than the first ``OUTCOME.METRIC``; ``advantages`` over a trivial forecaster,
            positive where better.
        outcomes: that the answers were compared with.
        own_failures: metrics of the user's own to the number of rows of which they gave no value.
        judged: metrics of judge models, which ``metrics`` has as well.
        valid_share, false_share, guard_share: of ``whole_rows`` whole outputs: those that meet the schema before a
            guard acted, those whose served text states a figure that is not the request's, those a guard changed.
        against: the release it is compared with on identical rows; ``difference`` metric to (this − that).
        rows_blob: per-row results, for paired comparison later.
        seconds_p50, seconds_p99: wall seconds of an answer at batch priority.
        tokens, engine_seconds: mean of an answer (prompt and completion, all attempts).
        guards: of whole outputs: what guards did (``retry``, ``template``, ``flag``) to how many outputs it happened.
        safety: results of the safety suites; none when they were not tried.
        fingerprints: of what answered the rows.
        whole_tokens: mean of a whole output, prompt and completion.
        length_ratio: how many times as long, or as short, the middle whole output is as that of ``against`` for the
            same row, in tokens; ``None`` where that was asked for no whole outputs.
        left_out: rows of the dataset that were not asked about, by reason (of ``LEFT_OUT``).
        sampled: of the latest requests of users; ``None`` where none were asked or answered.
        clusters: users, and entities where no user is known, whose rows are drawn together for intervals; 0 where each
            row is drawn by itself.
        units: of the user's own metrics that have one.
    """

    id: str
    scope: Scope
    application: str
    release: str
    model: str
    dataset: str
    mode: Literal["classes", "whole"]
    rows: int
    positive: str | None
    labels: dict[str, int]
    failed: dict[str, int]
    metrics: dict[str, IntervalEstimate]
    advantages: dict[str, IntervalEstimate]
    reliability: tuple[Bin, ...]
    slices: tuple[Slice, ...]
    whole_rows: int
    valid_share: float | None
    false_share: float | None
    guard_share: float | None
    seconds_p50: float
    seconds_p99: float
    tokens: float
    engine_seconds: float
    against: str | None
    difference: dict[str, IntervalEstimate]
    gates: tuple[EvaluationGate, ...]
    rows_blob: str
    created_at: datetime
    guards: dict[str, int] = {}
    safety: tuple[SuiteSummary, ...] = ()
    fingerprints: tuple[str, ...] = ()
    outcomes: tuple[OutcomeShape, ...] = ()
    own_failures: dict[str, int] = {}
    judged: dict[str, JudgedMean] = {}
    whole_tokens: float | None = None
    length_ratio: float | None = None
    left_out: dict[str, int] = {}
    sampled: SampledAnswers | None = None
    clusters: int = 0
    units: dict[str, str] = {}

    @property
    def passed(self) -> bool:
        """True unless a gate failed."""
        return all(gate.passed is not False for gate in self.gates)

    @property
    def left_out_words(self) -> str:
        """The rows that were not asked about, in words; empty where there are none."""
        return "; ".join(f"{count:,} {LEFT_OUT.get(reason, reason)}" for reason, count in self.left_out.items())

    def suite(self, name: str) -> SuiteSummary | None:
        """The results of a safety suite; ``None`` when it was not tried."""
        return next((one for one in self.safety if one.name == name), None)


class Evaluations:
    """Repository of evaluations. An evaluation never changes; another one of the same release is another row."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "evaluations.document", Evaluation)

    def add(self, evaluation: Evaluation, *, within: Connection | None = None) -> Evaluation:
        """Record an evaluation in the place of its answers. Of two processes that did the same one, the first records
        it, and both get that.

        Raises:
            ConflictError: the id is taken by an evaluation of something else.
        """
        scope = evaluation.scope
        with self._database.writing(within) as connection:
            known = self._documents.get(scope, evaluation.id, within=connection)
            if known is None:
                connection.execute(insert(schema.evaluations).values(self._documents.row(evaluation)))
            elif (known.release, known.dataset) != (evaluation.release, evaluation.dataset):
                raise ConflictError(
                    f"The evaluation {evaluation.id!r} is of {known.release} on {known.dataset}.",
                    where=str(scope),
                    next_step="Give each evaluation its own id.",
                )
            old = _answers.c.created_at < self._database.clock.now() - ABANDONED
            gone = (_answers.c.evaluation == evaluation.id) | old
            connection.execute(delete(_answers).where(schema.owned(_answers, scope), gone))
        return known or evaluation

    def answers(self, scope: Scope, evaluation: str) -> dict[str, Any]:
        """Answers of an evaluation under way by question, as JSON reads them back; one that does not open is left out,
        and asked again."""
        columns = (_answers.c.question, _answers.c.answer)
        found: dict[str, Any] = {}
        for row in self._database.rows(select(*columns).where(schema.owned(_answers, scope, evaluation=evaluation))):
            try:
                opened = self._database.unseal(scope, _ANSWER, f"{evaluation}:{row.question}", row.answer)
            except CorruptionError:
                _log.warning("An answer of the evaluation %s cannot be opened and is asked for again.", evaluation)
                continue
            found[row.question] = msgspec.json.decode(opened)
        return found

    def keep_answer(self, scope: Scope, evaluation: str, question: str, answer: Any) -> None:
        """Keep an answer, unless there is one; nothing is kept of an evaluation that is recorded."""
        sealed = self._database.seal(scope, _ANSWER, f"{evaluation}:{question}", msgspec.json.encode(answer))
        ended = select(schema.evaluations.c.id).where(schema.owned(schema.evaluations, scope, id=evaluation))
        row: dict[str, Any] = {"tenant": scope.tenant, "environment": scope.environment, "evaluation": evaluation}
        row |= {"question": question, "answer": sealed, "created_at": self._database.clock.now()}
        with self._database.transaction() as connection:
            if connection.execute(ended).first() is None:
                connection.execute(upsert(_answers).values(row).on_conflict_do_nothing())

    def kept(self, scope: Scope, prefix: str) -> set[str]:
        """The ids that begin so under which answers are kept."""
        under = _answers.c.evaluation.startswith(prefix, autoescape=True)
        statement = select(_answers.c.evaluation).where(schema.owned(_answers, scope), under).distinct()
        return {row.evaluation for row in self._database.rows(statement)}

    def forget_answers(self, scope: Scope, evaluation: str, *, within: Connection | None = None) -> None:
        """Remove the answers of what has ended: it is recorded elsewhere, or given up."""
        self._database.write(delete(_answers).where(schema.owned(_answers, scope, evaluation=evaluation)), within)

    def get(self, scope: Scope, evaluation: str) -> Evaluation:
        """One evaluation.

        Raises:
            NotFoundError: there is none of this id here.
        """
        return self._documents.require(scope, evaluation, "evaluation", "Run `antiphon evaluate`.")

    def list(
        self,
        scope: Scope,
        application: str | None = None,
        release: str | None = None,
        limit: int = 50,
        dataset: str | None = None,
    ) -> list[Evaluation]:
        """Evaluations, latest first."""
        return self._latest(scope, limit, application=application, release=release, dataset=dataset)

    def latest(self, scope: Scope, release: str, dataset: str | None = None) -> Evaluation | None:
        """The newest evaluation of a release (on one dataset), ``None`` when it was never evaluated."""
        found = self._latest(scope, 1, release=release, dataset=dataset)
        return found[0] if found else None

    def _latest(self, scope: Scope, limit: int, **of: str | None) -> builtins.list[Evaluation]:
        table = schema.evaluations
        order = (table.c.created_at.desc(), table.c.id.desc())
        return self._documents.find(scope, *schema.given(table, **of), order=order, limit=limit)
