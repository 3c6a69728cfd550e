"""Parameters of ``/v1/responses``; names and types follow OpenAI's API reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from antiphon.core.errors import InvalidInputError, UnsupportedParameterError
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.gateway.http.bounds import TokenCount
from antiphon.gateway.openai.common import LEAVE_OUT, Common, ConversationId, answer_request
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


class NamespaceTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="namespace"):
    """An item of ``tools`` that holds several under one name; its description goes before that of each."""

    name: Name
    tools: Annotated[list[FunctionTool], msgspec.Meta(min_length=1, max_length=128)]
    description: str = ""


class OfferedFunction(msgspec.Struct, frozen=True):
    """A function as the model is offered it, and the place in the request that it comes from."""

    function: Function
    place: str
    namespace: str | None = None
    name: str = ""

    @classmethod
    def of(cls, tool: FunctionTool | NamespaceTool, place: str) -> list[OfferedFunction]:
        """Those of a tool."""
        if isinstance(tool, FunctionTool):
            return [cls(tool, place, None, tool.name)]
        return [
            cls(
                Function(
                    items.qualified(tool.name, one.name),
                    "\n".join(filter(None, (tool.description, one.description))),
                    one.parameters,
                ),
                f"{place}.tools[{number}]",
                tool.name,
                one.name,
            )
            for number, one in enumerate(tool.tools)
        ]


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


class ConversationReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation by its id."""

    id: ConversationId


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
        "n": "Send a request for each answer, or ask /v1/chat/completions.",
        "truncation": "Send no more than the model's context takes.",
    }  # fmt: skip
    neutral: ClassVar[Mapping[str, Any]] = {"background": False, "truncation": "disabled", "n": 1}

    input: str | Annotated[list[InputItem], msgspec.Meta(min_length=1)]
    instructions: str | None = None
    previous_response_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    conversation: ConversationId | ConversationReference | None = None
    store: bool | None = None
    max_output_tokens: TokenCount | None = None
    tools: Annotated[list[FunctionTool | NamespaceTool], msgspec.Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions = TextOptions()
    include: tuple[Literal["message.output_text.logprobs", "reasoning.encrypted_content"], ...] = ()
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    client_metadata: (
        Annotated[dict[str, Annotated[str, msgspec.Meta(max_length=8_192)]], msgspec.Meta(max_length=64)] | None
    ) = None

    @property
    def calls(self) -> bool:
        """The answer may call functions, so that its text is to be read as such."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def logprobs(self) -> bool:
        """The answer is to tell log-probabilities."""
        return LOGPROBS in self.include

    @property
    def conversation_id(self) -> str | None:
        """The conversation that it goes on with."""
        given = self.conversation
        return given.id if isinstance(given, ConversationReference) else given

    @property
    def functions(self) -> list[OfferedFunction]:
        """The functions of all tools."""
        return [
            one for number, tool in enumerate(self.tools or ()) for one in OfferedFunction.of(tool, f"tools[{number}]")
        ]

    def names_of(self, called: str) -> dict[str, str]:
        """The name of a called function, and its namespace if it has one, as the request has them."""
        for one in self.functions:
            if one.namespace is not None and one.function.name == called:
                return {"name": one.name, "namespace": one.namespace}
        return {"name": called}

    @classmethod
    def prepared(cls, fields: dict[str, Any]) -> dict[str, Any]:
        given = dict(fields)
        if isinstance(given.get("input"), list):
            given["input"] = items.checked(given["input"])
        if isinstance(given.get("tools"), list):
            given["tools"] = _checked_tools(given["tools"], ("function", "namespace"), "tools")
        items.require_kind(given.get("tool_choice"), ("function",), "tool_choice", "A choice", {}, _RUN_IT)
        neutral = {"effort": "none", "summary": "auto"}
        _drop_neutral(given, "reasoning", neutral, "`chat_template_kwargs` tells engines that know it.")
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
    if parameters.conversation is not None and parameters.previous_response_id is not None:
        raise InvalidInputError(
            "`previous_response_id` and `conversation` both say what it goes on from.",
            where="previous_response_id",
            next_step="Send one of them.",
        )
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
        conversation=parameters.conversation_id,
        kept=parameters.store is not False,
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
    functions = parameters.functions
    callable_now = offered(
        [one.function for one in functions],
        required=choice == "required",
        only=only,
        several=parameters.parallel_tool_calls,
        places=[one.place for one in functions],
        choice_place="tool_choice.name",
    )
    if not parameters.calls:
        return None
    formatted = not isinstance(parameters.text.format, TextFormat)
    refuse_beside_tools({"include": parameters.logprobs, "stop": parameters.stop, "text.format": formatted})
    return callable_now


def _checked_tools(tools: list[Any], kinds: Sequence[str], place: str) -> list[Any]:
    """Tools without the fields that say nothing; raises ``UnsupportedParameterError`` for one of another kind."""
    found = []
    for number, tool in enumerate(tools):
        where = f"{place}[{number}]"
        items.require_kind(tool, kinds, where, "A tool", {}, _RUN_IT)
        if isinstance(tool, dict):
            tool = {name: value for name, value in tool.items() if value is not None}
            if isinstance(tool.get("tools"), list):
                tool["tools"] = _checked_tools(tool["tools"], ("function",), f"{where}.tools")
        found.append(tool)
    return found


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
