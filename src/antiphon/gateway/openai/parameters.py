"""Parameters of chat completions and completions; names and types follow OpenAI's API reference."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from antiphon.core import json_schemas
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.gateway.http.bounds import MOST_TOKENS, TokenCount, TokenId
from antiphon.gateway.openai.common import Common, ConversationId, answer_request
from antiphon.gateway.openai.tools import OpenAITool, OpenAIToolCall, OpenAIToolChoice, offered, refuse_beside_tools
from antiphon.governance.identity.principal import Principal
from antiphon.serving.answering.tools import Tools
from antiphon.serving.request import AnswerRequest, Message

MOST_CHOICES = 128
"""Answers that one request may ask for, over all its prompts."""


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A part of a message; only text is understood."""

    text: str


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn. ``developer`` is read as ``system``; ``refusal`` is what our own answers say of it: nothing."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[OpenAIToolCall] | None = None
    tool_call_id: str | None = None
    refusal: None = None

    def turn(self, where: str) -> Message:
        """The turn as the engine is told it.

        Raises:
            InvalidInputError: a field is missing that its role needs, or there is one that it does not have.
        """
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise InvalidInputError(f"`{where}` has no content.", where=f"{where}.content")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise InvalidInputError(
                "A turn of the role `tool` names the call that it is the result of, and no other turn does.",
                where=f"{where}.tool_call_id",
            )
        if self.tool_calls and self.role != "assistant":
            raise InvalidInputError("Only the assistant calls.", where=f"{where}.tool_calls")
        content = self.content or ""
        return Message(
            role="system" if self.role == "developer" else self.role,
            content=content if isinstance(content, str) else "".join(part.text for part in content),
            tool_calls=tuple(called.call for called in self.tool_calls or ()),
            tool_call_id=self.tool_call_id,
            name=self.name,
        )


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``include_usage`` adds a last chunk with the usage."""

    include_usage: bool = False


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named schema; it is always enforced, token by token, whatever ``strict`` says."""

    schema: dict[str, Any]
    name: str = "output"
    description: str | None = None
    strict: bool | None = None

    def sound(self, where: str) -> dict[str, Any]:
        """The schema; raises ``InvalidInputError`` for one that leads outside itself, or has bounds that nothing counts
        with."""
        if (found := json_schemas.unsound(self.schema)) is not None:
            raise InvalidInputError(f"`{where}`: {found}.", where=where)
        return self.schema


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``text``, any ``json_object``, or what meets a ``json_schema``."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema(self) -> dict[str, Any] | None:
        """The schema that the answer must meet; ``None``: any text.

        Raises:
            InvalidInputError: it is missing, leads outside itself, or has bounds that nothing counts with.
        """
        if self.type == "json_schema":
            if self.json_schema is None:
                raise InvalidInputError(
                    "`response_format.json_schema` is missing.", where="response_format.json_schema"
                )
            return self.json_schema.sound("response_format.json_schema.schema")
        return {"type": "object"} if self.type == "json_object" else None


class ChoiceParameters(Common, frozen=True, kw_only=True):
    """Parameters of both endpoints, and of no other."""

    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHOICES)] | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    def check_stream_options(self) -> None:
        """Raises ``InvalidInputError`` where there is no stream that they could be options of."""
        if self.stream_options is not None and not self.stream:
            raise InvalidInputError("`stream_options` needs `stream: true`.", where="stream_options")


class ChatParameters(ChoiceParameters, frozen=True, kw_only=True):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    max_completion_tokens: TokenCount | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[OpenAITool], msgspec.Meta(min_length=1, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | OpenAIToolChoice | None = None
    parallel_tool_calls: bool | None = None
    conversation: ConversationId | None = None

    @property
    def calls(self) -> bool:
        """The answer may call functions, so that its text is to be read as such."""
        return self.tools is not None and self.tool_choice != "none"


class CompletionParameters(ChoiceParameters, frozen=True, kw_only=True):
    """Body of ``POST /v1/completions``: one prompt or several, each as text or as tokens."""

    prompt: str | list[str | TokenId | list[TokenId]]
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)] | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    echo: bool | None = None

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """Each prompt.

        Raises:
            InvalidInputError: there is none, an empty one, or texts, tokens and lists are mixed.
        """
        given: list[Any] = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)
        if given and all(isinstance(each, int) for each in given):
            given = [given]  # one prompt, as tokens
        texts = all(isinstance(each, str) for each in given)
        tokens = all(isinstance(each, list) and each for each in given)
        if not given or not (texts or tokens):
            raise InvalidInputError(
                "`prompt` must be a text, tokens, or an array of several of one kind, none of them empty.",
                where="prompt",
            )
        return tuple(each if isinstance(each, str) else tuple(each) for each in given)


