"""Calls of tools in threads, within a bound of time: functions of modules that the process may import, and endpoints at
URLs that it may call.

Invariants: a call ends within its bound, with a result or with the reason why there is none. A URL is called through
the client that checks each address (``core/outgoing.py``) and follows no redirect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from antiphon.catalog.serving.receipt import ToolStatus
from antiphon.core.errors import AntiphonError, EngineError, SetupError
from antiphon.core.http_client import HttpClient
from antiphon.definitions.tools import KEY, ToolSpec, arguments_type
from antiphon.serving.answering.guards.outputs import mismatches
from antiphon.serving.user_functions import UserFunctions

LONGEST_RESULT = 20_000
"""Characters that a result may have."""


class ToolResult(msgspec.Struct, frozen=True):
    """The text that a call gave, or the reason why it gave none."""

    text: str
    status: ToolStatus


class ToolFunctions:
    """Functions of tools by name.

    Args:
        modules: that may be imported; what is in a package of this name too.
        folder: where they are looked for beside the installed packages.
        urls: what URLs that may be called begin with.
    """

    def __init__(self, modules: Sequence[str] = (), folder: Path | None = None, urls: Sequence[str] = ()) -> None:
        self._functions = UserFunctions(modules, folder, "tool_modules")
        self._urls = tuple(urls)
        self._shapes: dict[str, type[msgspec.Struct]] = {}

    async def call(self, spec: ToolSpec, arguments: str, seconds: float, key: str = "") -> ToolResult:
        """Call a tool with arguments as JSON, one that acts with its ``key``. Never raises: the model is told what
        failed."""
        limit = min(spec.timeout, seconds)
        try:
            work = self._posting(spec, arguments, limit, key) if spec.url else self._calling(spec, arguments, key)
            text = await self._functions.run(work, limit)
        except TimeoutError:
            return ToolResult(f"The tool did not answer within {limit:g} s.", "late")
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return ToolResult(f"The arguments are wrong: {error}.", "failed")
        except Exception as error:
            self._functions.log_raised(f"The tool {spec.name}", error, "the model is told")
            said = error.what if isinstance(error, AntiphonError) else type(error).__name__
            return ToolResult(f"The tool failed: {said}.", "failed")
        if len(text) > LONGEST_RESULT:
            return ToolResult(f"The result has more than {LONGEST_RESULT} characters.", "failed")
        return ToolResult(text, "done")

    def _calling(self, spec: ToolSpec, arguments: str, key: str) -> Callable[[], str]:
        function = self._functions.function(spec.function)
        if spec.function not in self._shapes:
            self._shapes[spec.function] = arguments_type(function)
        shape = self._shapes[spec.function]
        given = msgspec.structs.asdict(msgspec.json.decode(arguments or "{}", type=shape))
        if spec.acts:
            given[KEY] = key
        return lambda: _written(function(**given))

    def _posting(self, spec: ToolSpec, arguments: str, seconds: float, key: str) -> Callable[[], str]:
        if not any(is_below(spec.url, allowed) for allowed in self._urls):
            raise SetupError(
                f"The URL of the tool {spec.name!r} is not called here.",
                where="[project] tool_urls",
                next_step="Name the URL there, or what it begins with, on each host.",
            )
        given = msgspec.json.decode(arguments or "{}")
        if found := list(mismatches(msgspec.json.decode(spec.parameters), given).values()):
            raise msgspec.ValidationError(found[0])
        headers = {"idempotency-key": key} if spec.acts else {}

        def post() -> str:
            where = f"tool {spec.name}"
            client = HttpClient(
                spec.url, where=where, secret=False, timeout=seconds, most_bytes=4 * LONGEST_RESULT, headers=headers
            )
            try:
                response = client.post("", given, repeat=not spec.acts)
            finally:
                client.close()
            if response.status != 200:
                raise EngineError(f"the endpoint answers {response.status}", where=where)
            return response.body.decode(errors="replace")

        return post


def is_below(url: str, allowed: str) -> bool:
    """Tells whether a URL is an allowed one, or below it: of the same server, and in its path."""
    one, other = urlsplit(url), urlsplit(allowed)
    path = other.path.rstrip("/")
    same = (one.scheme, one.netloc) == (other.scheme, other.netloc)
    if any(unquote(part) in (".", "..") for part in one.path.split("/")):
        return False
    return same and (one.path == other.path or one.path.startswith(f"{path}/"))


def _written(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
