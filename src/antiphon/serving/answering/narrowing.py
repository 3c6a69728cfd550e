"""Answering only the leading properties of an output: the same prompt, a shorter text.

A constrained output is written in its schema's order, so leaving out what comes after a property changes nothing
about how that property is written: its class probabilities are those of the whole answer. The one place where the two
could differ is the end of a label, since the tokens that close a string differ before a comma and before a brace; it
matters where the end competes with a longer label, and such labels are refused. Measuring a classification then costs
one step or two a row instead of a whole text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import ApplicationSpec

KEPT = frozenset(
    {"type", "properties", "required", "additionalProperties", "title", "description", "$schema", "$defs", "$id"}
    | {"x-guidance"}
)
"""Keywords of an object schema that stay true when its later properties are left out."""


def narrowed(application: ApplicationSpec, only: Sequence[str]) -> ApplicationSpec:
    """The application with its output cut after the last named property; guards and classes of later ones are left
    out with them.

    Raises:
        InvalidInputError: the output is no object, has no such property, its schema relates properties to each other,
            or the last property has a label that begins another one.
    """
    if not only:
        return application
    schema = application.schema
    if schema is None:
        raise InvalidInputError(
            f"The output of the application {application.name} is free text and has no properties.",
            where=f"application {application.name}",
            next_step="Ask for the whole answer.",
        )
    text, kept = _cut(application.output_schema or "", tuple(only), application.name)
    return msgspec.structs.replace(
        application,
        output_schema=text,
        classes=tuple(name for name in application.classes if name in kept),
        guards=tuple(
            guard for guard in application.guards if guard.property in kept or not (guard.property or guard.needs_end())
        ),
    )


def narrowed_to_schema(application: ApplicationSpec, schema: str | None) -> ApplicationSpec:
    """The application as it was when a generation was recorded: narrowed when its schema had fewer properties."""
    if schema is None or application.schema is None:
        return application
    recorded = tuple(msgspec.json.decode(schema, type=dict[str, Any]).get("properties", {}))
    whole = tuple(application.schema.get("properties", {}))
    return narrowed(application, recorded) if recorded and set(recorded) < set(whole) else application


@lru_cache(maxsize=256)
def _cut(schema_text: str, only: tuple[str, ...], name: str) -> tuple[str, frozenset[str]]:
    schema: dict[str, Any] = json.loads(schema_text)
    where = f"application {name}"
    properties: dict[str, Any] = schema.get("properties", {})
    order = list(properties)
    unknown = [each for each in only if each not in properties]
    if unknown:
        raise InvalidInputError(
            f"The output of the {where} has no property {', '.join(unknown)}.",
            where=where,
            next_step=f"It has {', '.join(order) or 'none that are declared'}.",
        )
    kept = order[: max(order.index(each) for each in only) + 1]
    if len(kept) == len(order):
        return schema_text, frozenset(kept)
    clash = _clash([str(label) for label in properties[kept[-1]].get("enum", ())])
    if clash is not None:
        raise InvalidInputError(
            f"The label {clash[0]!r} begins the label {clash[1]!r}, so the two are told apart by what follows.",
            where=f"{where}, output {kept[-1]}",
            next_step="Ask for the whole answer, or rename one of the labels.",
        )
    relating = sorted(set(schema) - KEPT)
    if relating:
        raise InvalidInputError(
            f"The output schema of the {where} says {', '.join(relating)}, which may relate properties to each other.",
            where=where,
            next_step="Ask for the whole answer.",
        )
    cut = {**schema, "properties": {each: properties[each] for each in kept}}
    if "required" in schema:
        cut["required"] = [each for each in schema["required"] if each in kept]
    return json.dumps(cut), frozenset(kept)


def _clash(labels: Sequence[str]) -> tuple[str, str] | None:
    """Two labels of which one begins the other."""
    # What one label begins stands right behind it in order.
    neighbors = pairwise(sorted(labels))
    return next(((short, long) for short, long in neighbors if short != long and long.startswith(short)), None)
