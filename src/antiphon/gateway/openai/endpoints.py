"""The endpoints of ``/v1``: read the parameters, ask, write the answer in OpenAI's shape."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import msgspec
from opentelemetry.trace import SpanKind
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from antiphon.core import telemetry
from antiphon.core.errors import AntiphonError, Forbidden, NotFound, Unauthenticated
from antiphon.core.ids import new_id
from antiphon.gateway import incoming, problem
from antiphon.gateway.denials import Denials
from antiphon.gateway.departure import Departed, while_connected
from antiphon.gateway.event_stream import EventStream
from antiphon.gateway.measurements import Measured, Measurements
from antiphon.gateway.openai import parameters, shapes, whole
from antiphon.gateway.ports import GatewayServices
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
        self._answer: Answer | Embedding | None = None
        measurements.in_flight.inc()

    def first_byte(self) -> None:
        """The first byte leaves now."""
        self._first = self._services.clock.monotonic() - self._arrived

    def answered(self, answer: Answer | Embedding) -> None:
        self._answer = answer

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
        answer = self._answer
        origin = answer.receipt.cache.origin if answer is not None else "none"
        measurements.record(Measured(now, self.tenant, named, origin, status, self._first, now - self._arrived))
        if answer is not None:
            spent = answer.usage
            measurements.spend(named, spent.prompt_tokens, spent.completion_tokens, spent.engine_seconds)


async def chat_completions(request: Request) -> ASGIApp:
    """``POST /v1/chat/completions``."""

    return await _complete(
        request, parameters.ChatParameters, parameters.chat_request, whole.chat_completion, _chat_chunks
    )


async def completions(request: Request) -> ASGIApp:
    """``POST /v1/completions``."""

    return await _complete(
        request, parameters.CompletionParameters, parameters.completion_request, whole.completion, _completion_chunks
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
    written: Callable[[int, P, Answer], msgspec.Struct],
    chunks: Callable[[Asked, P, AsyncIterator[TextDelta | Answer]], AsyncIterator[msgspec.Struct]],
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
        parent = incoming.traceparent(request)
    except Exception as error:
        asked.ended(error)
        raise
    asked.model = read.model
    if read.stream:
        answering = _answering(asked, request, question, parent)
        return EventStream(chunks(asked, read, answering), headers=headers, first=asked.first_byte, ended=asked.ended)
    try:
        async with while_connected(request.receive):
            with telemetry.span("gateway.answer", traceparent=parent, kind=SpanKind.SERVER):
                answer = await services.answering.answer(_traced(question, parent))
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
    asked.answered(answer)
    response = _json(written(asked.created, read, answer), {**headers, **_provenance_headers(answer)})
    asked.first_byte()
    asked.ended(None)
    return response


async def _answering(
    asked: Asked, request: Request, question: AnswerRequest, parent: str | None
) -> AsyncIterator[TextDelta | Answer]:
    services: GatewayServices = request.app.state.services
    denials: Denials = request.app.state.denials
    with telemetry.span("gateway.stream", traceparent=parent, kind=SpanKind.SERVER):
        items = services.answering.stream(_traced(question, parent))
        try:
            async for item in items:
                if isinstance(item, Answer):
                    asked.answered(item)
                yield item
        except AntiphonError as error:
            await denials.record(request, error)
            raise
        finally:
            await _close(items)


async def _chat_chunks(
    asked: Asked, read: parameters.ChatParameters, answering: AsyncIterator[TextDelta | Answer]
) -> AsyncIterator[shapes.ChatChunk]:
    def chunk(*choices: shapes.ChunkChoice, **last: object) -> shapes.ChatChunk:
        fields = {"usage": None, **last} if with_usage else last
        return shapes.ChatChunk(
            id=asked.id,
            created=asked.created,
            model=read.model,
            choices=choices,
            **fields,  # type: ignore[arg-type]
        )

    with_usage = read.stream_options is not None and read.stream_options.include_usage
    role: shapes.ChatDelta | None = shapes.ChatDelta(role="assistant", content="")
    try:
        async for item in answering:
            if role is not None:
                yield chunk(shapes.ChunkChoice(role))
                role = None
            if isinstance(item, TextDelta):
                logprobs = shapes.chat_logprobs(item.tokens) if read.logprobs else None
                yield chunk(shapes.ChunkChoice(shapes.ChatDelta(content=item.text), logprobs=logprobs))
                continue
            end = shapes.ChunkChoice(shapes.ChatDelta(), finish_reason=item.finish_reason)
            made = {"system_fingerprint": shapes.fingerprint(item), "antiphon": shapes.provenance(item)}
            if with_usage:
                yield chunk(end)
                yield chunk(usage=shapes.usage(item), **made)
            else:
                yield chunk(end, **made)
    finally:
        await _close(answering)


async def _completion_chunks(
    asked: Asked, read: parameters.CompletionParameters, answering: AsyncIterator[TextDelta | Answer]
) -> AsyncIterator[shapes.Completion]:
    def chunk(*choices: shapes.CompletionChoice, **last: object) -> shapes.Completion:
        fields = {"usage": None, **last} if with_usage else last
        return shapes.Completion(
            id=asked.id,
            created=asked.created,
            model=read.model,
            choices=choices,
            **fields,  # type: ignore[arg-type]
        )

    with_usage = read.stream_options is not None and read.stream_options.include_usage
    written = 0
    try:
        async for item in answering:
            if isinstance(item, TextDelta):
                logprobs = shapes.completion_logprobs(item.tokens, written) if read.logprobs is not None else None
                written += len(item.text)
                yield chunk(shapes.CompletionChoice(item.text, None, logprobs))
                continue
            end = shapes.CompletionChoice("", item.finish_reason)
            made = {"system_fingerprint": shapes.fingerprint(item), "antiphon": shapes.provenance(item)}
            if with_usage:
                yield chunk(end)
                yield chunk(usage=shapes.usage(item), **made)
            else:
                yield chunk(end, **made)
    finally:
        await _close(answering)


def _traced(question: AnswerRequest, parent: str | None) -> AnswerRequest:
    # Without an exporter there is no span of ours, and the caller's context goes on unchanged.
    return msgspec.structs.replace(question, traceparent=telemetry.traceparent() or parent)


def _provenance_headers(answer: Answer) -> dict[str, str]:
    headers = {"x-antiphon-prediction": answer.prediction, "x-antiphon-release": answer.receipt.release}
    if answer.publication is not None:
        headers["x-antiphon-publication"] = str(answer.publication)
    return headers


def _json(value: msgspec.Struct, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers=headers)


async def _close(items: AsyncIterator[object]) -> None:
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()