def chat_request(
    parameters: ChatParameters, scope: Scope, principal: Principal, request: str, user: str | None = None
) -> AnswerRequest:
    """The question behind a chat completion: of an application, the last user's turn."""
    parameters.check_stream_options()
    if parameters.top_logprobs is not None and not parameters.logprobs:
        raise InvalidInputError("`top_logprobs` needs `logprobs: true`.", where="top_logprobs")
    turns = tuple(message.turn(f"messages[{number}]") for number, message in enumerate(parameters.messages))
    question = next((turn.content for turn in reversed(turns) if turn.role == "user"), None)
    decoding = {
        "max_tokens": parameters.max_completion_tokens or parameters.max_tokens,
        "json_schema": parameters.response_format.schema() if parameters.response_format else None,
        "logprobs": (parameters.top_logprobs or 0) if parameters.logprobs else None,
        "tools": _tools(parameters),
    }
    return answer_request(
        parameters,
        scope,
        principal,
        request,
        user,
        decoding,
        question=question or None,
        messages=turns,
        conversation=parameters.conversation,
    )


def completion_request(
    parameters: CompletionParameters, scope: Scope, principal: Principal, request: str, user: str | None = None
) -> AnswerRequest:
    """The question behind a completion: raw text for a plain model, the question for an application.

    Of several prompts it is the first one's; :func:`questions` has them all.
    """
    parameters.check_stream_options()
    first, scored = parameters.prompts[0], parameters.echo is True
    if parameters.max_tokens == 0 and not scored:
        raise InvalidInputError("No tokens at all go with `echo: true` only.", where="max_tokens")
    decoding = {
        "max_tokens": parameters.max_tokens,
        "logprobs": parameters.logprobs,
        "prompt_logprobs": (parameters.logprobs or 0) if scored else None,
    }
    return answer_request(parameters, scope, principal, request, user, decoding, **_prompted(first))


def questions(parameters: Common, question: AnswerRequest) -> tuple[AnswerRequest, ...]:
    """Every question of the request, in the order of its choices: ``n`` for each prompt, each with a seed of its own.

    Raises:
        InvalidInputError: there are too many of them.
    """
    count = parameters.choices
    prompts = parameters.prompts if isinstance(parameters, CompletionParameters) else (None,)
    if count * len(prompts) > MOST_CHOICES:
        raise InvalidInputError(
            f"More than {MOST_CHOICES} answers are asked for.", where="n", next_step="Ask for fewer."
        )
    if count * len(prompts) == 1:
        return (question,)
    overrides = question.overrides
    fields = []
    for prompt in prompts:
        for number in range(count):
            seed = (overrides.seed or 0) + number if number or overrides.seed is not None else None
            one = msgspec.structs.replace(overrides, seed=seed, choices=count * len(prompts))
            prompted = {} if prompt is None else _prompted(prompt)
            fields.append(msgspec.structs.replace(question, overrides=one, **prompted))
    return tuple(fields)


def _prompted(prompt: str | tuple[int, ...]) -> dict[str, Any]:
    if isinstance(prompt, tuple):
        return {"question": None, "prompt": None, "prompt_ids": prompt}
    return {"question": prompt or None, "prompt": prompt, "prompt_ids": ()}


def _tools(parameters: ChatParameters) -> Tools | None:
    if parameters.tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if getattr(parameters, name) is not None:
                raise InvalidInputError(
                    f"`{name}` is given, but no tools are.",
                    where=name,
                    next_step="Send `tools` too, or leave it out.",
                )
        return None
    choice = parameters.tool_choice
    callable_now = offered(
        [tool.function for tool in parameters.tools],
        required=choice == "required",
        only=choice.function.name if isinstance(choice, OpenAIToolChoice) else None,
        several=parameters.parallel_tool_calls,
        places=[f"tools[{number}].function" for number in range(len(parameters.tools))],
        choice_place="tool_choice.function.name",
    )
    if not parameters.calls:
        return None
    refuse_beside_tools(
        {
            "logprobs": parameters.logprobs,
            "stop": parameters.stop,
            "response_format": parameters.response_format is not None and parameters.response_format.type != "text",
        }
    )
    return callable_now
