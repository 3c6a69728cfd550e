"""The text of a turn that may call functions: one JSON object, whoever wrote it.

It has ``content`` (a text), or ``tool_calls`` (an array of objects with ``name`` and ``arguments``), or both in this
order. So a turn with calls is a text like any other: constrained by a schema, kept in a receipt, made again by replay.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import msgspec

from antiphon.core.ids import new_id
from antiphon.engine.messages import ToolCall

_Place = Literal["begin", "content", "between", "calls", "end"]

_BEGIN_CONTENT = re.compile(r'\s*\{\s*"content"\s*:\s*"')
_BEGIN_CALLS = re.compile(r'\s*[{,]\s*"tool_calls"\s*:\s*\[')
_STRING = re.compile(r'(?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_HALF = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}$")
"""The first half of a character that JSON writes as two."""
_SEPARATOR = re.compile(r"[\s,]*")
_decoder = json.JSONDecoder(strict=False)


class ToolReader:
    """Reads such a text piece by piece: content as far as it is there, each call once it is whole."""

    def __init__(self) -> None:
        self._place: _Place = "begin"
        self._rest = ""

    def read(self, piece: str) -> list[str | ToolCall]:
        """What the piece completes: texts of the content, and calls with new ids."""
        self._rest += piece
        found: list[str | ToolCall] = []
        while (step := self._step()) is not None:
            found += step
        return found

    def _step(self) -> list[str | ToolCall] | None:
        """One thing more; ``None`` when the rest has to wait for what follows."""
        match self._place:
            case "begin":
                return self._enter(_BEGIN_CONTENT, "content") or self._enter(_BEGIN_CALLS, "calls")
            case "content":
                return self._content()
            case "between":
                return self._enter(_BEGIN_CALLS, "calls")
            case "calls":
                return self._call()
        return None

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
    found = ToolReader().read(text)
    content = "".join(piece for piece in found if isinstance(piece, str))
    calls = tuple(piece for piece in found if isinstance(piece, ToolCall))
    return (content or None) if calls else content, calls


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
        """What closes the text, the calls included."""
        calls = ", ".join(
            f'{{"name": {json.dumps(call["name"])}, "arguments": {_embedded(call["arguments"])}}}'
            for _, call in sorted(self._calls.items())
        )
        if self._opened:
            return f'", "tool_calls": [{calls}]}}' if calls else '"}'
        return f'{{"tool_calls": [{calls}]}}' if calls else '{"content": ""}'


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
