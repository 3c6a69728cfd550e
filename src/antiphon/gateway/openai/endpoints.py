"""The endpoints of ``/v1``: read the parameters, ask, write the answer in OpenAI's shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from antiphon.core.errors import AntiphonError, NotFoundError
from antiphon.core.suggestions import nearest
from antiphon.gateway import limits
from antiphon.gateway.denials import Denials
from antiphon.gateway.http import incoming
from antiphon.gateway.http.event_stream import EventStream
from antiphon.gateway.http.responses import JsonResponse
from antiphon.gateway.openai import parameters, shapes
from antiphon.gateway.openai.answers import (
    Answering,
    chat_chunks,
    chat_completion,
    completion,
    completion_chunks,
)
from antiphon.gateway.openai.asking import GenerationCall
from antiphon.gateway.openai.common import Common
from antiphon.gateway.openai.responses.answers import response_events, whole_response
from antiphon.gateway.openai.responses.parameters import ResponseParameters, response_request
from antiphon.gateway.openai.responses.stored import StoredResponses
from antiphon.gateway.services import GatewayServices
from antiphon.serving import several
from antiphon.serving.request import Answer, AnswerRequest, TextDelta

P = TypeVar("P", bound=Common)


async def chat_completions(request: Request) -> ASGIApp:
    """``POST /v1/chat/completions``."""
    return await _complete(request, parameters.ChatParameters, parameters.chat_request, chat_completion, chat_chunks)


async def completions(request: Request) -> ASGIApp:
    """``POST /v1/completions``."""
    return await _complete(
        request,
        parameters.CompletionParameters,
        parameters.completion_request,
        completion,
        completion_chunks,
    )


async def responses(request: Request) -> ASGIApp:
    """``POST /v1/responses``."""
    return await _complete(
        request, ResponseParameters, response_request, whole_response, response_events, _continued, named=True
    )


async def models(request: Request) -> Response:
    """``GET /v1/models``, and ``GET /v1/models/NAME``."""
    services: GatewayServices = request.app.state.services
    scope = services.scope(await incoming.principal(request, services))
    names = services.generation.models(scope)
    requested = request.path_params.get("model")
    if requested is None:
        return JsonResponse(shapes.ModelList(data=tuple(shapes.Model(id=name) for name in names)))
    if requested not in names:
        raise NotFoundError(
            f"There is no application or model {requested!r}.",
            where="model",
            next_step=nearest(requested, names, "GET /v1/models lists them."),
        )
    return JsonResponse(shapes.Model(id=requested))


async def _complete(
    request: Request,
    shape: type[P],
    ask: Callable[..., AnswerRequest],
    written: Callable[[int, P, Sequence[Answer]], msgspec.Struct],
    streamed: Callable[[str, int, P, int, Answering], AsyncGenerator[msgspec.Struct, None]],
    continued: Callable[[GenerationCall, P, tuple[AnswerRequest, ...]], Awaitable[tuple[AnswerRequest, ...]]]
    | None = None,
    *,
    named: bool = False,
) -> ASGIApp:
    """Answers a request of one of the endpoints that generate.

    Args:
        ask: makes the request of a body's parameters; ``continued`` adds what is stored of earlier ones.
        written: the whole answer in the endpoint's shape; ``streamed``: the events of a stream, ``named`` or not.
    """
    call = GenerationCall(request)

    def translate(read: P, *who: Any) -> tuple[AnswerRequest, ...]:
        question = msgspec.structs.replace(ask(read, *who), timeout=incoming.timeout(request))
        return parameters.questions(read, question)

    read, questions = await call.read(shape, translate)
    if continued is not None:
        found = await call.waited_for(continued(call, read, questions))
        if isinstance(found, Response):
            return found
        questions = found
    choices = read.choices
    reserving = limits.reserve(call.services, call.principal, questions, choices, request.app.state.sizes)
    if (refusal := await call.let_in(reserving, choices)) is not None:
        return refusal
    if read.stream:
        name = questions[0].prediction or call.id
        events = _events(call, questions, partial(streamed, name, call.created, read))
        return EventStream(
            events,
            headers=call.headers,
            first=call.first_byte,
            ended=call.ended,
            named=named,
            starting=call.services.generation.starting,
        )
    answer = call.services.generation.answerer.answer
    answers = await call.waited_for(several.answers(answer, _traced(questions, call.trace)))
    if isinstance(answers, Response):
        return answers
    call.answered(*answers)
    headers = call.headers | _provenance_headers(answers[0])
    response = JsonResponse(written(call.created, read, answers), headers=headers)
    call.first_byte()
    call.ended(None)
    return response


async def _continued(
    call: GenerationCall, read: ResponseParameters, questions: tuple[AnswerRequest, ...]
) -> tuple[AnswerRequest, ...]:
    if read.previous_response_id is None:
        return questions
    stored = StoredResponses.of(call.services)
    return (await run_in_threadpool(stored.continued, read, questions[0]),)


async def _events(
    call: GenerationCall,
    questions: Sequence[AnswerRequest],
    streamed: Callable[[int, Answering], AsyncGenerator[msgspec.Struct, None]],
) -> AsyncGenerator[msgspec.Struct, None]:
    async with (
        aclosing(_answering(call, questions)) as answering,
        aclosing(streamed(len(questions), answering)) as events,
    ):
        async for event in events:
            yield event


async def _answering(
    call: GenerationCall, questions: Sequence[AnswerRequest]
) -> AsyncGenerator[tuple[int, TextDelta | Answer], None]:
    stream = call.services.generation.answerer.stream
    denials: Denials = call.request.app.state.denials
    try:
        async with aclosing(several.stream(stream, _traced(questions, call.trace))) as items:
            async for number, item in items:
                if isinstance(item, Answer):
                    call.answered(item)
                yield number, item
    except AntiphonError as error:
        await denials.record(call.request, error)
        raise


def _traced(questions: Sequence[AnswerRequest], trace: str | None) -> list[AnswerRequest]:
    return [msgspec.structs.replace(question, traceparent=trace) for question in questions]


def _provenance_headers(answer: Answer) -> dict[str, str]:
    headers = {"x-antiphon-prediction": answer.prediction, "x-antiphon-release": answer.receipt.release}
    if answer.publication is not None:
        headers["x-antiphon-publication"] = str(answer.publication)
    if answer.receipt.timing.start:
        headers["x-antiphon-start-seconds"] = f"{answer.receipt.timing.start:.3f}"
    return headers
