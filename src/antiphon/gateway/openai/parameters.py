"""Parameters of ``/v1``. A parameter that is unknown, or known and not implemented, is refused by name.

Names and types follow OpenAI's API reference (chat completions, completions). ``entity``, ``inputs``, ``as_of``,
``minimum_publication``, ``release`` and ``exposure_unit`` are ours; the official client sends them through
``extra_body``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from antiphon.core import json_schemas
from antiphon.core.clock import utc
from antiphon.core.errors import InvalidInputError, UnsupportedParameterError
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import Penalties
from antiphon.gateway.http import incoming
from antiphon.gateway.http.bounds import MOST_TOKENS, Int64, Number, TokenCount, TokenId
from antiphon.gateway.openai.engine_parameters import EngineParameters, engine_parameters
from antiphon.gateway.openai.tools import OpenAITool, OpenAIToolCall, OpenAIToolChoice, offered
from antiphon.governance.identity.principal import Principal
from antiphon.serving.admission.limits import grant_tier
from antiphon.serving.answering.tools import Tools
from antiphon.serving.request import AnswerRequest, DecodingOverrides, Message

NOT_IMPLEMENTED = frozenset(
    {
        "audio",
        "best_of",
        "function_call",
        "functions",
        "metadata",
        "modalities",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "store",
        "suffix",
        "verbosity",
        "web_search_options",
    }
)
"""OpenAI's, and refused here: accepting one and ignoring it would be a lie."""

NEUTRAL = {"best_of": 1, "echo": False, "store": False}
"""Values that ask for nothing; some clients always send them."""

MOST_CHOICES = 128
"""Answers that one request may ask for, over all its prompts."""

Key = str | int

Stop = Annotated[str, msgspec.Meta(min_length=1)]


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
            if (found := json_schemas.unsound(self.json_schema.schema)) is not None:
                raise InvalidInputError(
                    f"`response_format.json_schema.schema`: {found}.", where="response_format.json_schema.schema"
                )
            return self.json_schema.schema
        return {"type": "object"} if self.type == "json_object" else None


class Common(EngineParameters, msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of both endpoints."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    max_tokens: TokenCount | None = None
    seed: Int64 | None = None
    stop: Stop | Annotated[list[Stop], msgspec.Meta(max_length=4)] | None = None
    user: str | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHOICES)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None
    entity: dict[str, Key] = {}
    inputs: dict[str, Any] = {}
    as_of: datetime | None = None
    minimum_publication: Number | None = None
    release: str | None = None
    exposure_unit: str | None = None


