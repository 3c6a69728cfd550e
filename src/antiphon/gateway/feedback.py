"""``POST /v1/feedback``: what became of predictions. Authenticates and translates; decides nothing."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.errors import TooLargeError
from antiphon.gateway.http import incoming, problem
from antiphon.gateway.http.responses import JsonResponse
from antiphon.gateway.services import GatewayServices
from antiphon.learning.outcomes.intake import OutcomeResult
from antiphon.learning.outcomes.submission import OutcomeSubmission

MOST_OUTCOMES = 1_000


class Feedback(msgspec.Struct, frozen=True):
    """Several outcomes in one request; a single one is sent as the body itself."""

    outcomes: Annotated[tuple[OutcomeSubmission, ...], msgspec.Meta(min_length=1, max_length=MOST_OUTCOMES)]


class FeedbackLine(msgspec.Struct, frozen=True):
    """The result of one outcome: ``refused`` with its error, else the status of the first of ``predictions``.

    ``outcomes`` are the ids under which it is kept, one for each prediction. One that names an unknown prediction and
    no application is ``unknown`` and not kept; its ``error`` says so.
    """

    status: str
    predictions: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    error: problem.ErrorItem | None = None


class FeedbackResponse(msgspec.Struct, frozen=True):
    """One line for each outcome, in order, and how many came to each status."""

    outcomes: tuple[FeedbackLine, ...]
    counts: dict[str, int]


async def feedback(request: Request) -> Response:
    """The endpoint. A single outcome that is refused is answered with its error; of several, each has its own."""
    services: GatewayServices = request.app.state.services
    principal = await incoming.principal(request, services)
    given = incoming.json_object(await incoming.body(request, services.settings.gateway.max_body_bytes))
    several = "outcomes" in given
    arriving = _several(given) if several else (incoming.typed(given, OutcomeSubmission),)
    arriving = await run_in_threadpool(services.learning.joiner.with_applications, services.scope(principal), arriving)
    for application in sorted({outcome.application for outcome in arriving if outcome.application is not None}):
        await run_in_threadpool(services.access.authorize, principal, "feedback", f"application/{application}")
    taken = await run_in_threadpool(
        services.learning.joiner.take_many, services.scope(principal), principal.id, arriving
    )
    if not several and taken[0].error is not None and taken[0].status is None:
        raise taken[0].error
    lines = tuple(_line(one) for one in taken)
    return JsonResponse(FeedbackResponse(lines, Counter(line.status for line in lines)))


def _several(given: dict[str, Any]) -> tuple[OutcomeSubmission, ...]:
    sent = given["outcomes"]
    if isinstance(sent, list) and len(sent) > MOST_OUTCOMES:
        raise TooLargeError(
            f"There are {len(sent)} outcomes in one request.",
            where="outcomes",
            next_step=f"Send at most {MOST_OUTCOMES} at a time, or use `antiphon outcomes import`.",
        )
    return incoming.typed(given, Feedback).outcomes


def _line(taken: OutcomeResult) -> FeedbackLine:
    if taken.error is not None:
        return FeedbackLine(taken.status or "refused", error=problem.describe(taken.error))
    return FeedbackLine(
        status=taken.status or "unknown",
        predictions=tuple(outcome.prediction for outcome in taken.outcomes if outcome.prediction is not None),
        outcomes=tuple(outcome.id for outcome in taken.outcomes),
    )
