"""The text of a turn that may call functions, in either of two forms.

One is a JSON object with ``content`` (a text), or ``tool_calls`` (an array of objects with ``name`` and
``arguments``), or both in this order. The other is what models write whose template marks calls by tags: a text, or
such objects, each between ``<tool_call>`` and ``</tool_call>``. So a turn with calls is a text like any other:
constrained by a grammar, kept in a receipt, made again by replay.

Invariant: the forms are told apart by how a text begins, since one with tags may not begin as the object does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from antiphon.core.ids import new_id
from antiphon.engine.api.messages import ChatTurn, ToolCall

BEGIN, END = "<tool_call>", "</tool_call>"

_Place = Literal["begin", "content", "between", "calls", "text", "tagged", "end"]
_OPENINGS = ('{"content":"', '{"tool_calls":[')

_BEGIN_CONTENT = re.compile(r'\s*\{\s*"content"\s*:\s*"')
_BEGIN_CALLS = re.compile(r'\s*[{,]\s*"tool_calls"\s*:\s*\[')
_STRING = re.compile(r'(?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_HALF = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}$")
"""The first half of a character that JSON writes as two."""
_SEPARATOR = re.compile(r"[\s,]*")
_decoder = json.JSONDecoder(strict=False)


class ToolReader:
    """Reads such a text piece by piece: content as far as it is there, each call once it is whole.

    Call :meth:`end` at its end: the beginning of a tag may turn out to be content.
    """

    def __init__(self) -> None:
        self._place: _Place = "begin"
        self._rest = ""

    def read(self, piece: str) -> list[str | ToolCall]:
        """Read a piece; returns what it completes: texts of the content, and calls with new ids."""
        self._rest += piece
        found: list[str | ToolCall] = []
        while (step := self._step()) is not None:
            found += step
        return found

    def end(self) -> list[str | ToolCall]:
        """End the text; returns the held content, without a call that was cut off."""
        held = self._rest if self._place in ("begin", "text") and not _begins_as_object(self._rest) else ""
        self._rest, self._place = "", "end"
        return [held] if held else []

    def _step(self) -> list[str | ToolCall] | None:
        """One thing more; ``None`` when the rest has to wait for what follows."""
        match self._place:
            case "begin":
                return self._begin()
            case "content":
                return self._content()
            case "between":
                return self._enter(_BEGIN_CALLS, "calls")
            case "calls":
                return self._call()
            case "text":
                return self._until(BEGIN, "tagged")
            case "tagged":
                return self._tagged()
        return None

    def _begin(self) -> list[str | ToolCall] | None:
        entered = self._enter(_BEGIN_CONTENT, "content") or self._enter(_BEGIN_CALLS, "calls")
        if entered is not None or not self._rest.strip() or _begins_as_object(self._rest):
            return entered
        self._place = "text"
        return []

    def _until(self, tag: str, place: _Place) -> list[str | ToolCall] | None:
        """Text up to a tag; what may be the beginning of one waits."""
        at = self._rest.find(tag)
        if at >= 0:
            text, self._rest, self._place = self._rest[:at], self._rest[at + len(tag) :], place
            return [text] if text.strip() else []
        held = next((length for length in range(len(tag) - 1, 0, -1) if self._rest.endswith(tag[:length])), 0)
        text = self._rest[: len(self._rest) - held]
        if not text.strip():  # white space between calls is none of the content
            return None
        self._rest = self._rest[len(text) :]
        return [text]

    def _tagged(self) -> list[str | ToolCall] | None:
        called, tag, rest = self._rest.partition(END)
        if not tag:
            return None
        self._rest, self._place = rest, "text"
        try:
            return [_tool_call(json.loads(called, strict=False))]
        except ValueError:
            return [f"{BEGIN}{called}{END}"]

    def _enter(self, opening: re.Pattern[str], place: _Place) -> list[str | ToolCall] | None:
        opened = opening.match(self._rest)
        if opened is None:
            return None
        self._rest, self._place = self._rest[opened.end() :], place
        return [""]

    def _content(self) -> list[str | ToolCall] | None:
        whole = _STRING.match(self._rest)
        written = whole.group() if whole is not None else ""
        ended = self._rest[len(written) : len(written) + 1] == '"'
        if not ended:
            written = _HALF.sub("", written)
        self._rest = self._rest[len(written) + ended :]
        if ended:
            self._place = "between"
        elif not written:
            return None
        return [json.loads(f'"{written}"', strict=False)]

    def _call(self) -> list[str | ToolCall] | None:
        between = _SEPARATOR.match(self._rest)
        begin = between.end() if between is not None else 0
        if self._rest[begin : begin + 1] == "]":
            self._place = "end"
            return None
        try:
            called, end = _decoder.raw_decode(self._rest, begin)
        except ValueError:
            return None
        self._rest = self._rest[end:]
        return [_tool_call(called)]


def read(text: str) -> tuple[str | None, tuple[ToolCall, ...]]:
    """(content, calls) of a text that has ended; what was cut off in the middle of a call is left out."""
    reader = ToolReader()
    found = [*reader.read(text), *reader.end()]
    content = "".join(piece for piece in found if isinstance(piece, str))
    calls = tuple(piece for piece in found if isinstance(piece, ToolCall))
    return (content or None) if calls else content, calls


def message(turn: ChatTurn, arguments: Callable[[ToolCall], Any]) -> dict[str, Any]:
    """A turn in the form of OpenAI's protocol, with a call's arguments in the form that a function gives them."""
    written: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.name is not None:
        written["name"] = turn.name
    if turn.tool_call_id is not None:
        written["tool_call_id"] = turn.tool_call_id
    if turn.tool_calls:
        written["content"] = turn.content or None
        written["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments(call)}}
            for call in turn.tool_calls
        ]
    return written


class ToolWriter:
    """Writes such a text from the pieces in which another server streams its turn."""

    def __init__(self) -> None:
        self._opened = False
        self._calls: dict[int, dict[str, str]] = {}

    def content(self, piece: str) -> str:
        """More of the content."""
        begin = "" if self._opened else '{"content": "'
        self._opened = True
        return begin + json.dumps(piece, ensure_ascii=False)[1:-1]

    def call(self, piece: dict[str, Any]) -> None:
        """More of a call, as an item of a delta's ``tool_calls``."""
        called = self._calls.setdefault(int(piece.get("index") or 0), {"name": "", "arguments": ""})
        function = piece.get("function") or {}
        for part in called:
            called[part] += function.get(part) or ""

    def end(self) -> str:
        """The end of the text, with the calls."""
        calls = ", ".join(
            f'{{"name": {json.dumps(call["name"])}, "arguments": {_embedded(call["arguments"])}}}'
            for _, call in sorted(self._calls.items())
        )
        if self._opened:
            return f'", "tool_calls": [{calls}]}}' if calls else '"}'
        return f'{{"tool_calls": [{calls}]}}' if calls else '{"content": ""}'


def _begins_as_object(text: str) -> bool:
    """True if the text may still become the object."""
    tight = "".join(text.split())
    return any(opening.startswith(tight) for opening in _OPENINGS) if tight else False


def _embedded(arguments: str) -> str:
    try:
        msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return json.dumps(arguments)  # not JSON: handed on as it came
    return arguments


def _tool_call(called: Any) -> ToolCall:
    arguments = called.get("arguments", {}) if isinstance(called, dict) else {}
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(new_id("call"), str(called.get("name", "")) if isinstance(called, dict) else "", text)
