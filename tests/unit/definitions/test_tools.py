"""Declared tools: the schema of their types, and their mistakes."""

from __future__ import annotations

import msgspec
import pytest
from tests.harness import tea_tools

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.tools import ToolBounds, ToolSpec, http_tool, spec_of, tool, tool_mistakes


def test_the_types_of_a_function_are_its_schema() -> None:
    spec = spec_of(tea_tools.parcel)
    assert (spec.name, spec.function, spec.acts) == ("parcel", "tests.harness.tea_tools:parcel", False)
    assert spec.description == "Find a parcel by the number of its order."
    assert msgspec.json.decode(spec.parameters) == {
        "type": "object",
        "properties": {"order": {"type": "string"}, "detail": {"enum": ["day", "place"], "default": "day"}},
        "required": ["order"],
        "additionalProperties": False,
    }
    # The model does not choose the key.
    assert list(msgspec.json.decode(spec_of(tea_tools.send).parameters)["properties"]) == ["order"]


def test_what_has_no_type_is_no_tool() -> None:
    with pytest.raises(InvalidInputError, match="a parameter whose type is not known"):

        @tool()
        def untyped(order):  # type: ignore[no-untyped-def]
            """Find it."""

    with pytest.raises(InvalidInputError, match="acts and takes no `idempotency_key`"):

        @tool(acts=True)
        def keyless(order: str) -> str:
            """Send it."""
            return order


def mistakes(*tools: object, bounds: object = ToolBounds()) -> str:
    return " ".join(tool_mistakes(tools, bounds))


def test_mistakes_say_which_tool() -> None:
    sound = spec_of(tea_tools.parcel)
    assert mistakes(sound, spec_of(tea_tools.send)) == ""
    assert "'parcel' is declared twice" in mistakes(sound, sound)
    assert "is no tool; declare the function with @tool()" in mistakes(len)
    assert "has no description" in mistakes(msgspec.structs.replace(sound, description=" "))
    assert "at most 60" in mistakes(msgspec.structs.replace(sound, timeout=61.0))
    assert "a name is letters" in mistakes(msgspec.structs.replace(sound, name="a parcel"))
    assert "not in the definitions" in mistakes(msgspec.structs.replace(sound, function="__main__:parcel"))
    assert "a function or has a URL" in mistakes(ToolSpec("find", "Find it.", "{}"))
    url = http_tool("find", url="ftp://shop", description="Find it.", parameters={"type": "object"})
    assert "is no http(s) URL" in mistakes(url)
    assert "from 1 to 32 calls" in mistakes(sound, bounds=ToolBounds(calls=0))
    assert "must be a ToolBounds" in mistakes(sound, bounds=3)
