"""Evaluates what will be served: every row through serving's ``answer()``, scored against its label.

Invariants: no row is answered in any other way than a request is; a row that was answered is not asked again after a
crash; an evaluation exists only as a whole, and says nothing about a release's stage (``gates.Validation`` does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import msgspec

from antiphon.catalog.learning.annotations import Annotation
from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.learning.evaluations import Evaluation, Evaluations
from antiphon.catalog.releases.releases import Release, Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.clock import Clock
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.features.lake.content import Lake
from antiphon.governance.identity.principal import Principal
from antiphon.learning.datasets.reader import DatasetRow, read_rows
from antiphon.learning.evaluation import gates
from antiphon.learning.evaluation.asking import AnswerFactory, KeptAnswers, Progress, answer_each, next_id
from antiphon.learning.evaluation.judges import ScoredAnswers, with_judges
from antiphon.learning.evaluation.requests import EvaluationRequests
from antiphon.learning.evaluation.safety.placement import RIDDEN, HonestRequest
from antiphon.learning.evaluation.safety.requests import ProbeRequests
from antiphon.learning.evaluation.safety.suites import SafetySuites, SuiteResults
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.evaluation.scores import EvaluationRows, Mode, RowResult, by_user, decode_rows, summarize

_EARLIER = 20
"""The latest evaluations of a release whose answers people may have scored."""


@dataclass(frozen=True)
class ReleaseEvaluator:
    """Evaluates releases of one project.

    Attributes:
        answering: makes serving's ``answer()``.
        files: the lake, which holds the datasets' files.
        scorer: of the metrics that applications declare.
        concurrency: rows under way at once, at batch priority.
        patience: seconds a row waits for an engine that is away.
        suites: the safety suites.
        annotations: what people said of predictions, which corrects judges.
        current: tells whether an earlier evaluation of a release is of the model that is served now.
    """

    answering: AnswerFactory
    releases: Releases
    files: Lake
    evaluations: Evaluations
    texts: Blobs
    clock: Clock
    scorer: AnswerScorer
    concurrency: int = 8
    patience: float = 60.0
    suites: SafetySuites = field(default_factory=SafetySuites)
    annotations: Callable[[Scope, Sequence[str]], Sequence[Annotation]] = lambda scope, predictions: ()
    current: Callable[[Release, Evaluation], bool] = lambda release, evaluation: True

    async def evaluate(
        self,
        release: Release,
        dataset: Dataset,
        *,
        mode: Mode = "whole",
        limit: int | None = None,
        whole: int = 0,
        against: str | None = None,
        with_safety: bool = True,
        probes: int | None = None,
        id: str | None = None,
        principal: Principal | None = None,
        progress: Progress | None = None,
        known: Mapping[str, RowResult] = {},
    ) -> Evaluation:
        """Evaluates the release on the dataset and checks its gates; recorded before it is returned.

        Args:
            mode: ``classes`` asks only for the outcome's property, which costs a step or two a row; ``whole`` for the
                whole output, as is always done where an outcome is a number or a text.
            limit: rows at most. The rows of a smaller limit are among those of a larger one.
            whole: with ``classes``, so many rows are asked for the whole output all the same, so that gates on texts
                have something to measure.
            against: a release (the live one) to compare with on identical rows; it is evaluated on them first, its
                classes only, unless it was before.
            with_safety: also try the safety suites.
            probes: of each suite at most so many in a half, spread over categories and languages.
            id: under which an evaluation that was interrupted goes on, and one that is finished is returned as it is.
                Without it, an interrupted one of the same things goes on, and a finished one is made anew.
            known: results of this release by :attr:`RowResult.content`; those rows are not asked again.
            principal: on whose behalf; policy must let it ask. By default a service named ``evaluation``.

        Raises:
            InvalidInputError: the application has no outcome, or the dataset is not one for this release, or no row was
                answered.
            CorruptionError: the dataset's file is gone or damaged.
            ConflictError: the id is that of an evaluation of something else.
            UnavailableError, EngineError, OverloadedError: a part stayed away; what was answered is kept.
        """
        check_fits(release, dataset)
        scope = release.scope
        rows = await asyncio.to_thread(read_rows, dataset, self.files, limit)
        if not rows:
            raise InvalidInputError(
                f"The dataset {dataset.id} has no rows.",
                where=dataset.id,
                next_step="Build an evaluation set with rows.",
            )
        subject = {
            "release": release.id, "dataset": dataset.id, "mode": mode, "limit": limit, "whole": whole,
            "safety": with_safety, "probes": probes,
        }  # fmt: skip
        if id is None:
            id = await asyncio.to_thread(next_id, "eval", scope, subject, self.evaluations.get)
        else:
            finished = await asyncio.to_thread(self._finished, scope, id)
            if finished is not None and (finished.release, finished.dataset) == (release.id, dataset.id):
                return finished
            if finished is not None:
                raise ConflictError(
                    f"The evaluation {id!r} is of {finished.release} on {finished.dataset}.",
                    where=release.id,
                    next_step="Give each evaluation its own id.",
                )
        against = None if against == release.id else against
        baseline: Sequence[RowResult] = ()
        if against is not None:
            baseline = await self._baseline(scope, against, dataset, rows, limit, principal, progress)
        who = principal or Principal("evaluation", scope.tenant, "service", clearance="restricted")
        requests = EvaluationRequests(
            self.answering, self.texts, release, dataset, rows, who, self.patience, self.scorer
        )
        # The end of a number or a text depends on what comes after it; a label's probabilities do not.
        application = release.bundle.application
        if application.user_metrics or any(shape.form != "label" for shape in application.shapes):
            mode = "whole"
        whole_examples = whole_rows(rows, len(rows) if mode == "whole" else whole)
        kept = await asyncio.to_thread(KeptAnswers, self.evaluations, scope, id, subject)
        questions = {
            f"row:{row.example}": partial(requests.row, row, whole=row.example in whole_examples) for row in rows
        }
        answered = {
            f"row:{row.example}": found
            for row in rows
            if (found := known.get(row.content)) is not None and found.whole >= (row.example in whole_examples)
        }
        results = await answer_each(
            kept, RowResult, questions, self.concurrency, progress, "answering rows", known=answered
        )
        tried = SuiteResults()
        if with_safety:
            sender = ProbeRequests(self.answering, requests.reader, self.texts, release, who, self.patience)
            few = sorted(rows, key=lambda row: content_hash(["attack", row.example]))[:RIDDEN]
            honest = [HonestRequest(row.example, row.entity, row.moment, row.features, row.question) for row in few]
            tried = await self.suites.run(
                release, sender, honest, kept, concurrency=self.concurrency, most=probes, progress=progress
            )
        return await asyncio.to_thread(
            self._record, id, release, dataset, mode, rows, results, tried, against, baseline
        )

    def rows_of(self, evaluation: Evaluation) -> EvaluationRows:
        """An evaluation's rows; raises ``NotFoundError`` once they were erased."""
        return decode_rows(self.texts.get(evaluation.scope, evaluation.rows_blob))

    async def _baseline(
        self, scope: Scope, against: str, dataset: Dataset, rows: Sequence[DatasetRow], limit: int | None,
        principal: Principal | None, progress: Progress | None,
    ) -> Sequence[RowResult]:  # fmt: skip
        """The rows of the release that is compared with; none when it cannot be asked about this dataset."""
        release = await asyncio.to_thread(self.releases.get, scope, against)
        try:
            check_fits(release, dataset)
        except InvalidInputError:
            return ()  # it reads other definition versions: the gate that compares fails, and says so
        known = await asyncio.to_thread(self._answered_rows, release, dataset)
        if {row.content for row in rows} <= known.keys():
            return [known[row.content] for row in rows]
        made = await self.evaluate(
            release, dataset, mode="classes", limit=limit, with_safety=False, principal=principal,
            progress=None if progress is None else _named(progress, "the live release"), known=known,
        )  # fmt: skip
        return (await asyncio.to_thread(self.rows_of, made)).rows

    def _answered_rows(self, release: Release, dataset: Dataset) -> dict[str, RowResult]:
        """Rows that a release answered in its latest evaluations, by content, whole answers first: on any dataset, or
        on this one alone where the prompt has what no row does. What failed may have mended: it is asked again."""
        application, found = release.bundle.application, dict[str, RowResult]()
        alone = bool(application.retrievals or application.tools)
        for evaluation in reversed(self.evaluations.list(release.scope, release=release.id, limit=_EARLIER)):
            if not self.current(release, evaluation) or (alone and evaluation.dataset != dataset.id):
                continue
            with suppress(NotFoundError):  # erased: asked again
                for row in self.rows_of(evaluation).rows:
                    if row.error is not None or row.own_failed:
                        continue
                    if row.whole >= (row.content in found and found[row.content].whole):
                        found[row.content] = row
        return found

    def _record(
        self, id: str, release: Release, dataset: Dataset, mode: Mode, rows: Sequence[DatasetRow],
        results: Sequence[RowResult], tried: SuiteResults, against: str | None, baseline: Sequence[RowResult],
    ) -> Evaluation:  # fmt: skip
        application = release.bundle.application
        results, baseline = by_user(rows, results), by_user(rows, baseline)
        content = msgspec.json.encode(
            EvaluationRows(tuple(results), tuple(msgspec.to_builtins(one) for one in tried.probes))
        )
        blob = self.texts.put(release.scope, content)
        evaluation = summarize(
            id=id,
            release=release,
            dataset=dataset.id,
            mode=mode,
            rows=rows,
            results=results,
            against=against,
            baseline=baseline,
            safety=tried.summaries,
            rows_blob=blob,
            created_at=self.clock.now(),
        )
        if application.judge_metrics:
            ours = self._scored_answers(release, results)
            live = None if against is None else self.releases.get(release.scope, against)
            evaluation = with_judges(evaluation, ours, None if live is None else self._scored_answers(live, baseline))
        evaluation = msgspec.structs.replace(evaluation, gates=gates.check(evaluation, application))
        return self.evaluations.add(evaluation)

    def _scored_answers(self, release: Release, rows: Sequence[RowResult]) -> ScoredAnswers:
        """Rows of a release with what people said of its answers in this evaluation and in earlier ones."""
        earlier: list[RowResult] = []
        for evaluation in self.evaluations.list(release.scope, release=release.id, limit=_EARLIER):
            with suppress(NotFoundError):  # erased
                earlier += self.rows_of(evaluation).rows
        return ScoredAnswers.of(release, rows, earlier, self.annotations)

    def _finished(self, scope: Scope, id: str) -> Evaluation | None:
        try:
            return self.evaluations.get(scope, id)
        except NotFoundError:
            return None


