"""The endpoints of ``/v1``: read the parameters, ask, write the answer in OpenAI's shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeVar

import msgspec
from opentelemetry.trace import SpanKind
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from antiphon.core import telemetry
from antiphon.core.errors import AntiphonError, Forbidden, NotFound, Unauthenticated
from antiphon.core.ids import new_id
from antiphon.gateway import incoming, limits, problem
from antiphon.gateway.denials import Denials
from antiphon.gateway.departure import Departed, while_connected
from antiphon.gateway.event_stream import EventStream
from antiphon.gateway.measurements import Measured, Measurements
from antiphon.gateway.openai import chunks, parameters, shapes, whole
from antiphon.gateway.ports import GatewayServices
from antiphon.serving import several
from antiphon.serving.embedding import Embedding
from antiphon.serving.request import Answer, AnswerRequest, TextDelta

P = TypeVar("P", bound=parameters.Common)

CLIENT_CLOSED_REQUEST = 499
UNKNOWN = "unknown"


class Asked:
    """One request on its way through the gateway, and its measurement."""

    def __init__(self, services: GatewayServices, measurements: Measurements) -> None:
        self.id = new_id("req")
        self.model = UNKNOWN
        self.tenant = services.default_tenant
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
        if isinstance(failure, Departed):
            measurements.departed.inc()
            status = CLIENT_CLOSED_REQUEST
        elif failure is not None:
            status = failure.http_status if isinstance(failure, AntiphonError) else 500
        # A name that does not exist must not become a label: callers could make them without end.
        named = self.model if not isinstance(failure, NotFound | Forbidden | Unauthenticated) else UNKNOWN
        origin = self._answers[0].receipt.cache.origin if self._answers else "none"
        measurements.record(Measured(now, self.tenant, named, origin, status, self._first, now - self._arrived))
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


async def chat_completions(request: Request) -> ASGIApp:
    """``POST /v1/chat/completions``."""

    return await _complete(
        request, parameters.ChatParameters, parameters.chat_request, whole.chat_completion, chunks.chat_chunks
    )


async def completions(request: Request) -> ASGIApp:
    """``POST /v1/completions``."""

    return await _complete(
        request,
        parameters.CompletionParameters,
        parameters.completion_request,
        whole.completion,
        chunks.completion_chunks,
    )


async def models(request: Request) -> Response:
    """``GET /v1/models``, and ``GET /v1/models/NAME``."""
    services: GatewayServices = request.app.state.services
    scope = services.scope(await incoming.principal(request, services))
    names = services.models(scope)
    wanted = request.path_params.get("model")
    if wanted is None:
        listed = shapes.ModelList(data=tuple(shapes.Model(id=name) for name in names))
        return _json(listed)
    if wanted not in names:
        raise NotFound(
            f"There is no application or model {wanted!r}.", where="model", next_step="GET /v1/models lists them."
        )
    return _json(shapes.Model(id=wanted))


async def _complete(
    request: Request,
    shape: type[P],
    ask: Callable[..., AnswerRequest],
    written: Callable[[int, P, Sequence[Answer]], msgspec.Struct],
    streamed: Callable[[str, int, P, int, chunks.Answering], AsyncGenerator[msgspec.Struct, None]],
) -> ASGIApp:
    services: GatewayServices = request.app.state.services
    denials: Denials = request.app.state.denials
    asked = Asked(services, request.app.state.measurements)
    headers = {"x-request-id": asked.id}
    request.state.request_id = asked.id
    try:
        principal = await incoming.principal(request, services)
        asked.tenant = principal.tenant
        read = parameters.read(await incoming.body(request, services.max_body_bytes), shape)
        user = incoming.originating_user(request, principal, read.user)
        question = ask(read, services.scope(principal), principal, asked.id, user)
        question = msgspec.structs.replace(question, timeout=incoming.timeout(request))
        questions = parameters.questions(read, question)
        parent = incoming.traceparent(request)
    except Exception as error:
        asked.ended(error)
        raise
    asked.model = read.model
    try:
        choices = read.n or 1
        reservation = await limits.reserve(services, principal, questions, choices, request.app.state.sizes)
        asked.reserved(reservation, choices)
    except AntiphonError as error:
        asked.ended(error)
        return problem.response(error, {**headers, **limits.headers(services, principal)})
    headers.update(limits.headers(services, principal))
    if read.stream:
        events = _events(asked, request, questions, parent, partial(streamed, asked.id, asked.created, read))
        return EventStream(events, headers=headers, first=asked.first_byte, ended=asked.ended)
    try:
        async with while_connected(request.receive):
            with telemetry.span("gateway.answer", traceparent=parent, kind=SpanKind.SERVER):
                answers = await several.answers(services.answering.answer, _traced(questions, parent))
    except Departed as error:
        asked.ended(error)
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except AntiphonError as error:
        asked.ended(error)
        await denials.record(request, error)
        return problem.response(error, headers)
    except BaseException as error:
        asked.ended(error)
        raise
    asked.answered(*answers)
    response = _json(written(asked.created, read, answers), {**headers, **_provenance_headers(answers[0])})
    asked.first_byte()
    asked.ended(None)
    return response


async def _events(
    asked: Asked,
    request: Request,
    questions: Sequence[AnswerRequest],
    parent: str | None,
    streamed: Callable[[int, chunks.Answering], AsyncGenerator[msgspec.Struct, None]],
) -> AsyncIterator[msgspec.Struct]:
    async with (
        aclosing(_answering(asked, request, questions, parent)) as answering,
        aclosing(streamed(len(questions), answering)) as events,
    ):
        async for event in events:
            yield event


async def _answering(
    asked: Asked, request: Request, questions: Sequence[AnswerRequest], parent: str | None
) -> AsyncGenerator[tuple[int, TextDelta | Answer], None]:
    services: GatewayServices = request.app.state.services
    denials: Denials = request.app.state.denials
    with telemetry.span("gateway.stream", traceparent=parent, kind=SpanKind.SERVER):
        try:
            async with aclosing(several.stream(services.answering.stream, _traced(questions, parent))) as items:
                async for number, item in items:
                    if isinstance(item, Answer):
                        asked.answered(item)
                    yield number, item
        except AntiphonError as error:
            await denials.record(request, error)
            raise


def _traced(questions: Sequence[AnswerRequest], parent: str | None) -> list[AnswerRequest]:
    # Without an exporter there is no span of ours, and the caller's context goes on unchanged.
    context = telemetry.traceparent() or parent
    return [msgspec.structs.replace(question, traceparent=context) for question in questions]


def _provenance_headers(answer: Answer) -> dict[str, str]:
    headers = {"x-antiphon-prediction": answer.prediction, "x-antiphon-release": answer.receipt.release}
    if answer.publication is not None:
        headers["x-antiphon-publication"] = str(answer.publication)
    return headers


def _json(value: msgspec.Struct, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers=headers)
