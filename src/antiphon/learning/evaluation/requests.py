"""Sends one release's rows and attack probes to serving's ``answer()``, as requests in the role ``evaluation``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.errors import (
    AntiphonError,
    EngineError,
    InvalidOutputError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.learning.datasets.reader import DatasetFeatureReader, DatasetRow
from antiphon.learning.evaluation import attacks
from antiphon.learning.evaluation.attacks import AttackResponse
from antiphon.learning.evaluation.scores import RowResult, answered, meets
from antiphon.serving.answering.probabilities import outcome_probabilities
from antiphon.serving.ports import EntityReader
from antiphon.serving.request import Answer, AnswerRequest

TRANSIENT_ERRORS = (UnavailableError, EngineError, OverloadedError)
"""Errors that pass by themselves and are waited for."""


class EvaluatedReleases:
    """Implements serving's ``ReleaseAssignment`` with the releases that are being evaluated; nothing is live in it."""

    def __init__(self, *releases: Release) -> None:
        self._releases = {release.id: release for release in releases}

    def get(self, scope: Scope, release: str) -> Release:
        """One of them; raises ``NotFoundError``."""
        if release not in self._releases:
            raise NotFoundError(f"The release {release!r} is not being evaluated.", where=str(scope))
        return self._releases[release]

    def live(self, scope: Scope, application: str) -> None:
        return None

    def applications(self, scope: Scope) -> Sequence[str]:
        """None: nothing is live."""
        return ()

    def previous(self, scope: Scope, application: str) -> None:
        """None: what stands in for a release says nothing about it."""
        return None

    def assign(self, scope: Scope, application: str, unit: str, request_id: str) -> None:
        return None


AnswerFunction = Callable[[AnswerRequest], Awaitable[Answer]]
"""serving's ``answer()``."""

AnswerFactory = Callable[[EntityReader, EvaluatedReleases, bool], AnswerFunction]
"""Makes serving's ``answer()`` over a reader of features and some releases, everything else as served.

With ``True`` a prompt that comes again is not generated again, so time and cost must not be measured of it.
"""


class EvaluationRequests:
    """Sends one release's rows and probes to serving's ``answer()``."""

    def __init__(
        self, answering: AnswerFactory, texts: Blobs, release: Release, dataset: Dataset, rows: Sequence[DatasetRow],
        principal: Principal, patience: float,
    ) -> None:  # fmt: skip
        self._release = release
        self.scope = release.scope
        self.application = release.bundle.application
        self._planted = attacks.planted(release)
        self._principal = principal
        self._patience = patience
        self._texts = texts
        self._reader = DatasetFeatureReader(dataset, rows)
        releases = EvaluatedReleases(release, self._planted)
        self._answer = answering(self._reader, releases, False)
        # A template that keeps a stranger's text out of the prompt makes most attacks the same prompt.
        self._answer_attack = answering(self._reader, releases, True)
        self._honest: dict[tuple[str, bool], AttackResponse] = {}
        self._locks: dict[tuple[str, bool], asyncio.Lock] = {}

    async def row(self, row: DatasetRow, *, whole: bool) -> RowResult:
        """Asks about one row. An error that is not transient is the row's result, by its code."""
        outcome = self.application.outcome
        assert outcome is not None  # check_fits
        only = () if whole else (outcome.property,)
        try:
            answer = await self._patiently(self._request(row, None, self._release.id, only), self._answer)
        except InvalidOutputError as error:
            valid = False if whole else None
            return RowResult(row.example, row.label, error=error.code, whole=whole, valid=valid, reason=error.what)
        except TRANSIENT_ERRORS:
            raise
        except AntiphonError as error:
            return RowResult(row.example, row.label, error=error.code, whole=whole, reason=error.what)
        first = await self._first_attempt(answer) if whole else ""
        said = outcome_probabilities(self.application, answer.receipt.classes, answer.text)
        return answered(row, answer.receipt, said, answer.text, first, self.application, whole=whole)

    async def reply(self, row: DatasetRow, question: str | None, plant: bool) -> AttackResponse:
        """The whole answer to an attack's request, or to an honest one (asked once, by its example)."""
        self._reader.put(row.entity, row.moment, row.features)
        if question is not None:
            return await self._reply(row, question, plant)
        place = (row.example, plant)
        async with self._locks.setdefault(place, asyncio.Lock()):
            if place not in self._honest:
                self._honest[place] = await self._reply(row, None, plant)
            return self._honest[place]

    async def _reply(self, row: DatasetRow, question: str | None, plant: bool) -> AttackResponse:
        release = self._planted if plant else self._release
        answer = await self._patiently(self._request(row, question, release.id, ()), self._answer_attack)
        return AttackResponse(
            prediction=answer.prediction,
            text=answer.text,
            valid=meets(self.application.schema, await self._first_attempt(answer)),
            prints={feature.name: feature.printed for feature in answer.receipt.features},
        )

    def _request(self, row: DatasetRow, question: str | None, release: str, only: tuple[str, ...]) -> AnswerRequest:
        return AnswerRequest(
            scope=self.scope,
            principal=self._principal,
            application=self.application.name,
            entity=row.entity,
            question=question,
            as_of=row.moment,
            path="batch",
            release=release,
            role="evaluation",
            only=only,
        )

    async def _patiently(self, request: AnswerRequest, answer: AnswerFunction) -> Answer:
        waited, pause = 0.0, 0.25
        while True:
            try:
                return await answer(request)
            except TRANSIENT_ERRORS:
                if waited >= self._patience:
                    raise
                await asyncio.sleep(pause)
                waited, pause = waited + pause, min(pause * 2, 5.0)

    async def _first_attempt(self, answer: Answer) -> str:
        """As the model wrote it, before a guard acted."""
        attempts = answer.receipt.attempts
        if not attempts:
            return answer.text
        content = await asyncio.to_thread(self._texts.get, self.scope, attempts[0].text_blob)
        return content.decode()
