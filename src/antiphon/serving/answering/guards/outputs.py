"""The JSON of an output: as a value, its mismatches with a schema, its words, and the properties of an unfinished one.

An engine masks tokens so that a finished text meets its schema; a remote engine may ignore the schema, and a text that
was cut off meets none. So every served text is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import canonical


class WrittenProperty(msgspec.Struct, frozen=True):
    """A property of an unfinished object whose value is whole; ``end`` is the place behind the comma after it."""

    name: str
    value: Any
    end: int


def parsed(text: str) -> Any:
    """The text's JSON value, ``None`` when it is not JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def mismatches(schema: Mapping[str, Any], output: Any) -> dict[str, str]:
    """Mismatches of a value with the JSON schema: top-level property (``""``: the whole) to a reason."""
    found: dict[str, str] = {}
    for error in _validator(canonical(schema)).iter_errors(output):
        place = str(error.absolute_path[0]) if error.absolute_path else ""
        found.setdefault(place, str(error.message)[:200])
    return found


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    from jsonschema.validators import validator_for
    from referencing import Registry

    document = msgspec.json.decode(schema)
    # An empty registry: a reference to somewhere else is an error, never a download.
    return validator_for(document)(document, registry=Registry())


def part_of(output: Any, property: str) -> Any:
    """A property of an output that is an object, or all of it where none is named; raises ``InvalidInputError`` when it
    has none of the name."""
    found = output.get(property) if property and isinstance(output, Mapping) else output
    if found is None:
        raise InvalidInputError(f"The output has no {property!r}.")
    return found


def words_of(value: Any, *, keys: bool = True) -> str:
    """Every text and number in a value, and every key unless those are left out, a line each: what a reader sees."""
    return "\n".join(_leaves(value, keys))


def _leaves(value: Any, keys: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if keys:
                yield str(key)
            yield from _leaves(inner, keys)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, keys)
    elif isinstance(value, str):
        yield value
    elif value is not None and not isinstance(value, bool):
        yield str(value)


class PropertyReader:
    """Reads an object as it is written: its leading properties that a comma follows, in order.

    It stops at what is not JSON, and at a name that comes twice: the later one would take the place of the former.
    """

    def __init__(self) -> None:
        self.properties: list[WrittenProperty] = []
        self._text = ""
        self._depth = 0
        self._quoted = self._escaped = self._stopped = False
        self._begin = 0

    def feed(self, text: str) -> None:
        """Read on."""
        at = len(self._text)
        self._text += text
        while at < len(self._text) and not self._stopped:
            self._read(self._text[at], at)
            at += 1

    def _read(self, character: str, at: int) -> None:
        if self._quoted:
            self._quoted = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            self._depth += 1
            if self._depth == 1:
                self._stopped, self._begin = character == "[" or bool(self._text[:at].strip()), at + 1
        elif character in "}]":
            self._depth -= 1
            self._stopped = self._depth <= 0  # the last property is whole only when the text is
        elif character == "," and self._depth == 1:
            self._take(at)

    def _take(self, at: int) -> None:
        one = parsed("{" + self._text[self._begin : at] + "}")
        name, value = next(iter(one.items())) if isinstance(one, dict) and len(one) == 1 else ("", None)
        if not isinstance(one, dict) or len(one) != 1 or any(name == known.name for known in self.properties):
            self._stopped = True
            return
        self.properties.append(WrittenProperty(name, value, at + 1))
        self._begin = at + 1
