"""One request for a generation or for vectors on its way through the gateway: let in, waited for, measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from antiphon.core import telemetry
from antiphon.core.errors import AntiphonError, ForbiddenError, NotFoundError, UnauthenticatedError
from antiphon.core.ids import new_id
from antiphon.gateway import limits
from antiphon.gateway.denials import Denials
from antiphon.gateway.http import incoming, problem
from antiphon.gateway.http.departure import CallerLeftError, while_connected
from antiphon.gateway.measurements import AnswerMeasurement, Fault, GatewayMetrics
from antiphon.gateway.openai import common, shapes
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.serving.embedding import Embedding
from antiphon.serving.request import Answer

P = TypeVar("P", bound=Any)
T = TypeVar("T")

CLIENT_CLOSED_REQUEST = 499
UNKNOWN = "unknown"


class GenerationCall:
    """One request on its way through the gateway, and its measurement.

    Attributes:
        headers: of every response to it.
        principal: who sent it, once it was read.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.services: GatewayServices = request.app.state.services
        self.id = request.state.request_id = new_id("req")
        self.headers = {"x-request-id": self.id}
        # Without an exporter there is no span of ours, and the caller's context goes on unchanged.
        self.trace = telemetry.traceparent() or request.headers.get("traceparent")
        self.principal: Principal
        self.created = int(self.services.clock.now().timestamp())
        self._tenant, self._model = self.services.settings.project.tenant, UNKNOWN
        self._measurements: GatewayMetrics = request.app.state.measurements
        self._arrived = self.services.clock.monotonic()
        self._first: float | None = None
        self._answers: list[Answer | Embedding] = []
        self._reservation: limits.Reservation | None = None
        self._choices = 1
        self._measurements.in_flight.inc()

    async def read(self, shape: type[P], translate: Callable[..., T]) -> tuple[P, T]:
        """Authenticates, and reads the body: what it says, and the question that ``translate`` makes of it."""
        request, services = self.request, self.services
        try:
            principal = self.principal = await incoming.principal(request, services)
            self._tenant = principal.tenant
            read = common.read(await incoming.body(request, services.settings.gateway.max_body_bytes), shape)
            user = incoming.originating_user(request, principal, read.user)
            question = translate(read, services.scope(principal), principal, self.id, user)
        except Exception as error:
            self.ended(error)
            raise
        self._model = read.model
        return read, question

    async def let_in(self, reserving: Awaitable[limits.Reservation | None], choices: int = 1) -> Response | None:
        """Let it in under its key's quotas, which its headers then tell; or the response that it is refused with.

        Args:
            choices: so many answers share each prompt.
        """
        try:
            self._reservation, self._choices = await reserving, choices
        except AntiphonError as error:
            self.ended(error)
            return problem.response(error, self.headers | limits.headers(self.services, self.principal))
        self.headers |= limits.headers(self.services, self.principal)
        return None

    async def waited_for(self, work: Awaitable[T]) -> T | Response:
        """Awaits the work while its caller stays connected, or returns the response to its failure."""
        try:
            async with while_connected(self.request.receive):
                return await work
        except CallerLeftError as error:
            self.ended(error)
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except AntiphonError as error:
            self.ended(error)
            denials: Denials = self.request.app.state.denials
            await denials.record(self.request, error)
            return problem.response(error, self.headers)
        except BaseException as error:
            self.ended(error)
            raise

    def first_byte(self) -> None:
        """The first byte leaves now."""
        self._first = self.services.clock.monotonic() - self._arrived

    def answered(self, *answers: Answer | Embedding) -> None:
        self._answers += answers

    def ended(self, failure: BaseException | None) -> None:
        """The last byte has left, or the request has failed."""
        measurements, now = self._measurements, self.services.clock.monotonic()
        measurements.in_flight.dec()
        status = 200
        if isinstance(failure, CallerLeftError):
            measurements.departed.inc()
            status = CLIENT_CLOSED_REQUEST
        elif failure is not None:
            status = failure.http_status if isinstance(failure, AntiphonError) else 500
        # A name that does not exist must not become a label: callers could make them without end.
        named = (
            self._model if not isinstance(failure, NotFoundError | ForbiddenError | UnauthenticatedError) else UNKNOWN
        )
        origin = self._answers[0].receipt.cache.origin if self._answers else "none"
        measurements.record(
            AnswerMeasurement(self._tenant, named, origin, status, self._first, now - self._arrived, _fault_of(failure))
        )
        if self._reservation is not None:
            if self._answers:
                used = shapes.usage(self._answers, self._choices)
                self._reservation.answered(used.prompt_tokens, used.completion_tokens)
            else:
                self._reservation.failed(failure)


def _fault_of(failure: BaseException | None) -> Fault:
    if failure is None:
        return "none"
    if isinstance(failure, CallerLeftError) or (isinstance(failure, AntiphonError) and not failure.of_platform):
        return "caller"
    return "platform"
