"""Asks a release recorded requests through serving's ``answer()`` in the role ``evaluation``: nothing live changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.learning.trials import AnswerFigures
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import AntiphonError, InvalidOutputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.asking import TRANSIENT_ERRORS, EvaluatedReleases, ask_patiently, first_attempt
from antiphon.learning.evaluation.scores import meets
from antiphon.serving.history import continuing
from antiphon.serving.recorded import RecordedRequest, answerer_of
from antiphon.serving.request import Answer, AnswerRequest
from antiphon.serving.services import Services

ServicesOf = Callable[[EvaluatedReleases], Services]
"""The services behind answers, as served, over some releases."""


class RecordedRequests:
    """Asks one release requests as they were recorded; each has the features of then.

    ``patience``: seconds to wait for an engine that is away.
    """

    def __init__(
        self, services: ServicesOf, texts: Blobs, release: Release, principal: Principal, patience: float
    ) -> None:
        self.release = release
        self._services = services(EvaluatedReleases(release))
        self._texts = texts
        self._principal = principal
        self._patience = patience

    async def ask(self, request: RecordedRequest) -> tuple[AnswerFigures, str, Answer | None]:
        """Figures of the answer, its text and the answer itself; an error that does not pass by itself is in the
        figures.

        Raises:
            UnavailableError, EngineError, OverloadedError: the engine stayed away.
        """
        scope, release = self.release.scope, self.release
        answerer = answerer_of(request, self._services, scope)
        question = AnswerRequest(
            scope=scope,
            principal=self._principal,
            application=release.bundle.application.name,
            entity=request.entity,
            inputs=request.inputs,
            question=request.question,
            as_of=request.as_of,
            path="batch",
            release=release.id,
            role="evaluation",
            originating_user=request.originating_user,
            history=continuing(request.turns) if request.turns else None,
        )
        try:
            answer = await ask_patiently(question, answerer.answer, self._patience)
        except TRANSIENT_ERRORS:
            raise
        except AntiphonError as error:
            valid = False if isinstance(error, InvalidOutputError) else None
            return AnswerFigures(error=error.code, reason=error.what, valid=valid), "", None
        first = await first_attempt(answer, self._texts)
        return figures(answer.receipt, answer.text, first, release.bundle.application), answer.text, answer


def figures(receipt: Receipt, text: str, first: str, application: ApplicationSpec) -> AnswerFigures:
    """The figures of an answer: ``text`` as it was served, ``first`` as the model wrote it first."""
    usage = receipt.usage
    return AnswerFigures(
        prediction=receipt.prediction,
        valid=meets(application.schema, first),
        characters=len(text),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        engine_seconds=usage.engine_seconds,
        seconds=receipt.timing.total,
        guards=tuple(f"{one.guard}: {one.action}" for one in receipt.guards if one.action != "pass"),
        fingerprint=receipt.attempts[-1].fingerprint if receipt.attempts else "",
    )


async def recorded_figures(receipt: Receipt, texts: Blobs, application: ApplicationSpec) -> tuple[AnswerFigures, str]:
    """The figures and the text of an answer that was given; raises ``NotFoundError`` once a text of it is erased."""

    def read() -> tuple[str, str]:
        text = texts.get(receipt.scope, receipt.text_blob).decode()
        attempts = receipt.attempts
        return text, texts.get(receipt.scope, attempts[0].text_blob).decode() if attempts else text

    text, first = await asyncio.to_thread(read)
    return figures(receipt, text, first, application), text


def known_outcomes(
    outcomes: Outcomes, scope: Scope, predictions: Sequence[str], application: ApplicationSpec
) -> dict[str, dict[str, str]]:
    """Prediction to the values of the application's outcomes that are known of it, by name."""
    found: dict[str, dict[str, str]] = {}
    for shape in application.shapes:
        for prediction, value in outcomes.values(scope, predictions, shape.name).items():
            if shape.admits(value):
                found.setdefault(prediction, {})[shape.name] = value
    return found


def text_of(receipt: Receipt, texts: Blobs) -> str | None:
    """The text of an answer as it was served; ``None`` once it is erased."""
    try:
        return texts.get(receipt.scope, receipt.text_blob).decode()
    except NotFoundError:
        return None
