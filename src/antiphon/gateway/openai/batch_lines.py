"""Lines of a batch, read and answered as their endpoint reads and answers a request online."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from antiphon.batch.batch_job import LineRequests
from antiphon.core.clock import Clock
from antiphon.core.errors import InvalidInputError, UnsupportedParameterError
from antiphon.core.scope import Scope
from antiphon.gateway.http import problem
from antiphon.gateway.openai import answers, common, embeddings, parameters
from antiphon.gateway.openai.responses.answers import whole_response
from antiphon.gateway.openai.responses.parameters import ResponseParameters, response_request
from antiphon.gateway.openai.responses.stored import StoredResponses
from antiphon.governance.identity.principal import Principal, originator
from antiphon.serving.embedding import EmbeddingRequest
from antiphon.serving.request import AnswerRequest

ModelRequest = AnswerRequest | EmbeddingRequest

EMBEDDINGS = "/v1/embeddings"
_ENDPOINTS: dict[str, tuple[type[Any], Callable[..., Any], Callable[..., msgspec.Struct]]] = {
    "/v1/chat/completions": (parameters.ChatParameters, parameters.chat_request, answers.chat_completion),
    "/v1/completions": (parameters.CompletionParameters, parameters.completion_request, answers.completion),
    "/v1/responses": (ResponseParameters, response_request, whole_response),
    EMBEDDINGS: (embeddings.EmbeddingParameters, embeddings.embedding_request, embeddings.embedding_list),
}

ENDPOINTS = tuple(_ENDPOINTS)
"""Endpoints that batches may be for."""


class BatchLines:
    """Implements ``batch.batch_job.RequestEndpoints``."""

    def __init__(self, clock: Clock, responses: StoredResponses) -> None:
        self._clock = clock
        self._responses = responses

    def read(self, endpoint: str, body: bytes, scope: Scope, principal: Principal, request: str) -> LineRequests:
        """Reads the requests of a line.

        Raises:
            InvalidInputError: what the endpoint would refuse; ``stream`` is refused here too.
            ForbiddenError: the principal may not speak for the user that is named.
        """
        if endpoint not in _ENDPOINTS:
            raise InvalidInputError(f"There are no batches for {endpoint!r}.", where="endpoint")
        shape, asking, write = _ENDPOINTS[endpoint]
        read = common.read(body, shape)
        if getattr(read, "stream", None):
            raise UnsupportedParameterError(
                "An answer in a batch is not streamed.", where="stream", next_step="Leave it out."
            )
        if read.service_tier not in (None, "auto", "default"):
            raise UnsupportedParameterError(
                "A batch has no tiers: it is done in the gaps of online work.",
                where="service_tier",
                next_step="Leave it out.",
            )
        question = asking(read, scope, principal, request, originator(principal, read.user or None))
        if isinstance(read, ResponseParameters) and read.previous_response_id is not None:
            question = self._responses.continued(read, question)
        return LineRequests(
            _as_batch(read, question),
            lambda made: write(int(self._clock.now().timestamp()), read, made[0] if endpoint == EMBEDDINGS else made),
        )

    def refused(self, error: Exception) -> problem.ProblemBody:
        return problem.ProblemBody(problem.describe(error))


def _as_batch(read: Any, question: ModelRequest) -> Sequence[ModelRequest]:
    if isinstance(question, EmbeddingRequest):
        return (msgspec.structs.replace(question, path="batch", priority="batch"),)
    return parameters.questions(read, msgspec.structs.replace(question, path="batch"))
