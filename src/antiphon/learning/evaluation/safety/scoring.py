"""Scores answers to honest requests by the metrics of an application without an outcome, beside its live release's.

Invariant: the live release is asked the same requests at the same moment, by the same metrics, so that what differs is
the release.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from antiphon.catalog.learning.evaluations import IntervalEstimate
from antiphon.catalog.learning.safety import SafetyReport
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import AntiphonError
from antiphon.core.ids import content_hash
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.own_metrics import OwnMetric
from antiphon.learning.evaluation.asking import TRANSIENT_ERRORS, KeptAnswers, Progress, answer_each
from antiphon.learning.evaluation.intervals import mean_of_few
from antiphon.learning.evaluation.safety.placement import HonestRequest
from antiphon.learning.evaluation.safety.requests import ProbeRequests
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.evaluation.scores import EvaluationRows, RowResult, own_differences, own_means, units_of


class GivenAnswer(msgspec.Struct, frozen=True):
    """An answer that was given, with its receipt."""

    receipt: Receipt
    text: str


@dataclass(frozen=True)
class RequestScores:
    """Scores the answers of one release and asks the live one the same.

    Attributes:
        release: whose application declares the metrics. live: asks the live release, if there is one.
    """

    scorer: AnswerScorer
    release: Release
    live: ProbeRequests | None
    kept: KeptAnswers
    concurrency: int
    progress: Progress | None

    async def measure(
        self, answers: Sequence[tuple[HonestRequest, GivenAnswer]], rows: EvaluationRows
    ) -> EvaluationRows:
        """These rows with those of the answers, and of the live release's answers to the same requests.

        Raises:
            UnavailableError, EngineError, OverloadedError: a part stayed away; what was answered is kept.
        """
        ours = {f"scored:{one.example}": partial(self._scored, one, given) for one, given in answers}
        found = await answer_each(self.kept, RowResult, ours, self.concurrency, self.progress, "scoring answers")
        beside: list[RowResult] = []
        if self.live is not None:
            theirs = {f"live:{one.example}": partial(self._of_live, self.live, one) for one, _ in answers}
            note = "asking the live release"
            beside = await answer_each(self.kept, RowResult, theirs, self.concurrency, self.progress, note)
        return msgspec.structs.replace(rows, rows=tuple(found), live=tuple(beside))

    async def _of_live(self, live: ProbeRequests, request: HonestRequest) -> RowResult:
        try:
            answer, _ = await live.measured(request)
        except TRANSIENT_ERRORS:
            raise
        except AntiphonError as error:
            return RowResult(_example(request), "", error=error.code, reason=error.what)
        return await self._scored(request, GivenAnswer(answer.receipt, answer.text))

    async def _scored(self, request: HonestRequest, answer: GivenAnswer) -> RowResult:
        scores = await self.scorer.score(
            self.release, answer.receipt, answer.text, entity=request.entity, question=request.question or "",
            outcomes={}, earlier=request.earlier,
        )  # fmt: skip
        return RowResult(
            _example(request),
            "",
            prediction=answer.receipt.prediction,
            whole=True,
            text=answer.receipt.text_blob,
            own=scores.values,
            own_failed=scores.failed,
            user=request.user,
        )


def with_means(
    report: SafetyReport, application: ApplicationSpec, rows: EvaluationRows, live: Release | None
) -> SafetyReport:
    """A report with the means of the metrics that functions give, and their differences from the live release's."""
    return msgspec.structs.replace(
        report,
        metrics=own_means(application, rows.rows, _of_few),
        difference=own_differences(application, rows.rows, rows.live, _of_few),
        own_failures=dict(sorted(Counter(name for row in rows.rows for name in row.own_failed).items())),
        against=None if live is None else live.id,
        units=units_of(application),
    )


def _of_few(metric: OwnMetric, values: Sequence[float], clusters: Sequence[str]) -> IntervalEstimate:
    return mean_of_few(values, metric.span, clusters)


def _example(request: HonestRequest) -> str:
    """The same for the same request whenever it is asked, so that what people said of an answer stands."""
    earlier = [turn.prediction for turn in request.earlier]
    return content_hash([request.entity, request.question, request.inputs, earlier])[:26]
