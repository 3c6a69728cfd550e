"""Answers as responses: whole, the same online and for a line of a batch, and streamed.

Invariant: a stream's last event holds what the whole response would, and its items are those that the events before it
made. Ids of items and calls follow from the response's and their place, so that a response read later has the same.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any, Literal

import msgspec

from antiphon.core.errors import AntiphonError
from antiphon.engine.api.messages import TokenOut, ToolCall
from antiphon.engine.api.tool_text import ToolReader
from antiphon.gateway.http import problem
from antiphon.gateway.openai import shapes
from antiphon.gateway.openai.responses.items import Status
from antiphon.gateway.openai.responses.parameters import ResponseParameters
from antiphon.gateway.openai.responses.shapes import (
    ArgumentsEvent,
    ConversationOfResponse,
    IncompleteDetails,
    InputDetails,
    ItemEvent,
    ModelResponse,
    OutputCall,
    OutputDetails,
    OutputItem,
    OutputMessage,
    OutputText,
    PartEvent,
    ResponseFailure,
    ResponseUsage,
    StateEvent,
    StreamedEvent,
    TextEvent,
    WholeArgumentsEvent,
    WholeTextEvent,
)
from antiphon.serving.request import Answer, TextDelta

TOO_MUCH = 429
"""The status of errors that say that there is no room."""


def whole_response(created: int, read: ResponseParameters, answers: Sequence[Answer]) -> ModelResponse:
    """Answer of ``/v1/responses``; ``created`` is in seconds since 1970."""
    (answer,) = answers
    cut = answer.finish_reason == "length"
    usage = shapes.usage(answers, 1)
    return _response(
        answer.prediction,
        created,
        read,
        status="incomplete" if cut else "completed",
        incomplete_details=IncompleteDetails() if cut else None,
        completed_at=int(answer.receipt.created_at.timestamp()),
        output=output_items(read, answer),
        usage=ResponseUsage(
            usage.prompt_tokens,
            InputDetails(usage.prompt_tokens_details.cached_tokens),
            usage.completion_tokens,
            OutputDetails(),
            usage.total_tokens,
        ),
        antiphon=shapes.provenance(answer),
        conversation=_conversation(answer),
    )


def _conversation(answer: Answer) -> ConversationOfResponse | None:
    own = answer.receipt.conversation
    return None if own is None or own.id is None else ConversationOfResponse(own.id)


def output_items(read: ResponseParameters, answer: Answer) -> tuple[OutputItem, ...]:
    """The items of an answer: what it says and what it calls, in the order in which they were written."""
    output = _Output(answer.prediction, read)
    for _ in (*output.written(answer.text, answer.tokens), *output.ended(answer.finish_reason)):
        pass
    return tuple(output.items)


async def response_events(
    name: str,
    created: int,
    read: ResponseParameters,
    choices: int,
    answering: AsyncIterator[tuple[int, TextDelta | Answer]],
) -> AsyncGenerator[StreamedEvent, None]:
    """The events of a response called ``name``; a failure after the first of them is told by the last."""
    output = _Output(name, read)
    begun = False
    try:
        async for _, item in answering:
            if not begun:
                begun = True
                at_first = _response(name, created, read, status="in_progress")
                yield StateEvent(type="response.created", sequence_number=output.number(), response=at_first)
                yield StateEvent(type="response.in_progress", sequence_number=output.number(), response=at_first)
            if isinstance(item, TextDelta):
                for event in output.written(item.text, item.tokens):
                    yield event
                continue
            for event in output.ended(item.finish_reason):
                yield event
            whole = whole_response(created, read, (item,))
            kind: Any = f"response.{whole.status}"
            yield StateEvent(type=kind, sequence_number=output.number(), response=whole)
    except Exception as error:
        if begun:
            failed = _response(name, created, read, status="failed", error=_failure(error), output=tuple(output.items))
            yield StateEvent(type="response.failed", sequence_number=output.number(), response=failed)
        raise


class _Output:
    """The items of a response while it is written, and the events that tell of them."""

    def __init__(self, response: str, read: ResponseParameters) -> None:
        self.items: list[OutputItem] = []
        self._suffix = response.partition("_")[2] or response
        self._read = read
        self._reader = ToolReader() if read.calls else None
        self._text: list[str] | None = None
        self._tokens: list[TokenOut] = []
        self._events = 0

    def number(self) -> int:
        """The number of the next event."""
        self._events += 1
        return self._events - 1

    def written(self, text: str, tokens: Sequence[TokenOut] = ()) -> Iterator[StreamedEvent]:
        """More of the text, with its tokens."""
        pieces: Sequence[str | ToolCall] = (text,) if self._reader is None else self._reader.read(text)
        yield from self._pieces(pieces, tokens)

    def ended(self, reason: str) -> Iterator[StreamedEvent]:
        """The text has ended for a reason; a message that was cut off is not complete."""
        if self._reader is not None:
            yield from self._pieces(self._reader.end(), ())
        if self._text is None and not self.items:
            yield from self._open()
        yield from self._close("incomplete" if reason == "length" else "completed")

    def _pieces(self, pieces: Sequence[str | ToolCall], tokens: Sequence[TokenOut]) -> Iterator[StreamedEvent]:
        for piece in pieces:
            if isinstance(piece, ToolCall):
                yield from self._close("completed")
                yield from self._call(piece)
            elif piece or (tokens and self._read.logprobs):
                yield from self._open()
                yield from self._more(piece, tokens)

    def _open(self) -> Iterator[StreamedEvent]:
        if self._text is not None:
            return
        self._text, at = [], len(self.items)
        item = OutputMessage(id=self._id("msg", at), status="in_progress", content=())
        yield ItemEvent(type="response.output_item.added", sequence_number=self.number(), output_index=at, item=item)
        yield PartEvent(
            type="response.content_part.added",
            sequence_number=self.number(),
            item_id=item.id,
            output_index=at,
            part=OutputText(text=""),
        )

    def _more(self, piece: str, tokens: Sequence[TokenOut]) -> Iterator[StreamedEvent]:
        assert self._text is not None
        self._text.append(piece)
        self._tokens += tokens
        at = len(self.items)
        yield TextEvent(
            sequence_number=self.number(),
            item_id=self._id("msg", at),
            output_index=at,
            delta=piece,
            logprobs=self._logprobs(tokens),
        )

    def _close(self, status: Status) -> Iterator[StreamedEvent]:
        if self._text is None:
            return
        at = len(self.items)
        part = OutputText(text="".join(self._text), logprobs=self._logprobs(self._tokens))
        item = OutputMessage(id=self._id("msg", at), status=status, content=(part,))
        self.items.append(item)
        self._text, self._tokens = None, []
        yield WholeTextEvent(
            sequence_number=self.number(), item_id=item.id, output_index=at, text=part.text, logprobs=part.logprobs
        )
        yield PartEvent(
            type="response.content_part.done",
            sequence_number=self.number(),
            item_id=item.id,
            output_index=at,
            part=part,
        )
        yield ItemEvent(type="response.output_item.done", sequence_number=self.number(), output_index=at, item=item)

    def _call(self, call: ToolCall) -> Iterator[StreamedEvent]:
        at = len(self.items)
        item = OutputCall(
            id=self._id("fc", at),
            status="completed",
            call_id=self._id("call", at),
            arguments=call.arguments,
            **self._read.names_of(call.name),
        )
        self.items.append(item)
        begun = msgspec.structs.replace(item, status="in_progress", arguments="")
        yield ItemEvent(type="response.output_item.added", sequence_number=self.number(), output_index=at, item=begun)
        yield ArgumentsEvent(sequence_number=self.number(), item_id=item.id, output_index=at, delta=item.arguments)
        yield WholeArgumentsEvent(
            sequence_number=self.number(), item_id=item.id, output_index=at, name=item.name, arguments=item.arguments
        )
        yield ItemEvent(type="response.output_item.done", sequence_number=self.number(), output_index=at, item=item)

    def _logprobs(self, tokens: Sequence[TokenOut]) -> tuple[shapes.TokenLogprob, ...]:
        return shapes.chat_logprobs(tokens).content if self._read.logprobs else ()

    def _id(self, kind: str, at: int) -> str:
        return f"{kind}_{self._suffix}_{at}"


def _response(name: str, created: int, read: ResponseParameters, **more: Any) -> ModelResponse:
    """A response with what its request says."""
    return ModelResponse(
        id=name,
        created_at=created,
        instructions=read.instructions,
        max_output_tokens=read.max_output_tokens,
        metadata=read.metadata or {},
        model=read.model,
        parallel_tool_calls=read.parallel_tool_calls is not False,
        previous_response_id=read.previous_response_id,
        prompt_cache_key=read.prompt_cache_key,
        safety_identifier=read.safety_identifier,
        service_tier=shapes.tier(read.service_tier),
        store=read.store is not False,
        temperature=read.temperature,
        text=read.text,
        tool_choice=read.tool_choice or "auto",
        tools=tuple(read.tools or ()),
        top_logprobs=read.top_logprobs,
        top_p=read.top_p,
        user=read.user,
        **more,
    )


def _failure(error: Exception) -> ResponseFailure:
    described = problem.describe(error)
    full = isinstance(error, AntiphonError) and error.http_status == TOO_MUCH
    code: Literal["server_error", "rate_limit_exceeded"] = "rate_limit_exceeded" if full else "server_error"
    return ResponseFailure(code, described.message, described.code, described.param)
