"""Reading ``--entity key=value`` and times from the command line."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from antiphon.core.clock import utc
from antiphon.core.errors import InvalidInputError

Input = Annotated[
    list[str],
    typer.Option("--input", "-i", metavar="NAME=VALUE", help="What an on-demand feature is made from; repeat it."),
]
Entity = Annotated[list[str], typer.Option("--entity", "-e", metavar="KEY=VALUE", help="An entity key; repeat it.")]
AsOf = Annotated[str, typer.Option("--as-of", metavar="TIME", help="Event time, ISO 8601 with offset (default: now).")]


def pairs(given: Iterable[str], option: str, example: str, form: str = "KEY=VALUE") -> dict[str, str]:
    """``["shop=bakery"]`` as ``{"shop": "bakery"}``; raises ``InvalidInputError`` when one of them has no ``=`` or no
    name."""
    found: dict[str, str] = {}
    for pair in given:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise InvalidInputError(f"{pair!r} is not {form}.", where=option, next_step=f"Write {option} {example}.")
        found[name] = value
    return found


def keys(given: Iterable[str]) -> dict[str, str]:
    """The keys of an entity; raises as :func:`pairs`."""
    return pairs(given, "--entity", "shop=bakery")


def inputs(given: Iterable[str]) -> dict[str, Any]:
    """``--input amount=12.5 --input web=true --input note=hello``: JSON where it is JSON, else a text; raises
    ``InvalidInputError`` when a pair is none."""
    found: dict[str, Any] = {}
    for name, value in pairs(given, "--input", "amount=12.5", "NAME=VALUE").items():
        try:
            found[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[name] = value
    return found


def moment(text: str, where: str = "--as-of") -> datetime | None:
    """A time, or ``None`` for an empty text; ``where`` names the option. Raises ``InvalidInputError`` for no time, or
    one without an offset."""
    if not text:
        return None
    try:
        return utc(datetime.fromisoformat(text))
    except ValueError:
        raise InvalidInputError(
            f"{text!r} is no time.", where=where, next_step="Write it like 2013-04-10T08:00:00-04:00."
        ) from None


def moment_of_cell(value: Any, column: str, where: str = "") -> datetime:
    """A time in a column of a table, in UTC where it names no zone; ``where`` names the row. Raises
    ``InvalidInputError`` when it is none."""
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise InvalidInputError(
            f"{column} is {value!r}, which is no time.", where=where or column, next_step="Write it in ISO 8601."
        ) from None
    return utc(found if found.tzinfo else found.replace(tzinfo=UTC))
