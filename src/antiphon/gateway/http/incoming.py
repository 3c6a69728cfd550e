"""Reading requests: the bounded body, strict JSON, the key, the trace."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from antiphon.core.errors import InvalidInputError, TooLargeError, UnauthenticatedError, UnsupportedParameterError
from antiphon.core.memory import MemoryRelease
from antiphon.gateway.http.bounds import require_64_bits
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal, originator
from antiphon.governance.identity.tokens import Authenticator


class Recognition:
    """Keys and tokens that are being read now; of one event loop."""

    def __init__(self) -> None:
        self._readings: dict[str, asyncio.Task[Principal]] = {}

    async def principal(self, bearer: Authenticator, text: str) -> Principal:
        """Returns the principal of a key or token.

        Raises:
            UnauthenticatedError: it does not hold.
            UnavailableError: the catalog, or the token issuer, is away.
        """
        known = bearer.remembered(text)
        if known is None and (begun := self._readings.get(text)) is not None:
            await asyncio.wait([begun])
            known = bearer.remembered(text)
        if known is not None:
            return known
        # Shielded: others wait for this reading too, whoever began it.
        return await asyncio.shield(self._reading(bearer, text))

    def _reading(self, bearer: Authenticator, text: str) -> asyncio.Task[Principal]:
        """The reading that begins now, or that another who waited has just begun."""
        reading = self._readings.get(text)
        if reading is None or reading.done():
            reading = asyncio.get_running_loop().create_task(run_in_threadpool(bearer.authenticate, text))
            self._readings[text] = reading
            reading.add_done_callback(lambda ended: self._ended(text, ended))
        return reading

    def _ended(self, text: str, reading: asyncio.Task[Principal]) -> None:
        if self._readings.get(text) is reading:
            del self._readings[text]
        if not reading.cancelled():
            reading.exception()  # Looked at, for whoever waited may be gone.


T = TypeVar("T")

_LONGEST_TIMEOUT = 86_400


class BodyRelease:
    """ASGI middleware that gives a large body's memory back once its request has been answered."""

    def __init__(self, app: ASGIApp, memory: MemoryRelease | None = None) -> None:
        self._app = app
        self._memory = memory or MemoryRelease()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if scope["type"] == "http":
                self._memory.used(len(scope.get("state", {}).pop("content", b"")))


SEND_LESS = "Send less, or raise `max_body_bytes` under [gateway] in antiphon.toml."


async def body(request: Request, limit: int, next_step: str = SEND_LESS) -> bytes:
    """The request's body; it may be asked for more than once.

    Args:
        limit: the most bytes.
        next_step: of the error for a longer body.

    Raises:
        TooLargeError: it is longer than ``limit`` bytes; the rest is not read.
        starlette.requests.ClientDisconnect: the client went away before its end.
    """
    known: bytes | None = getattr(request.state, "content", None)
    if known is not None:
        if len(known) > limit:
            raise _too_large(limit, next_step)
        return known
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(limit, next_step)
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > limit:
            raise _too_large(limit, next_step)
    request.state.content = bytes(parts)
    return bytes(parts)


def json_object(content: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InvalidInputError: not JSON, or not an object, or with a number that 64 bits do not hold.
    """
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(
            f"The body is not JSON: {error}.", where="body", next_step="Send one JSON object, in UTF-8."
        ) from None
    if not isinstance(value, dict):
        raise InvalidInputError("The body is not a JSON object.", where="body", next_step="Send one JSON object.")
    require_64_bits(content, value)
    return value


def query(request: Request) -> dict[str, str]:
    """The parameters of the query.

    Raises:
        InvalidInputError: one is given twice.
    """
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in values:
            raise InvalidInputError(f"{name!r} is given twice.", where=name, next_step="Give it once.")
        # A plus in a query means a space; in a time it was meant as the sign of the offset.
        values[name] = value.replace(" ", "+") if "T" in value and value.count(" ") == 1 else value
    return values


def typed(value: Mapping[str, Any], shape: type[T], *, from_text: bool = False) -> T:
    """The mapping as a struct; ``from_text`` reads numbers and booleans from strings (query parameters).

    Raises:
        UnsupportedParameterError: a field the struct does not have.
        InvalidInputError: a wrong type or a missing field, named by its path.
    """
    refuse_unknown(value, field_names(shape))
    try:
        return msgspec.convert(value, shape, strict=not from_text)
    except msgspec.ValidationError as error:
        message, _, path = str(error).rpartition(" - at ") if " - at `$" in str(error) else (str(error), "", "")
        where = path.strip("`").removeprefix("$").lstrip(".") or "body"
        raise InvalidInputError(
            f"`{where}`: {_without_value(message)}.", where=where, next_step="See /openapi.json for the types."
        ) from None


def field_names(shape: type[Any]) -> tuple[str, ...]:
    """The names of a struct's fields as they stand in JSON.

    Read off the class: ``msgspec.structs.fields`` evaluates every annotation again, half a millisecond a request.
    """
    names: tuple[str, ...] = shape.__struct_encode_fields__
    return names


def refuse_unknown(value: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise for the first unknown field, with the name it may have been meant to be.

    Raises:
        UnsupportedParameterError: always, when there is one.
    """
    names = set(known)
    for name in value:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            raise UnsupportedParameterError(
                f"Unknown parameter: {name!r}.",
                where=name,
                next_step=f"Did you mean {close[0]!r}?"
                if close
                else "Leave it out; /openapi.json lists the parameters.",
            )


async def principal(request: Request, services: GatewayServices) -> Principal:
    """Authenticates the bearer's key or token. Who is not known already is looked up in a thread.

    Raises:
        UnauthenticatedError: no key or token, or one that does not hold.
        UnavailableError: the catalog, or the token issuer, is away.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise UnauthenticatedError(
            "There is no API key and no token.",
            where="authorization",
            next_step="Send `Authorization: Bearer ak_…`; `antiphon keys create` makes a key.",
        )
    recognition: Recognition = request.app.state.recognition
    found = await recognition.principal(services.access.identity.bearer, key.strip())
    request.state.principal = found
    return found


def originating_user(request: Request, principal: Principal, user: str | None = None) -> str | None:
    """The user on whose behalf the principal asks, by ``X-Antiphon-User`` or a body's ``user``.

    Raises:
        ForbiddenError: this principal may not speak for others.
        InvalidInputError: the name is malformed, or header and body name two users.
    """
    named = request.headers.getlist("x-antiphon-user")
    found = originator(principal, *named, user or None)
    request.state.originator = found
    return found


def timeout(request: Request) -> float | None:
    """Seconds after which the caller wants no answer any more, by ``X-Antiphon-Timeout``; ``None``: it does not say.

    Raises:
        InvalidInputError: it is not a positive number of seconds.
    """
    text = request.headers.get("x-antiphon-timeout")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= _LONGEST_TIMEOUT:
        raise InvalidInputError(
            "The header X-Antiphon-Timeout is not a time to wait.",
            where="x-antiphon-timeout",
            next_step=f"Send seconds, more than 0 and at most {_LONGEST_TIMEOUT}, such as 2.5.",
        )
    return seconds


def _without_value(message: str) -> str:
    """Returns msgspec's message without the value that was wrong: it may be a secret in the wrong place."""
    return message.partition(" '")[0] if message.startswith("Invalid enum value") else message


def _too_large(limit: int, next_step: str) -> TooLargeError:
    return TooLargeError(f"The body is larger than {limit} bytes.", where="body", next_step=next_step)
