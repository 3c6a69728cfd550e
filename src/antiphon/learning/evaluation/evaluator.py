"""Evaluates what will be served: every row through serving's ``answer()``, scored against its label.

Invariants: no row is answered in any other way than a request is; a row that was answered is not asked again after a
crash; an evaluation exists only as a whole, and says nothing about a release's stage (``gates.Validation`` does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import msgspec

from antiphon.catalog.learning.annotations import Annotation
from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.learning.evaluations import LEFT_OUT, Evaluation, Evaluations, SampledAnswers
from antiphon.catalog.releases.releases import Release, Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import Conversations
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import Clock
from antiphon.core.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.learning import SAMPLED
from antiphon.features.lake.content import Lake
from antiphon.governance.identity.principal import Principal
from antiphon.learning.datasets.reader import DatasetRow, check_fits, drawing_order, read_rows
from antiphon.learning.evaluation import gates
from antiphon.learning.evaluation.asking import AnswerFactory, KeptAnswers, Progress, answer_each, next_id
from antiphon.learning.evaluation.judges import ScoredAnswers, with_judges
from antiphon.learning.evaluation.leaks import row_identities, seen_rows
from antiphon.learning.evaluation.requests import EvaluationRequests, outcomes_of
from antiphon.learning.evaluation.safety.honest import LiveAnswer, ask_honestly, measured
from antiphon.learning.evaluation.safety.placement import RIDDEN, HonestRequest
from antiphon.learning.evaluation.safety.requests import ProbeRequests
from antiphon.learning.evaluation.safety.scoring import GivenAnswer
from antiphon.learning.evaluation.safety.suites import SafetySuites, SuiteResults
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.evaluation.scores import EvaluationRows, Mode, RowResult, by_user, decode_rows, summarize
from antiphon.serving.recorded import RecordedRequest, recorded_request

SampledRequests = tuple[Sequence[HonestRequest], Mapping[str, LiveAnswer]]
"""Honest requests, and answers of the live release by a request's example."""

_EARLIER = 20
"""The latest evaluations of a release whose answers people may have scored."""


