"""Functions that an answer may call, as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from antiphon.core import json_schemas
from antiphon.core.errors import InvalidInputError
from antiphon.engine.api.messages import ToolCall
from antiphon.serving.answering.tools import NOTHING, Tool, Tools

Name = Annotated[str, msgspec.Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``parameters`` is the JSON schema of the arguments; it is always enforced, token by token."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OpenAITool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item of ``tools``."""

    type: Literal["function"]
    function: Function


class NamedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name of a function."""

    name: Name


class OpenAIToolChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ``tool_choice`` of one function."""

    type: Literal["function"]
    function: NamedFunction


class CalledFunction(msgspec.Struct, frozen=True):
    """``arguments`` is JSON, as text."""

    name: str
    arguments: str


class OpenAIToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call: of an answer, and of an earlier turn that is sent back."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    @property
    def call(self) -> ToolCall:
        return ToolCall(self.id, self.function.name, self.function.arguments)


class CalledDelta(OpenAIToolCall, frozen=True, kw_only=True):
    """A call in a chunk; it comes whole."""

    index: int


def called(call: ToolCall) -> OpenAIToolCall:
    return OpenAIToolCall(id=call.id, function=CalledFunction(call.name, call.arguments))


def called_delta(index: int, call: ToolCall) -> CalledDelta:
    return CalledDelta(index=index, id=call.id, function=CalledFunction(call.name, call.arguments))


def offered(tools: Sequence[OpenAITool], choice: str | OpenAIToolChoice | None, several: bool | None) -> Tools:
    """Returns the functions that may be called.

    Raises:
        InvalidInputError: two functions have one name, parameters are no schema of an object, or the chosen function is
            not among them.
    """
    functions = [tool.function for tool in tools]
    names = [function.name for function in functions]
    for number, function in enumerate(functions):
        where = f"tools[{number}].function"
        if names.index(function.name) != number:
            raise InvalidInputError(f"Another function is called {function.name!r} too.", where=f"{where}.name")
        if function.parameters:
            _check_schema(function.parameters, f"{where}.parameters")
    only = choice.function.name if isinstance(choice, OpenAIToolChoice) else None
    if only is not None and only not in names:
        raise InvalidInputError(
            f"There is no function {only!r} in `tools`.",
            where="tool_choice.function.name",
            next_step=f"There are {', '.join(names)}.",
        )
    return Tools(
        tuple(Tool(one.name, one.description or "", one.parameters or dict(NOTHING)) for one in functions),
        required=choice == "required",
        only=only,
        several=several is not False,
    )


def _check_schema(schema: dict[str, Any], where: str) -> None:
    if (found := json_schemas.mistake(schema)) is not None:
        raise InvalidInputError(f"`{where}`: {found}.", where=where)
    if schema.get("type") != "object":
        raise InvalidInputError(f'`{where}` describes no object (`"type": "object"`).', where=where)
