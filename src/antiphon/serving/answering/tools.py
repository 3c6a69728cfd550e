"""Functions that a plain model may call: their presentation in the prompt, and the schema that its turn must meet.

A chat template that writes tools itself, and has its model mark calls by ``<tool_call>`` (Hermes, Qwen), is given
them. For any other model they are described in the system turn, and earlier calls and their results are turns in plain
words. What comes back is one of the two forms of ``engine.tool_text``, held to it and to each function's parameters
while it is written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from antiphon.engine.api.messages import ChatTurn, ToolCall
from antiphon.engine.api.tool_text import BEGIN, END, message

MOST_CALLS = 16
"""Calls in one turn: a small model would never end."""


NO_CALL = "No tool."
"""Text of a turn that chooses no tool, where calls are marked by tags."""
_ANY_TEXT = f'TEXT: /(?s:.*)/ & ~/(?s:.*){BEGIN}(?s:.*)/ & ~/\\s*\\{{\\s*"(content|tool_calls)"(?s:.*)/\n'

NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
"""Parameters of a function that takes none."""


class Tool(msgspec.Struct, frozen=True):
    """A function; ``parameters`` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=lambda: dict(NOTHING))


class Tools(msgspec.Struct, frozen=True):
    """The functions that a request may call.

    Attributes:
        required: the turn must call; ``False`` leaves it to the model.
        only: the one function that it must call.
        several: the turn may have more than one call.
        chosen_before: calls are chosen in a turn of their own, before the answer: it has calls and no text.
    """

    tools: tuple[Tool, ...]
    required: bool = False
    only: str | None = None
    several: bool = True
    chosen_before: bool = False

    @property
    def openai(self) -> dict[str, Any]:
        """OpenAI's three parameters, for an engine that speaks its protocol."""
        choice: Any = "required" if self.required else "auto"
        if self.only is not None:
            choice = {"type": "function", "function": {"name": self.only}}
        return {
            "tools": [{"type": "function", "function": msgspec.to_builtins(tool)} for tool in self.tools],
            "tool_choice": choice,
            "parallel_tool_calls": self.several,
        }


def writes_tools(template: str) -> bool:
    """Tells whether a chat template writes tools, and its model marks calls by tags."""
    return "tools" in template and BEGIN in template


def tagged(tools: Tools) -> str:
    """The grammar of a turn where calls are marked by tags: a text, or calls; llguidance's Lark syntax.

    A text that could be taken for the other form is none.
    """
    offered = _offered(tools)
    call = {
        "anyOf": [_call(number, tool) for number, tool in enumerate(offered)],
        "$defs": _places(offered),
        "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    }
    more = rf' ("\n" call){{0,{MOST_CALLS - 1}}}' if tools.several and tools.only is None else ""
    either = "calls" if tools.required or tools.only is not None else "TEXT | calls"
    text = f'TEXT: "{NO_CALL}"\n' if tools.chosen_before else _ANY_TEXT
    return (
        f"%llguidance {{}}\nstart: {either}\n"
        f"calls: call{more}\n"
        f'call: "{BEGIN}\\n" turn "\\n{END}"\n'
        f"turn: %json {json.dumps(call)}\n"
        f"{text}"
    )


def words() -> str:
    """The grammar of an answer whose calls were chosen before it: a text that is no call, in either form."""
    return f"%llguidance {{}}\nstart: TEXT\n{_ANY_TEXT}"


def schema(tools: Tools) -> dict[str, Any]:
    """The JSON schema of a turn."""
    offered = _offered(tools)
    calls = {
        "type": "object",
        "properties": {
            "tool_calls": {
                "type": "array",
                "items": {"anyOf": [_call(number, tool) for number, tool in enumerate(offered)]},
                "minItems": 0 if tools.chosen_before else 1,
                "maxItems": MOST_CALLS if tools.several and tools.only is None else 1,
            }
        },
        "required": ["tool_calls"],
        "additionalProperties": False,
    }
    content = {
        "type": "object",
        "properties": {"content": {"type": "string"}},
        "required": ["content"],
        "additionalProperties": False,
    }
    turn = calls if tools.required or tools.only is not None or tools.chosen_before else {"anyOf": [calls, content]}
    return {**turn, "$defs": _places(offered)}


def instructions(tools: Tools) -> str:
    """The functions in words, for a model whose template does not write them."""
    listed = "\n".join(json.dumps(msgspec.to_builtins(tool), ensure_ascii=False) for tool in tools.tools)
    called = '{"tool_calls": [{"name": NAME, "arguments": {...}}]}'
    if tools.chosen_before:
        when = (
            f'Before you answer, write {called} to call some, or {{"tool_calls": []}} for none; then answer in words.'
        )
        return f"You can call these functions:\n{listed}\n{when}"
    answered = "" if tools.required or tools.only else ' To answer without calling one, write {"content": TEXT}.'
    return f"You can call these functions:\n{listed}\nTo call one, write {called}.{answered}"


def in_words(turns: Sequence[ChatTurn], tools: Tools | None) -> tuple[ChatTurn, ...]:
    """The conversation for a template that knows system, user and assistant, and nothing of tools."""
    written = tuple(_in_words(turn) for turn in turns)
    if tools is None:
        return written
    if written and written[0].role == "system":
        return (ChatTurn("system", f"{written[0].content}\n\n{instructions(tools)}"), *written[1:])
    return (ChatTurn("system", instructions(tools)), *written)


def as_template_reads(turn: ChatTurn) -> dict[str, Any]:
    """A turn as chat templates are given it (the convention of transformers); arguments are objects."""
    return {**message(turn, _arguments), "content": turn.content}


def _in_words(turn: ChatTurn) -> ChatTurn:
    if turn.tool_calls:
        called = [{"name": call.name, "arguments": _arguments(call)} for call in turn.tool_calls]
        content = {"content": turn.content} if turn.content else {}
        return ChatTurn("assistant", json.dumps({**content, "tool_calls": called}, ensure_ascii=False))
    if turn.role == "tool":
        return ChatTurn("user", json.dumps({"tool_result": turn.content}, ensure_ascii=False))
    return turn


def _arguments(call: ToolCall) -> Any:
    try:
        return msgspec.json.decode(call.arguments)
    except msgspec.DecodeError:
        return call.arguments


def _call(number: int, tool: Tool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": {"$ref": f"#/$defs/tool{number}"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _offered(tools: Tools) -> list[Tool]:
    return [tool for tool in tools.tools if tools.only in (None, tool.name)]


def _places(offered: Sequence[Tool]) -> dict[str, Any]:
    return {f"tool{number}": _moved(tool.parameters, number) for number, tool in enumerate(offered)}


def _moved(schema: Any, number: int) -> Any:
    """The schema where it stands now: what it says of places in itself begins at its own root."""
    if isinstance(schema, list):
        return [_moved(each, number) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(value, number) for name, value in schema.items()}
    place = schema.get("$ref")
    if isinstance(place, str) and (place == "#" or place.startswith("#/")):
        moved["$ref"] = f"#/$defs/tool{number}{place[1:]}"
    return moved
