"""Sends one release's rows to serving's ``answer()``, as requests in the role ``evaluation``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import AntiphonError, InvalidOutputError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.governance.identity.principal import Principal
from antiphon.learning.datasets.reader import DatasetFeatureReader, DatasetRow
from antiphon.learning.evaluation.asking import (
    TRANSIENT_ERRORS,
    AnswerFactory,
    EvaluatedReleases,
    ask_patiently,
    first_attempt,
)
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.evaluation.scores import RowOutcome, RowResult, answered
from antiphon.serving.answering.probabilities import outcome_probabilities, said_of
from antiphon.serving.history import continuing
from antiphon.serving.recorded import RecordedRequest
from antiphon.serving.request import Answer, AnswerRequest


class EvaluationRequests:
    """Sends one release's rows to serving's ``answer()``; ``reader`` reads their features.

    Args:
        recorded: by example, the request that a row is of, where more belongs to it than the row has: earlier turns of
            its conversation, and inputs.
    """

    def __init__(
        self, answering: AnswerFactory, texts: Blobs, release: Release, dataset: Dataset, rows: Sequence[DatasetRow],
        recorded: Mapping[str, RecordedRequest], principal: Principal, patience: float, scorer: AnswerScorer,
    ) -> None:  # fmt: skip
        self._release = release
        self.application = release.bundle.application
        self._principal = principal
        self._patience = patience
        self._texts = texts
        self._scorer = scorer
        self._recorded = recorded
        self.reader = DatasetFeatureReader(dataset, rows)
        self._answer = answering(self.reader, EvaluatedReleases(release), False)

    async def row(self, row: DatasetRow, *, whole: bool) -> RowResult:
        """Asks about one row. An error that is not transient is the row's result, by its code."""
        return msgspec.structs.replace(await self._row(row, whole=whole), content=row.content)

    async def _row(self, row: DatasetRow, *, whole: bool) -> RowResult:
        shape = self.application.shape
        assert shape is not None  # check_fits
        recorded = self._recorded.get(row.example)
        request = AnswerRequest(
            scope=self._release.scope,
            principal=self._principal,
            application=self.application.name,
            entity=row.entity,
            question=row.question,
            inputs={} if recorded is None else recorded.inputs,
            history=continuing(recorded.turns) if recorded is not None and recorded.turns else None,
            as_of=row.moment,
            path="batch",
            release=self._release.id,
            role="evaluation",
            only=() if whole or shape.property is None else (shape.property,),
        )
        try:
            answer = await ask_patiently(request, self._answer, self._patience)
        except InvalidOutputError as error:
            valid = False if whole else None
            return RowResult(row.example, row.label, error=error.code, whole=whole, valid=valid, reason=error.what)
        except TRANSIENT_ERRORS:
            raise
        except AntiphonError as error:
            return RowResult(row.example, row.label, error=error.code, whole=whole, reason=error.what)
        first = await first_attempt(answer, self._texts) if whole else ""
        result = answered(
            row, answer.receipt, self._results(row, answer, whole=whole), answer.text, first, self.application,
            whole=whole,
        )  # fmt: skip
        if not whole or not self.application.user_metrics:
            return result
        scores = await self._scorer.score(
            self._release, answer.receipt, answer.text, entity=row.entity, question=row.question or "",
            outcomes=outcomes_of(self.application, row), earlier=() if recorded is None else recorded.turns,
        )  # fmt: skip
        return msgspec.structs.replace(result, own=scores.values, own_failed=scores.failed)

    def _results(self, row: DatasetRow, answer: Answer, *, whole: bool) -> dict[str, RowOutcome]:
        """The answer beside each outcome that is known; beside the first alone where it was asked no further."""
        first, *others = self.application.shapes
        found = {first.name: result_of(first, row.label, answer.receipt, answer.text)}
        for shape in others if whole else ():
            if shape.name in row.further:
                found[shape.name] = result_of(shape, row.further[shape.name], answer.receipt, answer.text)
        return found


def outcomes_of(application: ApplicationSpec, row: DatasetRow) -> dict[str, str]:
    """The outcomes of a row that are known, by name."""
    return {application.shapes[0].name: row.label, **row.further}


def result_of(shape: OutcomeShape, truth: str, receipt: Receipt, text: str) -> RowOutcome:
    """An answer beside what came true of one outcome."""
    if shape.form == "label":
        return RowOutcome(truth, outcome_probabilities(shape, receipt.classes, text))
    return RowOutcome(truth, said=said_of(shape, text))
