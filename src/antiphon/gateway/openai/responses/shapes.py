"""Responses of ``/v1/responses`` and the events of their streams, in OpenAI's shapes."""

from __future__ import annotations

from typing import Literal

import msgspec

from antiphon.gateway.openai.responses.items import Status
from antiphon.gateway.openai.responses.parameters import ChosenFunction, FunctionTool, NamespaceTool, TextOptions
from antiphon.gateway.openai.shapes import AnswerProvenance, TokenLogprob
from antiphon.serving.request import Tier


class OutputText(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    """The text of a message."""

    text: str
    annotations: tuple[()] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class OutputMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """An item of the output: what the answer says."""

    id: str
    role: Literal["assistant"] = "assistant"
    status: Status
    content: tuple[OutputText, ...]


class OutputCall(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """An item of the output: a function that is to be called; ``arguments`` is JSON, as text."""

    id: str
    status: Status
    call_id: str
    name: str
    arguments: str
    namespace: str | msgspec.UnsetType = msgspec.UNSET


OutputItem = OutputMessage | OutputCall


class InputDetails(msgspec.Struct, frozen=True):
    """Tokens whose work was shared with an earlier prompt."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    """Tokens of reasoning; there is none."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True):
    """Tokens of this response; zero when it was served from store."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseFailure(msgspec.Struct, frozen=True):
    """The end of a response that failed while it was streamed; ``code`` is OpenAI's, ``type`` ours."""

    code: Literal["server_error", "rate_limit_exceeded"]
    message: str
    type: str
    param: str | None = None


class IncompleteDetails(msgspec.Struct, frozen=True):
    """The reason why a response ended before its end."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ReasoningOptions(msgspec.Struct, frozen=True):
    """Options of reasoning; there are none."""

    effort: None = None
    summary: None = None


class ConversationOfResponse(msgspec.Struct, frozen=True):
    """The conversation that the response belongs to."""

    id: str


class ModelResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``POST /v1/responses``. Its id is the prediction's; times are seconds since 1970."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    background: bool = False
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    metadata: dict[str, str]
    model: str
    output: tuple[OutputItem, ...] = ()
    parallel_tool_calls: bool
    previous_response_id: str | None
    conversation: ConversationOfResponse | None = None
    prompt_cache_key: str | None
    reasoning: ReasoningOptions = ReasoningOptions()
    safety_identifier: str | None
    service_tier: Tier | msgspec.UnsetType
    store: bool
    temperature: float | None
    text: TextOptions
    tool_choice: str | ChosenFunction
    tools: tuple[FunctionTool | NamespaceTool, ...]
    top_logprobs: int | None
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None
    antiphon: AnswerProvenance | msgspec.UnsetType = msgspec.UNSET


class ResponseDeletion(msgspec.Struct, frozen=True, kw_only=True):
    """A response that cannot be fetched any more."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class StateEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The response as it begins and ends."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    sequence_number: int
    response: ModelResponse


class ItemEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An item of the output as it begins and ends."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


class _ItemPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Of events in an item: which event, and which item."""

    sequence_number: int
    item_id: str
    output_index: int


class _TextPlace(_ItemPlace, frozen=True, kw_only=True):
    """Of events in a message's text, which is its one part."""

    content_index: int = 0


class PartEvent(_TextPlace, frozen=True, kw_only=True):
    """The text of a message as it begins and ends."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputText


class TextEvent(_TextPlace, frozen=True, kw_only=True):
    """More of a message's text."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str
    logprobs: tuple[TokenLogprob, ...] = ()


class WholeTextEvent(_TextPlace, frozen=True, kw_only=True):
    """The whole of a message's text."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ArgumentsEvent(_ItemPlace, frozen=True, kw_only=True):
    """More of a call's arguments; they come whole."""

    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    delta: str


class WholeArgumentsEvent(_ItemPlace, frozen=True, kw_only=True):
    """The whole of a call's arguments."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str


STREAMED_EVENTS = (StateEvent, ItemEvent, PartEvent, TextEvent, WholeTextEvent, ArgumentsEvent, WholeArgumentsEvent)

StreamedEvent = StateEvent | ItemEvent | PartEvent | TextEvent | WholeTextEvent | ArgumentsEvent | WholeArgumentsEvent