@dataclass(frozen=True)
class ReleaseEvaluator:
    """Evaluates releases of one project.

    Attributes:
        answering: makes serving's ``answer()``.
        files: the lake, which holds the datasets' files.
        receipts, conversations: of rows that were requests, and of the live release's answers.
        scorer: of the metrics that applications declare.
        concurrency: rows under way at once, at batch priority.
        patience: seconds a row waits for an engine that is away.
        suites: the safety suites.
        annotations: what people said of predictions, which corrects judges.
        current: tells whether an earlier evaluation of a release is of the model that is served now.
        trained_on: the datasets that a release's model was trained on.
        sampled: the latest requests of users to a release's application, and what the live release, if there is one,
            answered to them; without it, and where there are none yet, rows of the dataset stand for them.
    """

    answering: AnswerFactory
    releases: Releases
    files: Lake
    receipts: Receipts
    conversations: Conversations
    evaluations: Evaluations
    texts: Blobs
    clock: Clock
    scorer: AnswerScorer
    concurrency: int = 8
    patience: float = 60.0
    suites: SafetySuites = field(default_factory=SafetySuites)
    annotations: Callable[[Scope, Sequence[str]], Sequence[Annotation]] = lambda scope, predictions: ()
    current: Callable[[Release, Evaluation], bool] = lambda release, evaluation: True
    trained_on: Callable[[Release], Sequence[Dataset]] = lambda release: ()
    sampled: Callable[[Release, Release | None], SampledRequests] = lambda release, live: ((), {})

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
        with_seen: bool = False,
        among: Collection[str] | None = None,
    ) -> Evaluation:
        """Evaluates the release on the dataset and checks its gates; recorded before it is returned.

        Args:
            mode: ``classes`` asks only for the outcome's property, which costs a step or two a row; ``whole`` for the
                whole output, as is always done where an outcome is a number or a text.
            limit: rows at most, of those that the release has not seen. The rows of a smaller limit are among those of
                a larger one.
            whole: with ``classes``, so many rows are asked for the whole output all the same, so that gates on texts
                have something to measure.
            against: a release (the live one) to compare with on identical rows; it is evaluated on them first, its
                classes only, unless it was before.
            with_safety: also try the safety suites, and ask the sampled requests.
            probes: of each suite at most so many in a half, spread over categories and languages.
            id: under which an evaluation that was interrupted goes on, and one that is finished is returned as it is.
                Without it, an interrupted one of the same things goes on, and a finished one is made anew.
            known: results of this release by :attr:`RowResult.content`; those rows are not asked again.
            with_seen: also ask about rows that the release has seen, in training or in its prompt's examples; they are
                left out of every measure otherwise.
            among: examples of the rows that may be asked about; all of them by default.
            principal: on whose behalf; policy must let it ask. By default a service named ``evaluation``.

        Raises:
            InvalidInputError: the application has no outcome, or the dataset is not one for this release, or no row was
                answered.
            CorruptionError: the dataset's file is gone or damaged.
            ConflictError: the id is that of an evaluation of something else.
            UnavailableError, EngineError, OverloadedError: a part stayed away; what was answered is kept.
        """
        check_fits(release, dataset)
        scope, application = release.scope, release.bundle.application
        if limit is not None and limit < 1:
            raise InvalidInputError(
                f"{limit} rows cannot be evaluated.", where="rows", next_step="Ask for at least one."
            )
        every = await asyncio.to_thread(read_rows, dataset, self.files)
        if not every:
            raise InvalidInputError(
                f"The dataset {dataset.id} has no rows.",
                where=dataset.id,
                next_step="Build an evaluation set with rows.",
            )
        subject = {
            "release": release.id, "dataset": dataset.id, "mode": mode, "limit": limit, "whole": whole,
            "safety": with_safety, "probes": probes, **({} if among is None else {"among": sorted(among)}),
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
        chosen = every if among is None else [row for row in every if row.example in among]
        rows, recorded, left_out = await asyncio.to_thread(
            partial(self._askable, release, chosen, limit, with_seen=with_seen)
        )
        if not rows:
            raise InvalidInputError(
                f"No row of the dataset {dataset.id} can be asked: they "
                f"{', or '.join(LEFT_OUT[one] for one in sorted(set(left_out.values())))}.",
                where=dataset.id,
                next_step="Build an evaluation set of later moments.",
            )
        kept = await asyncio.to_thread(KeptAnswers, self.evaluations, scope, id, subject)
        live: Release | None = None
        baseline: Sequence[RowResult] = ()
        if against is not None and against != release.id:
            live = await asyncio.to_thread(self.releases.get, scope, against)
            baseline = await self._baseline(release, live, dataset, rows, recorded, kept, principal, progress)
        who = principal or Principal("evaluation", scope.tenant, "service", clearance="restricted")
        requests = EvaluationRequests(
            self.answering, self.texts, release, dataset, rows, recorded, who, self.patience, self.scorer
        )
        # The end of a number or a text depends on what comes after it; a label's probabilities do not.
        if application.user_metrics or any(shape.form != "label" for shape in application.shapes):
            mode = "whole"
        whole_examples = whole_rows(rows, len(rows) if mode == "whole" else whole)
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
        tried, sampled = SuiteResults(), None
        if with_safety:
            sender = ProbeRequests(self.answering, requests.reader, self.texts, release, who, self.patience)
            few = sorted(rows, key=lambda row: content_hash(["attack", row.example]))[:RIDDEN]
            honest = [_honest(row, recorded.get(row.example)) for row in few]
            tried = await self.suites.run(
                release, sender, honest, kept, concurrency=self.concurrency, most=probes, progress=progress
            )
            users, before = await asyncio.to_thread(self.sampled, release, live)
            some = users or [
                _honest(row, recorded.get(row.example)) for row in rows[: application.gates.sampled or SAMPLED]
            ]
            sampled = measured(some, await ask_honestly(sender, some, kept, progress), before)
        return await asyncio.to_thread(
            self._record, id, release, dataset, mode, rows, results, tried, live, baseline, left_out, sampled
        )

    def rows_of(self, evaluation: Evaluation) -> EvaluationRows:
        """An evaluation's rows; raises ``NotFoundError`` once they were erased."""
        return decode_rows(self.texts.get(evaluation.scope, evaluation.rows_blob))

    def _askable(
        self, release: Release, rows: Sequence[DatasetRow], limit: int | None, *, with_seen: bool
    ) -> tuple[tuple[DatasetRow, ...], dict[str, RecordedRequest], dict[str, str]]:
        """The rows that are asked, so many of them where there are as many; by example the requests of those to which
        more belongs than they have, and why others are passed over."""
        application = release.bundle.application
        # Rows have the values of on-demand features, but not the inputs that a retrieval may look for.
        recorded = bool(application.conversation or (application.on_demand and application.retrievals))
        seen = {} if with_seen else self._seen(release, rows)
        chosen, requests, left_out = set[str](), dict[str, RecordedRequest](), dict[str, str]()
        for row in drawing_order(rows):
            if limit is not None and len(chosen) == limit:
                break
            if row.example in seen:
                left_out[row.example] = seen[row.example]
                continue
            if recorded and row.prediction is not None:
                try:
                    receipt = self.receipts.get(release.scope, row.prediction)
                    requests[row.example] = recorded_request(receipt, self.texts, self.conversations)
                except NotFoundError:
                    left_out[row.example] = "request-gone"
                    continue
            chosen.add(row.example)
        return tuple(row for row in rows if row.example in chosen), requests, left_out

    def _seen(self, release: Release, rows: Sequence[DatasetRow]) -> dict[str, str]:
        """By example why a row was seen by the release."""
        application, trained = release.bundle.application, set[str]()
        for dataset in self.trained_on(release):
            with suppress(CorruptionError):  # Its file is gone: validation compares moments.
                trained |= row_identities(application, read_rows(dataset, self.files))
        return seen_rows(application, rows, trained)

    async def _baseline(
        self, release: Release, live: Release, dataset: Dataset, rows: Sequence[DatasetRow],
        recorded: Mapping[str, RecordedRequest], kept: KeptAnswers, principal: Principal | None,
        progress: Progress | None,
    ) -> Sequence[RowResult]:  # fmt: skip
        """The live release's answers to the rows, with values of the metrics that the other release declares; none
        when it cannot be asked about this dataset."""
        try:
            check_fits(live, dataset)
        except InvalidInputError:
            return ()  # it reads other definition versions: the gate that compares fails, and says so
        progress = None if progress is None else _named(progress, "the live release")
        seen = await asyncio.to_thread(self._seen, live, rows)
        rows = [row for row in rows if row.example not in seen]
        scoring = bool(release.bundle.application.user_metrics)
        known = await asyncio.to_thread(self._answered_rows, live, dataset, {row.content for row in rows})
        given: dict[str, GivenAnswer] = {}
        if scoring:
            given = await asyncio.to_thread(self._given, live.scope, known.values())
            known = {content: row for content, row in known.items() if row.example in given}
        if {row.content for row in rows} <= known.keys():
            found: Sequence[RowResult] = [known[row.content] for row in rows]
        else:
            made = await self.evaluate(
                live, dataset, mode="whole" if scoring else "classes", with_safety=False, principal=principal,
                progress=progress, among={row.example for row in rows},
                # What failed may have mended: it is asked again.
                known={content: row for content, row in known.items() if not row.own_failed},
            )  # fmt: skip
            found = (await asyncio.to_thread(self.rows_of, made)).rows
            if scoring:
                given = await asyncio.to_thread(self._given, live.scope, found)
        if not scoring:
            return found
        by_example = {row.example: row for row in rows}
        pieces = {
            f"live:{live.id}:{row.example}:{row.prediction}": partial(
                self.scorer.score_again, release, live, row, given[row.example].receipt, given[row.example].text,
                entity=by_example[row.example].entity, question=by_example[row.example].question or "",
                outcomes=outcomes_of(release.bundle.application, by_example[row.example]),
                earlier=recorded[row.example].turns if row.example in recorded else (),
            )
            for row in found
            if row.example in given and row.example in by_example
        }  # fmt: skip
        return await answer_each(kept, RowResult, pieces, self.concurrency, progress, "scoring answers")

    def _given(self, scope: Scope, rows: Iterable[RowResult]) -> dict[str, GivenAnswer]:
        """Whole answers of rows by example, where they were not erased."""
        found: dict[str, GivenAnswer] = {}
        for row in rows:
            if row.whole and row.prediction is not None:
                with suppress(NotFoundError):
                    receipt = self.receipts.get(scope, row.prediction)
                    found[row.example] = GivenAnswer(receipt, self.texts.get(scope, receipt.text_blob).decode())
        return found

    def _answered_rows(self, release: Release, dataset: Dataset, contents: Collection[str]) -> dict[str, RowResult]:
        """Rows that a release answered in its latest evaluations, by content, whole answers first: on any dataset, or
        on this one alone where the prompt has what no row does."""
        application, found = release.bundle.application, dict[str, RowResult]()
        alone = bool(application.retrievals or application.tools)
        for evaluation in reversed(self.evaluations.list(release.scope, release=release.id, limit=_EARLIER)):
            if not self.current(release, evaluation) or (alone and evaluation.dataset != dataset.id):
                continue
            with suppress(NotFoundError):  # erased: asked again
                for row in self.rows_of(evaluation).rows:
                    if row.error is not None or row.content not in contents:
                        continue
                    if row.whole >= (row.content in found and found[row.content].whole):
                        found[row.content] = row
        return found

    def _record(
        self, id: str, release: Release, dataset: Dataset, mode: Mode, rows: Sequence[DatasetRow],
        results: Sequence[RowResult], tried: SuiteResults, live: Release | None, baseline: Sequence[RowResult],
        left_out: Mapping[str, str], sampled: SampledAnswers | None,
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
            left_out=left_out,
            sampled=sampled,
            against=None if live is None else live.id,
            baseline=baseline,
            safety=tried.summaries,
            rows_blob=blob,
            created_at=self.clock.now(),
        )
        if application.judge_metrics:
            ours = self._scored_answers(release, results)
            theirs = None if live is None else self._scored_answers(live, baseline)
            evaluation = with_judges(evaluation, application.judge_metrics, ours, theirs)
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


def whole_rows(rows: Sequence[DatasetRow], count: int) -> frozenset[str]:
    """The examples that are asked for the whole output: by a hash, so that fewer are a part of more."""
    ordered = sorted((row.example for row in rows), key=lambda example: content_hash(["whole", example]))
    return frozenset(ordered[:count])


def _honest(row: DatasetRow, recorded: RecordedRequest | None) -> HonestRequest:
    """A row as a request on which probes ride."""
    inputs, turns = ({}, ()) if recorded is None else (recorded.inputs, recorded.turns)
    return HonestRequest(row.example, row.entity, row.moment, row.features, row.question, inputs, earlier=turns)


def _named(progress: Progress, whose: str) -> Progress:
    return lambda done, total, note: progress(done, total, f"{note} of {whose}")
