"""What ``/v1`` accepts. A parameter that is unknown, or known and not implemented, is refused by name.

Names and types follow OpenAI's API reference (chat completions, completions). ``entity``, ``inputs``, ``as_of``,
``minimum_publication``, ``release`` and ``exposure_unit`` are ours; the official client sends them through
``extra_body``.
"""

from __future__ import annotations

import difflib
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from antiphon.core.clock import utc
from antiphon.core.errors import InvalidInput, UnsupportedParameter
from antiphon.core.scope import Scope
from antiphon.gateway import incoming
from antiphon.governance.principal import Principal
from antiphon.serving.request import AnswerRequest, DecodingOverrides, Message

NOT_IMPLEMENTED = frozenset(
    {
        "audio",
        "best_of",
        "echo",
        "function_call",
        "functions",
        "logit_bias",
        "metadata",
        "modalities",
        "moderation",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "suffix",
        "tool_choice",
        "tools",
        "verbosity",
        "web_search_options",
    }
)
"""OpenAI's, and refused here: accepting one and ignoring it would be a lie."""

NEUTRAL = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0, "best_of": 1, "echo": False, "store": False}
"""Values that ask for nothing; some clients always send them."""

Key = str | int


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A part of a message; only text is understood."""

    text: str


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn. ``developer`` is read as ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


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
        if self.type == "json_schema":
            if self.json_schema is None:
                raise InvalidInput("It has no schema.", where="response_format.json_schema")
            return self.json_schema.schema
        return {"type": "object"} if self.type == "json_object" else None


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What both endpoints accept."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], msgspec.Meta(max_length=4)] | None = None
    user: str | None = None
    n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    entity: dict[str, Key] = {}
    inputs: dict[str, Any] = {}
    as_of: datetime | None = None
    minimum_publication: Annotated[int, msgspec.Meta(ge=0)] | None = None
    release: str | None = None
    exposure_unit: str | None = None


class ChatParameters(Common, frozen=True, kw_only=True):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None


class CompletionParameters(Common, frozen=True, kw_only=True):
    """Body of ``POST /v1/completions``; one prompt, as text."""

    prompt: str
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None


P = TypeVar("P", bound=msgspec.Struct)


def read(content: bytes, shape: type[P]) -> P:
    """The parameters of a body.

    Raises:
        UnsupportedParameter: names the parameter that is unknown or not implemented.
        InvalidInput: malformed JSON, or names the parameter of a wrong type.
    """
    body = incoming.json_object(content)
    known = set(incoming.field_names(shape))
    asked: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or (name in NEUTRAL and value == NEUTRAL[name] and type(value) is not str):
            if name not in known and name not in NOT_IMPLEMENTED:
                _refuse(name, known)
            continue
        if name not in known or name in NEUTRAL:
            _refuse(name, known)
        asked[name] = value
    return incoming.typed(asked, shape)


def chat_request(
    parameters: ChatParameters, scope: Scope, principal: Principal, request: str, user: str | None = None
) -> AnswerRequest:
    """The question behind a chat completion; an application sees the last user turn as its question."""
    if parameters.top_logprobs is not None and not parameters.logprobs:
        raise InvalidInput("It needs `logprobs: true`.", where="top_logprobs")
    turns = tuple(
        Message("system" if turn.role == "developer" else turn.role, turn.text()) for turn in parameters.messages
    )
    asked = next((turn.content for turn in reversed(turns) if turn.role == "user"), None)
    return _request(
        parameters,
        scope,
        principal,
        request,
        originating_user=user,
        question=asked or None,
        messages=turns,
        overrides=_overrides(
            parameters,
            max_tokens=parameters.max_completion_tokens or parameters.max_tokens,
            json_schema=parameters.response_format.schema() if parameters.response_format else None,
            logprobs=(parameters.top_logprobs or 0) if parameters.logprobs else None,
        ),
    )


def completion_request(
    parameters: CompletionParameters, scope: Scope, principal: Principal, request: str, user: str | None = None
) -> AnswerRequest:
    """The question behind a completion: raw text for a plain model, the question for an application."""
    return _request(
        parameters,
        scope,
        principal,
        request,
        originating_user=user,
        question=parameters.prompt or None,
        prompt=parameters.prompt,
        overrides=_overrides(parameters, max_tokens=parameters.max_tokens, logprobs=parameters.logprobs),
    )


def _request(parameters: Common, scope: Scope, principal: Principal, request: str, **asked: Any) -> AnswerRequest:
    if parameters.as_of is not None and parameters.as_of.tzinfo is None:
        raise InvalidInput("It has no time zone.", where="as_of", next_step="Write it with an offset, e.g. Z.")
    return AnswerRequest(
        scope=scope,
        principal=principal,
        application=parameters.model,
        entity={name: str(value) for name, value in parameters.entity.items()},
        inputs=parameters.inputs,
        as_of=utc(parameters.as_of) if parameters.as_of else None,
        path="online",
        release=parameters.release,
        minimum_publication=parameters.minimum_publication,
        exposure_unit=parameters.exposure_unit,
        request_id=request,
        **asked,
    )


def _overrides(parameters: Common, **asked: Any) -> DecodingOverrides:
    stop = parameters.stop
    return DecodingOverrides(
        temperature=parameters.temperature,
        top_p=parameters.top_p,
        seed=parameters.seed,
        stop=None if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        **asked,
    )


def _refuse(name: str, known: set[str]) -> None:
    if name in NOT_IMPLEMENTED or name in NEUTRAL:
        permitted = f" Only {NEUTRAL[name]!r} is accepted." if name in NEUTRAL else ""
        raise UnsupportedParameter(
            f"The parameter {name!r} is not implemented here.{permitted}",
            where=name,
            next_step="Leave it out.",
        )
    close = difflib.get_close_matches(name, known, 1)
    raise UnsupportedParameter(
        f"Unknown parameter: {name!r}.",
        where=name,
        next_step=f"Did you mean {close[0]!r}?" if close else "Leave it out; /openapi.json lists the parameters.",
    )
