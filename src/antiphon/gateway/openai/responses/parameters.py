"""Parameters of ``/v1/responses``; names and types follow OpenAI's API reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from antiphon.core.errors import InvalidInputError, UnsupportedParameterError
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.gateway.http.bounds import TokenCount
from antiphon.gateway.openai.common import LEAVE_OUT, Common, answer_request
from antiphon.gateway.openai.parameters import JsonSchema
from antiphon.gateway.openai.responses import items
from antiphon.gateway.openai.responses.items import InputItem, PlacedTurn
from antiphon.gateway.openai.tools import Function, Name, offered, refuse_beside_tools
from antiphon.governance.identity.principal import Principal
from antiphon.serving.answering.tools import Tools
from antiphon.serving.request import AnswerRequest, Message

LOGPROBS = "message.output_text.logprobs"

_RUN_IT = "Offer a function (`type: function`), and run it where you are."
_NAMES = {"max_tokens": "max_output_tokens", "response_format": "text.format"}


class FunctionTool(Function, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """An item of ``tools``."""


class ChosenFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """A ``tool_choice`` of one function."""

    name: Name


class TextFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class JsonSchemaFormat(JsonSchema, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that meets a schema."""


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of the answer's text."""

    format: TextFormat | JsonObjectFormat | JsonSchemaFormat = TextFormat()


