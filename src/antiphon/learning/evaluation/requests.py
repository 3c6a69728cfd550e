"""Sends one release's rows to serving's ``answer()``, as requests in the role ``evaluation``."""

from __future__ import annotations

from collections.abc import Sequence

from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.errors import AntiphonError, InvalidOutputError
from antiphon.governance.identity.principal import Principal
from antiphon.learning.datasets.reader import DatasetFeatureReader, DatasetRow
from antiphon.learning.evaluation.asking import (
    TRANSIENT_ERRORS,
    AnswerFactory,
    EvaluatedReleases,
    ask_patiently,
    first_attempt,
)
from antiphon.learning.evaluation.scores import RowResult, answered
from antiphon.serving.answering.probabilities import outcome_probabilities
from antiphon.serving.request import AnswerRequest


class EvaluationRequests:
    """Sends one release's rows to serving's ``answer()``; ``reader`` reads their features."""

    def __init__(
        self, answering: AnswerFactory, texts: Blobs, release: Release, dataset: Dataset, rows: Sequence[DatasetRow],
        principal: Principal, patience: float,
    ) -> None:  # fmt: skip
        self._release = release
        self.application = release.bundle.application
        self._principal = principal
        self._patience = patience
        self._texts = texts
        self.reader = DatasetFeatureReader(dataset, rows)
        self._answer = answering(self.reader, EvaluatedReleases(release), False)

    async def row(self, row: DatasetRow, *, whole: bool) -> RowResult:
        """Asks about one row. An error that is not transient is the row's result, by its code."""
        outcome = self.application.outcome
        assert outcome is not None  # check_fits
        request = AnswerRequest(
            scope=self._release.scope,
            principal=self._principal,
            application=self.application.name,
            entity=row.entity,
            as_of=row.moment,
            path="batch",
            release=self._release.id,
            role="evaluation",
            only=() if whole else (outcome.property,),
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
        said = outcome_probabilities(self.application, answer.receipt.classes, answer.text)
        return answered(row, answer.receipt, said, answer.text, first, self.application, whole=whole)
