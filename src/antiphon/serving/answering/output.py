"""The output schema held against a text that is already there.

The engine masks tokens so that a finished text meets its schema; a remote engine may ignore the schema, and a text
that was cut off meets none. So what is served is checked, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from antiphon.core.ids import canonical


def parsed(text: str) -> Any:
    """The text's JSON value, ``None`` when it is not JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def mismatches(schema: Mapping[str, Any], output: Any) -> dict[str, str]:
    """Why the value does not meet the JSON schema: top-level property (``""``: the whole) to a reason."""
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