def check_fits(release: Release, dataset: Dataset) -> None:
    """Raises ``InvalidInputError`` unless the application has an outcome and the dataset was built for it, its entity
    and its definition versions."""
    application, spec = release.bundle.application, dataset.spec
    outcome = application.outcome
    if outcome is None:
        raise InvalidInputError(
            f"The application {application.name} declares no outcome, so nothing says what is true.",
            where=f"application {application.name}",
            next_step="Declare outcome=Outcome(…) in definitions.py and apply it, or try what needs none: "
            "`antiphon evaluations safety RELEASE`.",
        )
    wrong = [
        f"{name} {theirs!r} instead of {ours!r}"
        for name, ours, theirs in (
            ("application", application.name, spec.application),
            ("outcome", outcome.property, spec.property),
            ("positive label", outcome.positive, spec.positive),
            ("outcomes", _said(application.shapes), _said(spec.outcomes or application.shapes)),
            ("entity keys", sorted(application.entity_keys), sorted(spec.entity_keys)),
        )
        if ours != theirs
    ]
    wrong += [
        f"the view {view!r} in version {spec.views.get(view, '(none)')} instead of {version}"
        for view, version in application.features.items()
        if spec.views.get(view) != version
    ]
    if wrong:
        raise InvalidInputError(
            f"The dataset {dataset.id} was built for something else: {'; '.join(wrong)}.",
            where=dataset.id,
            next_step=f"Build one for this release: `antiphon datasets build {application.name} --kind evaluation`.",
        )


def _said(shapes: Sequence[OutcomeShape]) -> str:
    return ", ".join(f"{shape.name} ({shape.form})" for shape in shapes)


def whole_rows(rows: Sequence[DatasetRow], count: int) -> frozenset[str]:
    """The examples that are asked for the whole output: by a hash, so that fewer are a part of more."""
    ordered = sorted((row.example for row in rows), key=lambda example: content_hash(["whole", example]))
    return frozenset(ordered[:count])


def _named(progress: Progress, whose: str) -> Progress:
    return lambda done, total, note: progress(done, total, f"{note} of {whose}")