class ChatParameters(Common, frozen=True, kw_only=True):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    max_completion_tokens: TokenCount | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[OpenAITool], msgspec.Meta(min_length=1, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | OpenAIToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @property
    def calls(self) -> bool:
        """The answer may call functions, so that its text is to be read as such."""
        return self.tools is not None and self.tool_choice != "none"


class CompletionParameters(Common, frozen=True, kw_only=True):
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


P = TypeVar("P", bound=msgspec.Struct)


def read(content: bytes, shape: type[P]) -> P:
    """The parameters of a body.

    Raises:
        UnsupportedParameterError: names the parameter that is unknown or not implemented.
        InvalidInputError: malformed JSON, or names the parameter of a wrong type.
    """
    known = set(incoming.field_names(shape))
    fields: dict[str, Any] = {}
    for name, value in incoming.json_object(content).items():
        if value is None or (name in NEUTRAL and value == NEUTRAL[name]):
            if name in known or name in NOT_IMPLEMENTED:
                continue
        elif name not in known and (name in NOT_IMPLEMENTED or name in NEUTRAL):
            permitted = f" Only {NEUTRAL[name]!r} is accepted." if name in NEUTRAL else ""
            raise UnsupportedParameterError(
                f"The parameter {name!r} is not implemented here.{permitted}", where=name, next_step="Leave it out."
            )
        fields[name] = value
    return incoming.typed(fields, shape)


def chat_request(
    parameters: ChatParameters, scope: Scope, principal: Principal, request: str, user: str | None = None
) -> AnswerRequest:
    """The question behind a chat completion; an application takes one user turn, which is its question."""
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
    return _request(parameters, scope, principal, request, user, decoding, question=question or None, messages=turns)


def completion_request(
    parameters: CompletionParameters, scope: Scope, principal: Principal, request: str, user: str | None = None
) -> AnswerRequest:
    """The question behind a completion: raw text for a plain model, the question for an application.

    Of several prompts it is the first one's; :func:`questions` has them all.
    """
    first, scored = parameters.prompts[0], parameters.echo is True
    if parameters.max_tokens == 0 and not scored:
        raise InvalidInputError("No tokens at all go with `echo: true` only.", where="max_tokens")
    decoding = {
        "max_tokens": parameters.max_tokens,
        "logprobs": parameters.logprobs,
        "prompt_logprobs": (parameters.logprobs or 0) if scored else None,
    }
    return _request(parameters, scope, principal, request, user, decoding, **_prompted(first))


def questions(parameters: Common, question: AnswerRequest) -> tuple[AnswerRequest, ...]:
    """Every question of the request, in the order of its choices: ``n`` for each prompt, each with a seed of its own.

    Raises:
        InvalidInputError: there are too many of them.
    """
    count = parameters.n or 1
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
    callable_now = offered(parameters.tools, parameters.tool_choice, parameters.parallel_tool_calls)
    if not parameters.calls:
        return None
    requested = {
        "logprobs": parameters.logprobs,
        "stop": parameters.stop,
        "response_format": parameters.response_format is not None and parameters.response_format.type != "text",
    }
    for name, value in requested.items():
        if value:
            raise UnsupportedParameterError(
                f"`{name}` does not go with `tools`: a turn that may call is written as JSON of its own.",
                where=name,
                next_step='Leave it out, or send `tool_choice: "none"`.',
            )
    return callable_now


def _request(
    parameters: Common,
    scope: Scope,
    principal: Principal,
    request: str,
    user: str | None,
    decoding: dict[str, Any],
    **question: Any,
) -> AnswerRequest:
    """The question with what both endpoints have."""
    if parameters.stream_options is not None and not parameters.stream:
        raise InvalidInputError("`stream_options` needs `stream: true`.", where="stream_options")
    if parameters.as_of is not None and parameters.as_of.tzinfo is None:
        raise InvalidInputError(
            "`as_of` has no time zone.", where="as_of", next_step="Write it with an offset, e.g. Z."
        )
    stop = parameters.stop
    penalties = Penalties(
        frequency=parameters.frequency_penalty or 0.0,
        presence=parameters.presence_penalty or 0.0,
        bias=tuple(sorted(_biased(token, bias) for token, bias in (parameters.logit_bias or {}).items() if bias)),
    )
    return AnswerRequest(
        scope=scope,
        principal=principal,
        application=parameters.model,
        entity={name: str(value) for name, value in parameters.entity.items()},
        inputs=parameters.inputs,
        as_of=utc(parameters.as_of) if parameters.as_of else None,
        release=parameters.release,
        minimum_publication=parameters.minimum_publication,
        originating_user=user,
        exposure_unit=parameters.exposure_unit,
        request_id=request,
        tier=grant_tier(parameters.service_tier, principal),
        overrides=DecodingOverrides(
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            seed=parameters.seed,
            stop=None if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
            penalties=None if penalties == Penalties() else penalties,
            engine=engine_parameters(parameters),
            **decoding,
        ),
        **question,
    )


def _biased(token: str, bias: float) -> tuple[int, float]:
    if not (token.isascii() and token.isdigit() and len(token) < 10):
        raise InvalidInputError("The keys of `logit_bias` are tokens, as numbers.", where="logit_bias")
    return int(token), bias