class ResponseParameters(Common, frozen=True, kw_only=True):
    """Body of ``POST /v1/responses``.

    ``store: false`` keeps no turn that ``GET`` shows and ``previous_response_id`` goes on from; the receipt is kept
    either way.
    """

    not_implemented: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            (
                "access_programs", "context_management", "image", "max_tool_calls", "moderation", "prompt",
                "prompt_cache_options", "prompt_cache_retention", "background_options",
            ),
            LEAVE_OUT,
        ),
        "background": "Stream the answer, or order a batch: POST /v1/batches with the endpoint /v1/responses.",
        "conversation": "Send the id of the response before as `previous_response_id`, or the turns as `input`.",
        "n": "Send a request for each answer, or ask /v1/chat/completions.",
        "truncation": "Send no more than the model's context takes.",
    }  # fmt: skip
    neutral: ClassVar[Mapping[str, Any]] = {"background": False, "truncation": "disabled", "n": 1}

    input: str | Annotated[list[InputItem], msgspec.Meta(min_length=1)]
    instructions: str | None = None
    previous_response_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    store: bool | None = None
    max_output_tokens: TokenCount | None = None
    tools: Annotated[list[FunctionTool], msgspec.Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions = TextOptions()
    include: tuple[Literal["message.output_text.logprobs", "reasoning.encrypted_content"], ...] = ()
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None

    @property
    def calls(self) -> bool:
        """The answer may call functions, so that its text is to be read as such."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def logprobs(self) -> bool:
        """The answer is to tell log-probabilities."""
        return LOGPROBS in self.include

    @classmethod
    def prepared(cls, fields: dict[str, Any]) -> dict[str, Any]:
        given = dict(fields)
        if isinstance(given.get("input"), list):
            given["input"] = items.checked(given["input"])
        for number, tool in enumerate(tools := _listed(given, "tools")):
            items.require_kind(tool, ("function",), f"tools[{number}]", "A tool", {}, _RUN_IT)
            if isinstance(tool, dict):
                tools[number] = {name: value for name, value in tool.items() if value is not None}
        items.require_kind(given.get("tool_choice"), ("function",), "tool_choice", "A choice", {}, _RUN_IT)
        _drop_neutral(given, "reasoning", {"effort": "none"}, "`chat_template_kwargs` tells engines that know it.")
        _drop_neutral(given, "stream_options", {"include_obfuscation": False}, LEAVE_OUT)
        text = given.get("text")
        if isinstance(text, dict):
            form = {"format": text["format"]} if text.get("format") is not None else {}
            rest = {"text": {name: value for name, value in text.items() if name != "format"}}
            _drop_neutral(rest, "text", {"verbosity": "medium"}, LEAVE_OUT)
            given["text"] = form
        return given


def response_request(
    parameters: ResponseParameters, scope: Scope, principal: Principal, request: str, user: str | None = None
) -> AnswerRequest:
    """The request behind a response. What it goes on from is not in it yet: :func:`continued` puts it there.

    Raises:
        InvalidInputError: parameters that do not go together, or the result of a call that nothing made.
    """
    if parameters.top_logprobs is not None and not parameters.logprobs:
        raise InvalidInputError(f"`top_logprobs` needs {LOGPROBS!r} in `include`.", where="top_logprobs")
    form = parameters.text.format
    schema: dict[str, Any] | None = {"type": "object"} if isinstance(form, JsonObjectFormat) else None
    if isinstance(form, JsonSchemaFormat):
        schema = form.sound("text.format.schema")
    decoding = {
        "max_tokens": parameters.max_output_tokens,
        "json_schema": schema,
        "logprobs": (parameters.top_logprobs or 0) if parameters.logprobs else None,
        "tools": _tools(parameters),
    }
    asking = answer_request(parameters, scope, principal, request, user, decoding)
    asking = msgspec.structs.replace(
        asking,
        turn=b"" if parameters.store is False else stored_turn(parameters, request),
        # The first event of a stream names the response, before there is a receipt.
        prediction=new_id("pred") if parameters.stream else None,
    )
    return asking if parameters.previous_response_id is not None else continued(parameters, asking, ())


def continued(parameters: ResponseParameters, asking: AnswerRequest, earlier: Sequence[Message]) -> AnswerRequest:
    """The request with its conversation: instructions, earlier turns, then its own.

    Raises:
        InvalidInputError: the result of a call that no turn before it made.
    """
    given = parameters.input
    own = [PlacedTurn(Message("user", given), "input")] if isinstance(given, str) else items.turns(given)
    instructions = parameters.instructions
    conversation = [
        *([PlacedTurn(Message("system", instructions), "instructions")] if instructions else []),
        *(PlacedTurn(turn, "previous_response_id") for turn in earlier),
        *own,
    ]
    items.require_calls(conversation)
    question = next((placed.turn.content for placed in reversed(own) if placed.turn.role == "user"), None)
    return msgspec.structs.replace(
        asking,
        question=question or None,
        messages=tuple(placed.turn for placed in conversation),
        names=_NAMES | {f"messages[{number}]": placed.place for number, placed in enumerate(conversation)},
    )


class StoredTurn(msgspec.Struct, frozen=True):
    """A request as it is kept for what comes after it; ``request`` is its id, so that no other turn has these bytes."""

    request: str
    parameters: ResponseParameters


def stored_turn(parameters: ResponseParameters, request: str) -> bytes:
    """The turn as it is kept with the receipt."""
    return msgspec.json.encode(StoredTurn(request, parameters))


def _tools(parameters: ResponseParameters) -> Tools | None:
    choice = parameters.tool_choice
    only = choice.name if isinstance(choice, ChosenFunction) else None
    if not parameters.tools:
        if choice == "required" or only is not None:
            raise InvalidInputError(
                "A function is to be called, but no tools are given.",
                where="tool_choice",
                next_step="Send `tools` too, or leave it out.",
            )
        return None
    callable_now = offered(
        parameters.tools,
        required=choice == "required",
        only=only,
        several=parameters.parallel_tool_calls,
        place="tools[{}]",
        choice_place="tool_choice.name",
    )
    if not parameters.calls:
        return None
    formatted = not isinstance(parameters.text.format, TextFormat)
    refuse_beside_tools({"include": parameters.logprobs, "stop": parameters.stop, "text.format": formatted})
    return callable_now


def _listed(fields: dict[str, Any], name: str) -> list[Any]:
    """The items of a field, copied into it so that they may be changed; none where it is no list."""
    if not isinstance(fields.get(name), list):
        return []
    fields[name] = list(fields[name])
    return fields[name]  # type: ignore[no-any-return]


def _drop_neutral(fields: dict[str, Any], name: str, neutral: Mapping[str, Any], next_step: str) -> None:
    """Take a field out whose parts ask for nothing; raises ``UnsupportedParameterError`` for the first that does."""
    given = fields.pop(name, None)
    if given is None:
        return
    if not isinstance(given, dict):
        raise InvalidInputError(f"`{name}` must be an object.", where=name)
    for part, value in given.items():
        if value is not None and not (part in neutral and value == neutral[part]):
            permitted = f" Only {neutral[part]!r} is accepted." if part in neutral else ""
            raise UnsupportedParameterError(
                f"The parameter '{name}.{part}' is not implemented here.{permitted}",
                where=f"{name}.{part}",
                next_step=next_step,
            )
