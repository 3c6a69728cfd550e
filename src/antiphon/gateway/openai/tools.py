"""Functions that an answer may call, as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from antiphon.core import json_schemas
from antiphon.core.errors import InvalidInputError, UnsupportedParameterError
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


def offered(
    functions: Sequence[Function],
    *,
    required: bool,
    only: str | None,
    several: bool | None,
    places: Sequence[str],
    choice_place: str,
) -> Tools:
    """Returns the functions that may be called.

    Args:
        required: one must be called; ``only``: the one.
        places: of the functions in the request; ``choice_place``: of the name of the only one.

    Raises:
        InvalidInputError: two functions have one name, parameters are no schema of an object, or the chosen function is
            not among them.
    """
    names = [function.name for function in functions]
    for number, (function, where) in enumerate(zip(functions, places, strict=True)):
        if names.index(function.name) != number:
            raise InvalidInputError(f"Another function is called {function.name!r} too.", where=f"{where}.name")
        if function.parameters:
            _check_schema(function.parameters, f"{where}.parameters")
    if only is not None and only not in names:
        raise InvalidInputError(
            f"There is no function {only!r} in `tools`.",
            where=choice_place,
            next_step=f"There are {', '.join(names)}.",
        )
    return Tools(
        tuple(Tool(one.name, one.description or "", one.parameters or dict(NOTHING)) for one in functions),
        required=required,
        only=only,
        several=several is not False,
    )


def refuse_beside_tools(requested: Mapping[str, Any]) -> None:
    """Refuse parameters, by name, that a turn which may call does not go with (``UnsupportedParameterError``)."""
    for name, value in requested.items():
        if value:
            raise UnsupportedParameterError(
                f"`{name}` does not go with `tools`: a turn that may call is written as JSON of its own.",
                where=name,
                next_step='Leave it out, or send `tool_choice: "none"`.',
            )


def _check_schema(schema: dict[str, Any], where: str) -> None:
    if (found := json_schemas.mistake(schema)) is not None:
        raise InvalidInputError(f"`{where}`: {found}.", where=where)
    if schema.get("type") != "object":
        raise InvalidInputError(f'`{where}` describes no object (`"type": "object"`).', where=where)
