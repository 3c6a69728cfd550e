"""Errors as HTTP: the OpenAI shape, with where it was and what to do next. Nothing is decided here."""

from __future__ import annotations

import logging
from math import ceil, isinf
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.errors import AntiphonError
from antiphon.core.logs import unexpected, without_credentials
from antiphon.gateway.http.responses import COMMON, PRIVATE, JsonResponse

_log = logging.getLogger("antiphon.gateway")

MOST_CHARACTERS = 1_000
"""Of what an error says was wrong, and where."""


class ErrorItem(msgspec.Struct, frozen=True):
    """``param`` names the field or part concerned; ``next_step`` says what the caller can do."""

    message: str
    type: str
    code: str
    param: str | None = None
    next_step: str | None = None


class ProblemBody(msgspec.Struct, frozen=True):
    """The body of every failed request."""

    error: ErrorItem


def describe(error: BaseException) -> ErrorItem:
    """The problem to show for an error; of what is not an :class:`AntiphonError` the caller learns the type alone, and
    under which reference the log has it."""
    if not isinstance(error, AntiphonError):
        error = unexpected(error, _log, "a request", "gateway.log")
    what = _bounded(error.what)
    next_step = None if error.next_step is None else _bounded(error.next_step)
    message = f"{what} {next_step.strip()}" if next_step else what
    where = None if error.where is None else _bounded(error.where)
    return ErrorItem(message, error.kind, error.code, where, next_step)


def _bounded(text: str) -> str:
    """An error may name what the caller named; it does not hand back a whole body, or a key in the wrong place."""
    text = without_credentials(text)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def response(error: BaseException, headers: dict[str, str] | None = None) -> Response:
    """The whole response for an error."""
    status = error.http_status if isinstance(error, AntiphonError) else 500
    extra = dict(headers or {})
    if isinstance(error, AntiphonError) and error.retry_after is not None:
        if isinf(error.retry_after):
            extra["x-should-retry"] = "false"  # OpenAI's clients heed it
        else:
            # Rounded up: who comes back then is let in. Clients that know the finer header come back sooner.
            extra["retry-after"] = str(max(1, ceil(error.retry_after)))
            extra["retry-after-ms"] = str(max(1, ceil(error.retry_after * 1000)))
    if status == 401:
        extra["www-authenticate"] = "Bearer"
    return JsonResponse(ProblemBody(describe(error)), status, extra)


async def on_unexpected(request: Request, error: Exception) -> Response:
    """Starlette's handler for everything else: logged where it happened, told in one line."""
    route = request.scope.get("route")
    problem = unexpected(error, _log, f"{request.method} {getattr(route, 'path', 'no route')}", "gateway.log")
    # This handler stands outside the middleware. The server closes the connection after such an error: it is said, so
    # that no client sends its next request into the closing one.
    return response(problem, {**COMMON, PRIVATE[0]: PRIVATE[1], "connection": "close"})


async def on_http_error(request: Request, error: Any) -> Response:
    """No route, or not this method: the same shape as every other error."""
    what = {404: "There is nothing at this path.", 405: "This method is not possible here."}
    problem = ErrorItem(
        what.get(error.status_code, str(error.detail)),
        "invalid_request_error",
        "not_found" if error.status_code == 404 else "invalid_input",
        next_step="See /openapi.json for every path.",
    )
    return JsonResponse(ProblemBody(problem), error.status_code, error.headers)
