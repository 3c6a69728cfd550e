"""Schemas that somebody sends: what leads outside, or cannot be counted with, is named without repeating it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from antiphon.core import json_schemas

LOWEST: dict[str, Any] = {"type": "integer", "minimum": -(2**63), "maximum": -(2**63)}
OBJECT: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "schema",
    [
        OBJECT,
        {"$ref": "#/$defs/a", "$defs": {"a": OBJECT}, "$schema": "https://json-schema.org/draft/2020-12/schema"},
        {"enum": [{"$ref": "file:///etc/passwd"}], "default": -(10**30)},
        {"properties": {"$ref": {"type": "string"}, "minimum": {"type": "integer"}}},
        {"properties": {"default": OBJECT, "b": {"$ref": "#/properties/default/properties/a"}}},
        {"properties": {"default": {"enum": [-(10**30)]}, "const": {"default": {"$ref": "file:///x"}}}},
        {"type": "integer", "minimum": -(10**18), "maximum": 2**63 - 1},
    ],
)
def test_a_schema_that_stays_within_itself_is_sound(schema: dict[str, Any]) -> None:
    assert json_schemas.unsound(schema) is None
    assert json_schemas.mistake(schema) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "file:///etc/passwd"},
        {"allOf": [{"items": {"$dynamicRef": "http://10.0.0.1/x"}}]},
        {"properties": {"a": {"$schema": "file:///etc/passwd"}}},
        {"$defs": {"a": {"$ref": "/etc/passwd"}}},
        {"type": "integer", "maximum": -(2**63)},
        {"anyOf": [{"exclusiveMinimum": -1e308}]},
        *({"properties": {name: LOWEST}} for name in ("const", "default", "enum", "examples", "properties")),
        *(
            {within: {"default": {"$ref": "file:///etc/passwd"}}}
            for within in ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties")
        ),
        {"$ref": "#/default", "default": LOWEST},
        {"$ref": "#/%64efault", "default": LOWEST},
        {"$ref": "#/enum/0", "enum": [LOWEST]},
        {"$ref": "#/properties/a/examples/0", "properties": {"a": {"examples": [LOWEST]}}},
        {"$ref": "#/properties/properties/const", "properties": {"properties": {"const": LOWEST}}},
    ],
)
def test_an_unsound_schema_is_told_without_its_values(schema: dict[str, Any]) -> None:
    found = json_schemas.unsound(schema)
    assert found is not None
    assert json_schemas.mistake(schema) == found
    for value in ("/etc", "10.0.0.1", "9223372036854775808", "1e"):
        assert value not in found


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"type": "string", "pattern": "(" * 1_000},
        {"type": "string", "pattern": "a{99999999999999999999}"},
        {"required": 5},
    ],
)
def test_what_is_no_schema_is_told(schema: dict[str, Any]) -> None:
    assert json_schemas.mistake(schema) is not None


def test_depth_does_not_matter() -> None:
    deep: Any = {"$ref": "file:///x"}
    for _ in range(50_000):
        deep = {"items": deep}
    assert json_schemas.unsound(deep) is not None


_COMPILE = """
import json, sys
from antiphon.core import json_schemas
from antiphon.core.errors import UnsatisfiableSchemaError
from antiphon.engine.execution.constrained import Grammars
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
if sys.argv[1] == "off":
    json_schemas.unsound = lambda schema: None
grammars = Grammars(SimulatedRuntime().grammar_tokenizer, 300)
low = -(2**63)
bounds = ((low, low), (low, low + 1), (low + 1, low + 1), (-(2**64), low), (-1e308, -1e308))
ranges = [{"type": "integer", "minimum": minimum, "maximum": maximum} for minimum, maximum in bounds]
schemas = {
    "plain": ranges,
    "property": [{"type": "object", "properties": {"default": ranges[0]}, "required": ["default"]}],
    "pointer": [{"$ref": "#/default", "default": ranges[0]}],
}[sys.argv[2]]
for schema in schemas:
    try:
        grammars.constraint(json.dumps(schema)).permitted()
    except UnsatisfiableSchemaError:
        pass
print("alive")
"""


@pytest.mark.parametrize("place", ["plain", "property", "pointer"])
@pytest.mark.parametrize("defence", ["on", "off"])
def test_an_integer_range_near_the_least_number_does_not_end_the_engine(defence: str, place: str) -> None:
    ended = subprocess.run([sys.executable, "-c", _COMPILE, defence, place], capture_output=True, text=True, timeout=60)
    # Without the bound the library calls itself until the stack is used up, and the process is gone.
    assert ("alive" in ended.stdout) == (defence == "on"), ended.stderr[-500:]
