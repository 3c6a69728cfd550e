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
from antiphon.core.errors import AntiphonError, NotFoundError
from antiphon.core.suggestions import nearest
from antiphon.gateway import incoming, limits
from antiphon.gateway.denials import Denials
from antiphon.gateway.event_stream import EventStream
from antiphon.gateway.openai import chunks, parameters, shapes, whole
from antiphon.gateway.openai.asking import GenerationCall, let_in, waited_for
from antiphon.gateway.services import GatewayServices
from antiphon.serving import several
from antiphon.serving.request import Answer, AnswerRequest, TextDelta

P = TypeVar("P", bound=parameters.Common)


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
    names = services.generation.models(scope)
    requested = request.path_params.get("model")
    if requested is None:
        listed = shapes.ModelList(data=tuple(shapes.Model(id=name) for name in names))
        return _json(listed)
    if requested not in names:
        raise NotFoundError(
            f"There is no application or model {requested!r}.",
            where="model",
            next_step=nearest(requested, names, "GET /v1/models lists them."),
        )
    return _json(shapes.Model(id=requested))


async def _complete(
    request: Request,
    shape: type[P],
    ask: Callable[..., AnswerRequest],
    written: Callable[[int, P, Sequence[Answer]], msgspec.Struct],
    streamed: Callable[[str, int, P, int, chunks.Answering], AsyncGenerator[msgspec.Struct, None]],
) -> ASGIApp:
    services: GatewayServices = request.app.state.services
    call = GenerationCall(services, request.app.state.measurements)
    headers = {"x-request-id": call.id}
    request.state.request_id = call.id
    try:
        principal = await incoming.principal(request, services)
        call.tenant = principal.tenant
        read = parameters.read(await incoming.body(request, services.settings.gateway.max_body_bytes), shape)
        user = incoming.originating_user(request, principal, read.user)
        question = ask(read, services.scope(principal), principal, call.id, user)
        question = msgspec.structs.replace(question, timeout=incoming.timeout(request))
        questions = parameters.questions(read, question)
        parent = incoming.traceparent(request)
    except Exception as error:
        call.ended(error)
        raise
    call.model = read.model
    choices = read.n or 1
    reserving = limits.reserve(services, principal, questions, choices, request.app.state.sizes)
    refusal = await let_in(call, services, principal, headers, reserving, choices)
    if refusal is not None:
        return refusal
    if read.stream:
        events = _events(call, request, questions, parent, partial(streamed, call.id, call.created, read))
        return EventStream(events, headers=headers, first=call.first_byte, ended=call.ended)
    with telemetry.span("gateway.answer", traceparent=parent, kind=SpanKind.SERVER):
        work = several.answers(services.generation.answerer.answer, _traced(questions, parent))
        answers = await waited_for(call, request, headers, work)
    if isinstance(answers, Response):
        return answers
    call.answered(*answers)
    response = _json(written(call.created, read, answers), {**headers, **_provenance_headers(answers[0])})
    call.first_byte()
    call.ended(None)
    return response


async def _events(
    call: GenerationCall,
    request: Request,
    questions: Sequence[AnswerRequest],
    parent: str | None,
    streamed: Callable[[int, chunks.Answering], AsyncGenerator[msgspec.Struct, None]],
) -> AsyncIterator[msgspec.Struct]:
    async with (
        aclosing(_answering(call, request, questions, parent)) as answering,
        aclosing(streamed(len(questions), answering)) as events,
    ):
        async for event in events:
            yield event


async def _answering(
    call: GenerationCall, request: Request, questions: Sequence[AnswerRequest], parent: str | None
) -> AsyncGenerator[tuple[int, TextDelta | Answer], None]:
    services: GatewayServices = request.app.state.services
    denials: Denials = request.app.state.denials
    with telemetry.span("gateway.stream", traceparent=parent, kind=SpanKind.SERVER):
        try:
            async with aclosing(
                several.stream(services.generation.answerer.stream, _traced(questions, parent))
            ) as items:
                async for number, item in items:
                    if isinstance(item, Answer):
                        call.answered(item)
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
