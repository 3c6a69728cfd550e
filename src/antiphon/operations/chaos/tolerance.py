"""Tolerances of Chaos Toolkit's format: whether a measured value is within one.

A number, text or ``true`` is met by the same value, a list of two numbers by what lies between them, another list by
its members, and objects by their type: ``range``, ``regex``, ``jsonpath``. Of a response or a program's end, numbers
are compared with the status. (Reference: the format's specification, "Steady State Probe Tolerance".)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_STEP = re.compile(r"\.(\w[\w-]*)|\[(\d+)\]|\['([^']+)'\]")


def mistakes(tolerance: Any) -> Iterator[str]:
    """Yields what is wrong with a tolerance as it was written."""
    if isinstance(tolerance, Mapping):
        yield from _object_mistakes(tolerance)
    elif isinstance(tolerance, list):
        if not tolerance:
            yield "a list needs a value"
    elif not isinstance(tolerance, bool | int | float | str):
        yield "it is a number, a text, true or false, a list or an object with a type"


def _object_mistakes(tolerance: Mapping[str, Any]) -> Iterator[str]:
    kind = tolerance.get("type")
    match kind:
        case "range":
            bounds = tolerance.get("range")
            if not (isinstance(bounds, list) and len(bounds) == 2 and all(_is_number(one) for one in bounds)):
                yield 'a range has two numbers: {"type": "range", "range": [0, 0.01]}'
        case "regex":
            try:
                re.compile(str(tolerance["pattern"]))
            except (KeyError, re.error):
                yield "a regex has a pattern that can be compiled"
        case "jsonpath":
            if _steps(str(tolerance.get("path", ""))) is None:
                yield "a jsonpath is a path of names and positions: $.parts.engine or $.jobs[0].status"
        case _:
            yield f"the type {kind!r} is none of range, regex and jsonpath"


def within(value: Any, tolerance: Any) -> bool:
    """Tells whether a measured value is within a tolerance without :func:`mistakes`."""
    if isinstance(tolerance, Mapping):
        return _within_object(value, tolerance)
    if isinstance(value, Mapping) and "status" in value:
        value = value["status"]
    if isinstance(tolerance, list):
        if len(tolerance) == 2 and all(_is_number(one) for one in tolerance):
            return _is_number(value) and bool(tolerance[0] <= value <= tolerance[1])
        return value in tolerance
    return bool(value == tolerance) and isinstance(value, bool) == isinstance(tolerance, bool)


def _within_object(value: Any, tolerance: Mapping[str, Any]) -> bool:
    target = tolerance.get("target")
    if target and isinstance(value, Mapping):
        value = value.get(target)
    match tolerance["type"]:
        case "range":
            low, high = tolerance["range"]
            return _is_number(value) and bool(low <= value <= high)
        case "regex":
            return isinstance(value, str) and re.search(tolerance["pattern"], value) is not None
        case _:
            found = list(_found(_document(value), tolerance["path"]))
            if "expect" in tolerance:
                expected = tolerance["expect"]
                return found == (expected if isinstance(expected, list) else [expected])
            return len(found) == tolerance.get("count", len(found)) and bool(found)


def shown(tolerance: Any) -> str:
    """A tolerance as people read it."""
    if isinstance(tolerance, Mapping) and tolerance.get("type") == "range":
        low, high = tolerance["range"]
        return f"{low:g} to {high:g}"
    if isinstance(tolerance, Mapping):
        return f"{tolerance.get('type')} {tolerance.get('pattern', tolerance.get('path', ''))}"
    if isinstance(tolerance, list) and len(tolerance) == 2 and all(_is_number(one) for one in tolerance):
        return f"{tolerance[0]:g} to {tolerance[1]:g}"
    if isinstance(tolerance, list):
        return "one of " + ", ".join(map(str, tolerance))
    return str(tolerance)


def _document(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return msgspec.json.decode(value.encode())
        except msgspec.DecodeError:
            return value
    return value


def _steps(path: str) -> list[str | int] | None:
    rest = path.removeprefix("$")
    steps: list[str | int] = []
    while rest:
        match = _STEP.match(rest)
        if match is None:
            return None
        steps.append(int(match[2]) if match[2] is not None else match[1] or match[3])
        rest = rest[match.end() :]
    return steps or None


def _found(value: Any, path: str) -> Iterator[Any]:
    for step in _steps(path) or ():
        if isinstance(step, int):
            if not isinstance(value, list) or step >= len(value):
                return
            value = value[step]
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        else:
            return
    yield value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
