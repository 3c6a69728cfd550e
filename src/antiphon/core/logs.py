"""What a process writes into its log, and what never gets there.

Invariant: no line holds a key, a token, a cookie or what somebody sent. Three things see to it. An exception that is
not Antiphon's own is told by its type and where it was raised, never by its message, because libraries put the value
that they could not use into it. What looks like a credential is struck out. A control character is escaped, so that
nothing sent can look like a line of its own.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

from antiphon.core.errors import AntiphonError

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

WITHHELD = "(its message is withheld)"

_MOST_CAUSES = 8

_CREDENTIALS = re.compile(
    r"(?P<scheme>\b(?:bearer|basic)\s+)[\w.~+/=-]+"
    r"|\bak_[\w-]+"
    r"|\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)*"
    r"|(?P<cookie>\b(?:antiphon_\w+|cookie|authorization|passphrase|password)['\"]?\s*[=:]\s*)\S+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.IGNORECASE | re.DOTALL,
)

_CONTROL = {number: f"\\x{number:02x}" for number in (*range(32), 127, 0x85, 0x2028, 0x2029)}
_CONTROL |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}

_Raised = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


def configure(level: int | str = logging.INFO) -> None:
    """Set this process's log up, and what happens to an error that nobody caught; no core is dumped.

    Called once, by the entry point of a process.
    """
    out = logging.StreamHandler()
    out.setFormatter(DiscreetFormatter(FORMAT))
    logging.basicConfig(level=level, handlers=[out], force=True)
    log = logging.getLogger("antiphon")

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("The process ends by an error", exc_info=(kind, error, trace))

    def in_thread(failed: threading.ExceptHookArgs) -> None:
        error = failed.exc_value if failed.exc_value is not None else failed.exc_type()
        log.critical("A thread ends by an error", exc_info=(failed.exc_type, error, failed.exc_traceback))

    def ignored(failed: Any) -> None:
        log.error("An error was ignored", exc_info=(failed.exc_type, failed.exc_value, failed.exc_traceback))

    # A line that cannot be formatted would be printed with its arguments.
    logging.raiseExceptions = False
    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, ignored
    # Memory holds prompts and keys; a core would write them to the disk.
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class DiscreetFormatter(logging.Formatter):
    """Formats a record so that the module's invariant holds."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.name == "asyncio":
            # What follows are representations of tasks and callbacks, with their arguments and exceptions.
            record.message = record.message.partition("\n")[0].partition("(")[0]
        record.message = record.message.translate(_CONTROL)
        return super().formatMessage(record)

    def formatException(self, raised: Any) -> str:
        return "\n".join(told(raised[1])) if raised[1] is not None else ""

    def format(self, record: logging.LogRecord) -> str:
        # Another formatter may have kept its own text of the exception in the record.
        kept, record.exc_text = record.exc_text, None
        try:
            return without_credentials(super().format(record))
        finally:
            record.exc_text = kept


def told(error: BaseException) -> Iterator[str]:
    """An exception and its causes, the first cause first: where each was raised, and what may be said of it."""
    causes = [error]
    while len(causes) < _MOST_CAUSES:
        last = causes[-1]
        before = (
            last.__cause__ if last.__cause__ is not None else None if last.__suppress_context__ else last.__context__
        )
        if before is None or before in causes:
            break
        causes.append(before)
    for cause in reversed(causes):
        yield "Traceback (most recent call last):"
        for line in traceback.format_tb(cause.__traceback__):
            yield line.rstrip("\n")
        yield described(cause)
        if isinstance(cause, BaseExceptionGroup):
            yield from (f"  | {described(inner)}" for inner in cause.exceptions[:_MOST_CAUSES])


def described(error: BaseException) -> str:
    """One line about an exception: its type, and its message only where that is known to hold no value."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, AntiphonError):
        return f"{name}: {str(error).translate(_CONTROL)}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: [{error.errno}] {error.strerror}"
    origin = getattr(error, "orig", error)  # SQLAlchemy keeps the driver's error there
    code = getattr(origin, "sqlite_errorname", None) or getattr(origin, "sqlstate", None)
    return f"{name}: {code if isinstance(code, str) else WITHHELD}"


def without_credentials(text: str) -> str:
    """The text with whatever looks like a credential struck out."""
    return _CREDENTIALS.sub(lambda found: f"{found['scheme'] or found['cookie'] or ''}[struck out]", text)
