"""Tools that an application's model may call before it answers: typed Python functions, and HTTP endpoints."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from antiphon.core import json_schemas
from antiphon.core.errors import InvalidInputError

F = TypeVar("F", bound=Callable[..., Any])

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,63}\Z")
_DEFINITIONS = "antiphon_project_definitions"
_DECLARED = "__antiphon_tool__"
KEY = "idempotency_key"
"""Parameter of tools that act."""


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool as a release pins it.

    Attributes:
        description: what the model is told that it does.
        parameters: JSON schema of its arguments, as text.
        function: ``module:function``; ``url`` of an endpoint instead.
        timeout: seconds within which it must return, up to 60.
        acts: it changes something, and is told a key by which it knows a call that is repeated.
    """

    name: str
    description: str
    parameters: str
    function: str = ""
    timeout: float = 5.0
    url: str = ""
    acts: bool = False


class ToolBounds(msgspec.Struct, frozen=True):
    """Bounds of the tools of one answer.

    Attributes:
        calls: most calls, up to 32.
        seconds: most time that they take together, up to 300.
    """

    calls: int = 8
    seconds: float = 30.0


def tool(*, name: str = "", timeout: float = 5.0, acts: bool = False) -> Callable[[F], F]:
    """Declare a function as a tool: its type hints are the schema of its arguments, its docstring tells the model.

    One that only reads may be called again for the same answer, and for a shadow or an evaluation. One that ``acts`` is
    called for an answer that a user gets, and takes a parameter ``idempotency_key``: the same call is repeated with the
    same key after a crash. A tool returns a text, or a value that is written as JSON.

    Args:
        name: letters, digits and ``_``; the function's own by default.
        timeout: seconds within which it must return.
        acts: it changes something.

    Raises:
        InvalidInputError: a parameter has no type, or one that JSON has not; or one that acts takes no key.
    """

    def declare(function: F) -> F:
        if acts and KEY not in inspect.signature(function).parameters:
            raise InvalidInputError(
                f"The tool {function.__name__!r} acts and takes no `{KEY}`.",
                where="tool",
                next_step=f"Add the parameter `{KEY}: str`, and act once for each key.",
            )
        spec = ToolSpec(
            name=name or function.__name__,
            description=inspect.getdoc(function) or "",
            parameters=msgspec.json.encode(_parameters(function)).decode(),
            function=f"{function.__module__}:{function.__qualname__}",
            timeout=timeout,
            acts=acts,
        )
        setattr(function, _DECLARED, spec)
        return function

    return declare


def http_tool(
    name: str, *, url: str, description: str, parameters: Mapping[str, Any], timeout: float = 5.0, acts: bool = False
) -> ToolSpec:
    """Declare an HTTP endpoint as a tool: it is sent the arguments as JSON by POST, and answers with a text or JSON.

    ``[project] tool_urls`` must name the URL or what it begins with. One that ``acts`` is sent the header
    ``Idempotency-Key``.

    Args:
        parameters: JSON schema of the arguments, an object.
    """
    schema = msgspec.json.encode(dict(parameters)).decode()
    return ToolSpec(name, description, schema, timeout=timeout, url=url, acts=acts)


def spec_of(declared: Any) -> Any:
    """The specification of a function that was declared as a tool; anything else as it is."""
    return getattr(declared, _DECLARED, declared)


def arguments_type(
    function: Callable[..., Any], without: str = KEY, noun: Literal["tool", "workflow"] = "tool"
) -> type[msgspec.Struct]:
    """The type that a function's arguments are read as, without one that its caller gives by itself; raises as
    :func:`tool` does."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        fields = [_field(one, hints) for one in inspect.signature(function).parameters.values() if one.name != without]
        return msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True, kw_only=True)
    except (TypeError, NameError, KeyError) as error:
        raise InvalidInputError(
            f"The {noun} {function.__name__!r} has a parameter whose type is not known: {error}.",
            where=noun,
            next_step="Give each parameter a type that JSON has.",
        ) from None


def tool_mistakes(tools: Sequence[Any], bounds: Any) -> Iterator[str]:
    """Yields the mistakes of an application's tools, a sentence each."""
    names: set[str] = set()
    for declared in tools:
        if not isinstance(declared, ToolSpec):
            yield f"tools: {declared!r} is no tool; declare the function with @tool()."
            continue
        label = f"tool {declared.name!r}"
        if not _NAME.match(declared.name):
            yield f"{label}: a name is letters, digits and _, and begins with a letter."
        if declared.name in names:
            yield f"{label} is declared twice."
        names.add(declared.name)
        if not declared.description.strip():
            yield f"{label} has no description, a docstring: it tells the model what it does."
        if not 0 < declared.timeout <= 60:
            yield f"{label}: timeout is in seconds, above 0 and at most 60, not {declared.timeout!r}."
        module, _, inside = declared.function.partition(":")
        if bool(declared.function) == bool(declared.url):
            yield f"{label}: it is a function or has a URL."
        elif declared.url and not declared.url.startswith(("http://", "https://")):
            yield f"{label}: {declared.url!r} is no http(s) URL."
        elif declared.function and (module in (_DEFINITIONS, "__main__") or "<" in inside):
            yield f"{label}: its function stands in a module that [project] tool_modules names, not in the definitions."
        if (found := json_schemas.mistake(msgspec.json.decode(declared.parameters))) is not None:
            yield f"{label}: {found}."
    if not isinstance(bounds, ToolBounds):
        yield f"tool_bounds must be a ToolBounds, not {bounds!r}."
    elif not (1 <= bounds.calls <= 32 and 0 < bounds.seconds <= 300):
        yield "tool_bounds: from 1 to 32 calls, and at most 300 seconds."


def _field(parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise TypeError(f"{parameter.name} is not named by its caller")
    if parameter.default is parameter.empty:
        return parameter.name, hints[parameter.name]
    return parameter.name, hints[parameter.name], parameter.default


def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    (_,), components = msgspec.json.schema_components((arguments_type(function),), ref_template="#/$defs/{name}")
    schema = {name: part for name, part in components.pop("Arguments").items() if name != "title"}
    return {**schema, "$defs": components} if components else schema
