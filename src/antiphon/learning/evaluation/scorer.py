"""Scores answers by the metrics that their application declares: functions, shipped ones, and judge models.

Invariant: what a function raises, and what is no number within the metric's bounds, is a reason and no value.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any

import msgspec

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import ConversationTurn
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import NotFoundError
from antiphon.definitions.degradation import MAIN, Target
from antiphon.definitions.outcome_shape import number_of
from antiphon.definitions.own_metrics import JudgeMetric, OwnMetric
from antiphon.definitions.shipped_metrics import is_shipped
from antiphon.features.embedding.vectors import Embedders
from antiphon.learning.evaluation.judges import JudgeScores, judge_of
from antiphon.learning.evaluation.scores import RowResult
from antiphon.learning.evaluation.shipped_metrics import score_of
from antiphon.serving.answering.guards.outputs import parsed
from antiphon.serving.answering.retrieval import of_blob
from antiphon.serving.fallback.engines import Engines
from antiphon.serving.user_functions import UserFunctions

SECONDS = 1.0
"""A function of the user's may take on one row."""

_SHIPPED_SECONDS = 60.0
"""A shipped one may: the first call opens its embedding model."""


class AnswerScores(msgspec.Struct, frozen=True):
    """The values of one answer by the name of the metric, and of those that have none the reason."""

    values: dict[str, float] = {}
    failed: dict[str, str] = {}


@dataclass(frozen=True)
class AnswerScorer:
    """Scores answers by what an application declares.

    Attributes:
        texts: where receipts keep theirs.
        embedders: for the shipped metrics that compare vectors.
        functions: calls the user's own.
        engines: judge models answer from these; without them metrics of judges have no value.
    """

    texts: Blobs
    _: KW_ONLY
    embedders: Embedders
    functions: UserFunctions = field(default_factory=UserFunctions)
    engines: Engines | None = None

    async def score(
        self, release: Release, receipt: Receipt, text: str, *, entity: Mapping[str, str], question: str,
        outcomes: Mapping[str, str], earlier: Sequence[ConversationTurn] = (), judged: Mapping[str, float] = {},
        metrics: Sequence[OwnMetric] | None = None,
    ) -> AnswerScores:  # fmt: skip
        """The values of an answer by the metrics of a release's application, whichever release gave it.

        Args:
            outcomes: that are known, by name.
            earlier: turns of its conversation.
            judged: scores of its judges that are known; those are not asked again.
            metrics: functions among the application's; all of them by default.
        """
        application, values, failed = release.bundle.application, dict[str, float](), dict[str, str]()
        # A text where it is not what the schema asks for, as that of another release may be.
        output = text if application.schema is None or (read := parsed(text)) is None else read
        functions = application.own_metrics or () if metrics is None else metrics
        if functions:
            try:
                documents = await asyncio.to_thread(self._documents, receipt)
            except NotFoundError:
                failed = {metric.name: "a text of its request was erased" for metric in functions}
            else:
                request = {
                    "entity": entity,
                    "question": question,
                    "features": {feature.name: feature.printed for feature in receipt.features},
                    "documents": documents,
                    "earlier": [{"question": turn.question, "answer": turn.answer} for turn in earlier],
                }
                for metric in functions:
                    value = await self._value(metric, request, output, outcomes)
                    if isinstance(value, str):
                        failed[metric.name] = value
                    else:
                        values[metric.name] = value
        if application.judge_metrics and self.engines is not None:
            judges = JudgeScores(self.engines, application.judge_metrics, _answering(release), release.scope)
            judged, unjudged = await judges.score(question, output, judged)
            values, failed = values | judged, failed | unjudged
        return AnswerScores(values, failed)

    async def judge(self, release: Release, metric: JudgeMetric, question: str, text: str) -> float | None:
        """A judge's score of a text, from 1 to 5; ``None`` where it gives none, or no engine judges here."""
        if self.engines is None:
            return None
        output = text if release.bundle.application.schema is None or (read := parsed(text)) is None else read
        judges = JudgeScores(self.engines, (metric,), _answering(release), release.scope)
        scores, _ = await judges.score(question, output)
        return scores.get(metric.name)

    async def score_again(
        self, release: Release, live: Release, row: RowResult, receipt: Receipt, text: str, *,
        entity: Mapping[str, str], question: str, outcomes: Mapping[str, str],
        earlier: Sequence[ConversationTurn] = (),
    ) -> RowResult:  # fmt: skip
        """A row of the live release with its values by the metrics of another release's application.

        Functions are called as the project's code is now; a judge is not asked again where it scored the row by the
        same metric.
        """
        before = live.bundle.application.judge_metrics or ()
        judged = {
            metric.name: row.own[metric.name]
            for metric in release.bundle.application.judge_metrics or ()
            if metric in before
            and metric.name in row.own
            and judge_of(metric, _answering(release)) == judge_of(metric, _answering(live))
        }
        scores = await self.score(
            release, receipt, text, entity=entity, question=question, outcomes=outcomes, earlier=earlier,
            judged=judged,
        )  # fmt: skip
        return msgspec.structs.replace(row, own=scores.values, own_failed=scores.failed)

    async def _value(
        self, metric: OwnMetric, request: Mapping[str, Any], output: object, outcomes: Mapping[str, str]
    ) -> float | str:
        """The value of a function, or the reason why it has none."""
        seconds = _SHIPPED_SECONDS if is_shipped(metric) else SECONDS
        try:
            if is_shipped(metric):
                scored = partial(score_of(metric, self.embedders), request, output, outcomes)
                value: object = await self.functions.run(scored, seconds)
            else:
                value = await self.functions.call(metric.function, (request, output, outcomes), seconds)
        except TimeoutError:
            return f"did not answer within {seconds:g} s"
        except Exception as error:
            self.functions.log_raised(metric.function, error, f"the metric {metric.name} has no value")
            return f"raised {type(error).__name__}: {error}"[:200]
        number = None if isinstance(value, str) else number_of(value)
        if number is None or not metric.low <= number <= metric.high:
            return f"returned {value!r:.60}, no number from {metric.low:g} to {metric.high:g}"
        return number

    def _documents(self, receipt: Receipt) -> tuple[str, ...]:
        """The texts of the chunks that were retrieved, and of what tools gave back."""
        blob, scope = receipt.retrieved_blob, receipt.scope
        found = of_blob(None if blob is None else self.texts.get(scope, blob))
        chunks = (f"{chunk['title']} {chunk['text']}" for each in found.values() for chunk in each)
        return (*chunks, *(self.texts.get(scope, call.result_blob).decode() for call in receipt.tools))


def _answering(release: Release) -> Target:
    return Target(MAIN, release.bundle.model.name)
