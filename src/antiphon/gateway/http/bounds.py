"""Numbers as requests declare them: one table of types, so that no number reaches a place that cannot hold it.

Catalog and engine count in 64 bits, tokens in 32. A whole number of a body that no type bounds (an entity's key, an
event's payload, a schema) is held to 64 bits where the body is read.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from antiphon.core.errors import InvalidInputError

LEAST, MOST = -(2**63), 2**63 - 1
MOST_TOKENS = 2**31 - 1

Int64 = Annotated[int, msgspec.Meta(ge=LEAST, le=MOST)]
"""Any whole number that a catalog keeps."""

Number = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
"""Of a version, a publication, a record: counted from 0."""

Count = Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]
"""Rows, examples, texts."""

Few = Annotated[int, msgspec.Meta(ge=1, le=1000)]
"""Items of a list."""

TokenCount = Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]

TokenId = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]

_LONG = re.compile(rb"\d{19}")


def whole_number(text: str) -> int | None:
    """The number in a field of a form; ``None`` for what is none, or does not fit into 64 bits."""
    return int(text) if text.isdecimal() and len(text) <= 18 else None


def require_64_bits(content: bytes, value: Any) -> None:
    """Refuse a body with a whole number that 64 bits do not hold.

    Args:
        content: the body, which says at once that there is none: such a number has 19 digits or more.
        value: what it was read as.

    Raises:
        InvalidInputError: names the place.
    """
    if _LONG.search(content) is None:
        return
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        place, part = waiting.pop()
        if isinstance(part, int) and not LEAST <= part <= MOST:
            raise InvalidInputError(
                "A whole number does not fit into 64 bits.",
                where=place.lstrip(".") or "body",
                next_step="Numbers lie between -2^63 and 2^63-1; send a larger one as text.",
            )
        if isinstance(part, dict):
            waiting += [(f"{place}.{name}"[:200], inner) for name, inner in part.items()]
        elif isinstance(part, list):
            waiting += [(f"{place}[{number}]"[:200], inner) for number, inner in enumerate(part)]
