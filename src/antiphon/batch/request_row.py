"""Rows of a batch of OpenAI's API: one request of its file each, answered as its endpoint answers online."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from antiphon.batch.lines import BatchRequest
from antiphon.batch.row_plan import RowSketch
from antiphon.batch.row_runner import RowAnswer
from antiphon.catalog.batches import Batch
from antiphon.catalog.jobs import JobRow
from antiphon.core.errors import AntiphonError
from antiphon.core.ids import content_hash, new_id
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.serving import several
from antiphon.serving.builtin import BUILTIN
from antiphon.serving.embedding import Embedding, EmbeddingRequest
from antiphon.serving.request import Answer, AnswerRequest, Tier

LineAnswer = Callable[[AnswerRequest | EmbeddingRequest], Awaitable[Answer | Embedding]]
"""serving's ``answer()``, and its vectors."""


class LineRequests(msgspec.Struct, frozen=True):
    """The requests of one line, one for each choice, and the function that writes their answers as its endpoint."""

    requests: Sequence[AnswerRequest | EmbeddingRequest]
    body: Callable[[Sequence[Any]], Any]


class RequestEndpoints(Protocol):
    """Endpoints that a batch may be for; an upward call to ``gateway.openai``, which reads and writes their bodies."""

    def read(self, endpoint: str, body: bytes, scope: Scope, principal: Principal, request: str) -> LineRequests:
        """Reads a body; raises ``InvalidInputError`` and ``ForbiddenError`` as the endpoint does."""
        ...

    def refused(self, error: Exception) -> Any:
        """The body with which the endpoint reports an error."""
        ...


class RequestRow:
    """One request of a batch."""

    def __init__(
        self, batch: Batch, request: BatchRequest, principal: Principal, endpoints: RequestEndpoints, answer: LineAnswer
    ) -> None:
        self._batch = batch
        self._request = request
        self._principal = principal
        self._endpoints = endpoints
        self._answer = answer
        self._id = new_id("req")
        self.label = f"line {request.line + 1}"
        self.sketch: RowSketch | None = request.sketch
        self.prefix = self.sketch.prefixes[0].digest if self.sketch is not None and self.sketch.prefixes else 0
        self.refusal: AntiphonError | None = None

    async def answer(self, tier: Tier) -> RowAnswer:
        """Answers the request in this tier; the tier of the line itself is ignored, and vectors have none."""
        batch = self._batch
        line = self._endpoints.read(batch.endpoint, self._request.body, batch.scope, self._principal, self._id)
        requests = [
            msgspec.structs.replace(one, tier=tier) if isinstance(one, AnswerRequest) else one for one in line.requests
        ]
        answers = await several.answers(self._answer, requests)
        # Implicit releases are as many as there are ways to ask a plain model, and read nothing.
        releases = {one.receipt.release for one in answers}
        return RowAnswer(
            row_of(batch, self._request, self._response(200, line.body(answers)), None),
            [answer.usage for answer in answers],
            frozenset(name for name in releases if not name.startswith(BUILTIN)),
        )

    def failed(self, error: AntiphonError) -> JobRow:
        """The line of the error file."""
        response = self._response(error.http_status, self._endpoints.refused(error))
        return row_of(self._batch, self._request, response, None, failed=True)

    def _response(self, status: int, body: Any) -> dict[str, Any]:
        return {"status_code": status, "request_id": self._id, "body": body}


def row_of(batch: Batch, request: BatchRequest, response: Any, error: Any, *, failed: bool = False) -> JobRow:
    """The line of the output or error file that a request becomes."""
    name = f"batch_req_{content_hash([batch.id, request.line])[:26]}"
    payload = {"id": name, "custom_id": request.custom_id, "response": response, "error": error}
    return JobRow(line=request.line, payload=payload, failed=failed)
