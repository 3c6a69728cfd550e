"""JSON schemas that clients send: their mistakes are reported before anything works with one.

Invariant: a schema that passed leads nowhere outside itself (no file, no address is looked at for its sake) and has no
bound that the grammar engine cannot count with. That engine ends its process at an integer range close to -2⁶³.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

LOWEST_BOUND = -(10**18)
"""The least ``minimum`` and ``maximum`` that a schema may name."""

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_CONTENTS = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are no schemas."""
_NAMED = frozenset({"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"})
"""Keywords whose values are schemas by name. A name there is no keyword, whatever it is called."""
_DIALECTS = ("http://json-schema.org/", "https://json-schema.org/")


def unsound(schema: Any) -> str | None:
    """Tell why a schema must not be worked with; ``None`` when it may. Values of the schema are not repeated."""
    waiting: list[tuple[Any, bool]] = [(schema, False)]
    while waiting:
        part, by_name = waiting.pop()
        if isinstance(part, list):
            waiting += [(inner, False) for inner in part]
        if not isinstance(part, Mapping):
            continue
        if by_name:
            waiting += [(inner, False) for inner in part.values()]
            continue
        for name in _REFERENCES:
            target = part.get(name)
            if isinstance(target, str) and not target.startswith("#"):
                return f"The schema's {name} leads outside the schema; nothing is fetched or read for it"
            if isinstance(target, str) and _leads_into_contents(target):
                return f"The schema's {name} leads to a value that is no schema"
        dialect = part.get("$schema")
        if isinstance(dialect, str) and not dialect.startswith(_DIALECTS):
            return "The schema's $schema is no dialect of json-schema.org"
        for name in _BOUNDS:
            bound = part.get(name)
            if isinstance(bound, int | float) and bound < LOWEST_BOUND:
                return f"The schema's {name} lies below -10^18"
        waiting += [(inner, name in _NAMED) for name, inner in part.items() if name not in _CONTENTS]
    return None


def _leads_into_contents(reference: str) -> bool:
    """Tell whether a JSON pointer passes a keyword whose value was not looked through."""
    by_name = False
    for step in unquote(reference).split("/")[1:]:
        if not by_name and step in _CONTENTS:
            return True
        by_name = not by_name and step in _NAMED
    return False


def mistake(schema: Mapping[str, Any]) -> str | None:
    """Tell why something is no schema, or must not be worked with; ``None`` when it is one."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    if (found := unsound(schema)) is not None:
        return found
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        path = ".".join(str(part) for part in error.absolute_path)
        return f"The schema is no JSON schema{f' at {path[:100]}' if path else ''}: {error.message[:200]}"
    # Of a pattern, which is compiled: groups in groups, and a repetition without end.
    except (RecursionError, OverflowError):
        return "The schema, or a pattern in it, is nested too deeply or repeats too often"
    return None
