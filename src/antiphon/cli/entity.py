"""Reading ``--entity key=value`` and times from the command line."""

from __future__ import annotations

from datetime import datetime
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


def keys(pairs: list[str]) -> dict[str, str]:
    """``["shop=bakery"]`` as ``{"shop": "bakery"}``.

    Raises:
        InvalidInputError: one of them has no ``=`` or no name.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise InvalidInputError(
                f"{pair!r} is no KEY=VALUE.", where="--entity", next_step="Write --entity shop=bakery."
            )
        found[name] = value
    return found


def moment(text: str, where: str = "--as-of") -> datetime | None:
    """A time, or ``None`` for an empty text; ``where`` names the option.

    Raises:
        InvalidInputError: no time, or one without an offset.
    """
    if not text:
        return None
    try:
        return utc(datetime.fromisoformat(text))
    except ValueError:
        raise InvalidInputError(
            f"{text!r} is no time.", where=where, next_step="Write it like 2013-04-10T08:00:00-04:00."
        ) from None


def inputs(pairs: list[str]) -> dict[str, Any]:
    """``--input amount=12.5 --input web=true --input note=hello``: JSON where it is JSON, else a text.

    Raises:
        InvalidInputError: a pair is none.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInputError(
                f"{pair!r} is no NAME=VALUE.", where="--input", next_step="Write --input amount=12.5."
            )
        try:
            found[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[name] = value
    return found
