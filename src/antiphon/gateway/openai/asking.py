"""One request for a generation or for vectors on its way through the gateway: let in, waited for, measured."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.errors import AntiphonError, ForbiddenError, NotFoundError, UnauthenticatedError
from antiphon.core.ids import new_id
from antiphon.gateway import limits, problem
from antiphon.gateway.denials import Denials
from antiphon.gateway.departure import CallerLeftError, while_connected
from antiphon.gateway.measurements import AnswerMeasurement, GatewayMetrics
from antiphon.gateway.openai import shapes
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.serving.embedding import Embedding
from antiphon.serving.request import Answer

T = TypeVar("T")

CLIENT_CLOSED_REQUEST = 499
UNKNOWN = "unknown"


class GenerationCall:
    """One request on its way through the gateway, and its measurement."""

    def __init__(self, services: GatewayServices, measurements: GatewayMetrics) -> None:
        self.id = new_id("req")
        self.model = UNKNOWN
        self.tenant = services.settings.project.tenant
        self.created = int(services.clock.now().timestamp())
        self._services = services
        self._measurements = measurements
        self._arrived = services.clock.monotonic()
        self._first: float | None = None
        self._answers: list[Answer | Embedding] = []
        self._reservation: limits.Reservation | None = None
        self._choices = 1
        measurements.in_flight.inc()

    def first_byte(self) -> None:
        """The first byte leaves now."""
        self._first = self._services.clock.monotonic() - self._arrived

    def answered(self, *answers: Answer | Embedding) -> None:
        self._answers += answers

    def reserved(self, reservation: limits.Reservation | None, choices: int) -> None:
        """It was let in under its key's quotas; so many answers share each prompt."""
        self._reservation, self._choices = reservation, choices

    def ended(self, failure: BaseException | None) -> None:
        """The last byte has left, or the request has failed."""
        measurements, now = self._measurements, self._services.clock.monotonic()
        measurements.in_flight.dec()
        status = 200
        if isinstance(failure, CallerLeftError):
            measurements.departed.inc()
            status = CLIENT_CLOSED_REQUEST
        elif failure is not None:
            status = failure.http_status if isinstance(failure, AntiphonError) else 500
        # A name that does not exist must not become a label: callers could make them without end.
        named = (
            self.model if not isinstance(failure, NotFoundError | ForbiddenError | UnauthenticatedError) else UNKNOWN
        )
        origin = self._answers[0].receipt.cache.origin if self._answers else "none"
        measurements.record(
            AnswerMeasurement(now, self.tenant, named, origin, status, self._first, now - self._arrived)
        )
        if self._reservation is not None:
            if self._answers:
                used = shapes.usage(self._answers, self._choices)
                self._reservation.answered(used.prompt_tokens, used.completion_tokens)
            else:
                self._reservation.failed(failure)
        for answer in self._answers:
            spent, receipt = answer.usage, answer.receipt
            measurements.reused(named, receipt.cache.origin, receipt.role, receipt.cache.saved_tokens)
            measurements.spend(named, spent.prompt_tokens, spent.completion_tokens, spent.engine_seconds)


async def let_in(
    call: GenerationCall,
    services: GatewayServices,
    principal: Principal,
    headers: dict[str, str],
    reserving: Awaitable[limits.Reservation | None],
    choices: int = 1,
) -> Response | None:
    """Let a request in under its key's quotas, which ``headers`` then tell; or the response that it is refused with."""
    try:
        call.reserved(await reserving, choices)
    except AntiphonError as error:
        call.ended(error)
        return problem.response(error, {**headers, **limits.headers(services, principal)})
    headers.update(limits.headers(services, principal))
    return None


async def waited_for(
    call: GenerationCall, request: Request, headers: dict[str, str], work: Awaitable[T]
) -> T | Response:
    """Awaits the work while its caller stays connected, or returns the response to its failure."""
    try:
        async with while_connected(request.receive):
            return await work
    except CallerLeftError as error:
        call.ended(error)
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except AntiphonError as error:
        call.ended(error)
        denials: Denials = request.app.state.denials
        await denials.record(request, error)
        return problem.response(error, headers)
    except BaseException as error:
        call.ended(error)
        raise
