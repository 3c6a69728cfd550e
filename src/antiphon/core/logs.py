"""The log of a process, and what never gets there.

Invariant: no line holds a key, a token, a cookie or content of a request. Three things see to it. An exception that is
not Antiphon's own is logged by its type and where it was raised, never by its message, because libraries put the value
that they could not use into it. What looks like a credential is struck out (:func:`without_credentials`, which traces,
metrics, audit records and error answers go through too). A control character is escaped, so that nothing sent can look
like a line of its own.

Anybody can cause lines without end, so of one place in the code a minute has at most :data:`LINES_A_MINUTE`; those
beyond are counted, and the count is a line.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from antiphon.core.errors import AntiphonError, InternalError
from antiphon.core.ids import new_id
from antiphon.core.log_files import BoundedFile, RotationBounds, is_standard_error

LINES_A_MINUTE = 120
"""Of one place in the code, as they are; far above what any place writes unprovoked."""

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

WITHHELD = "(its message is withheld)"

_MOST_CAUSES = 8

# Every answer's record goes through it: letters of either case are asked for only where people write them so.
_CREDENTIALS = re.compile(
    r"\b(?:"
    r"(?P<scheme>(?i:bearer|basic)\s+)[\w.~+/=-]+"
    r"|ak_[\w-]+"
    r"|eyJ[\w-]+\.[\w-]+(?:\.[\w-]*)*"
    r"|(?:sk|pk|rk|hf|gh[opsu]|github_pat|glpat|xox[abeprs])[-_][\w-]{16,}"  # of other services, in the wrong place
    r"|A(?:KIA|SIA)[0-9A-Z]{16}\b"
    r"|(?P<cookie>(?:antiphon_\w+|(?i:cookie|authorization|passphrase|password))['\"]?\s*[=:]\s*)\S+"
    r")"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)

_CONTROL = {number: f"\\x{number:02x}" for number in (*range(32), 127, 0x85, 0x2028, 0x2029)}
_CONTROL |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}

_Raised = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


def configure(level: int | str = logging.INFO) -> None:
    """Set this process's log up, and and the logging of uncaught errors; no core is dumped.

    Called once, by the entry point of a process.
    """
    _write_to(logging.StreamHandler(), level)
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


def bound(path: Path, bounds: RotationBounds) -> None:
    """Set this process's log aside at a size, if its standard error is this file (a supervisor has opened it)."""
    if is_standard_error(path):
        _write_to(logging.StreamHandler(BoundedFile(path, bounds)), logging.getLogger().level)


def _write_to(out: logging.Handler, level: int | str) -> None:
    out.setFormatter(DiscreetFormatter(FORMAT))
    out.addFilter(RepeatedLines())
    logging.basicConfig(level=level, handlers=[out], force=True)


class RepeatedLines(logging.Filter):
    """Lets :data:`LINES_A_MINUTE` lines of one place in the code through in a minute, and counts the others.

    The first line of that place in a later minute says how many were left out.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._minute = 0
        self._written: dict[tuple[str, int], int] = {}
        self._left_out: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        place = (record.pathname, record.lineno)
        with self._lock:
            minute = int(self._monotonic() // 60)
            if minute != self._minute:
                self._minute = minute
                self._written.clear()
            written = self._written[place] = self._written.get(place, 0) + 1
            if written > LINES_A_MINUTE:
                self._left_out[place] = self._left_out.get(place, 0) + 1
                return False
            record.left_out = self._left_out.pop(place, 0)
        return True


class DiscreetFormatter(logging.Formatter):
    """Formats a record so that the module's invariant holds."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.name == "asyncio":
            # What follows are representations of tasks and callbacks, with their arguments and exceptions.
            record.message = record.message.partition("\n")[0].partition("(")[0]
        record.message = record.message.translate(_CONTROL)
        if left_out := getattr(record, "left_out", 0):
            record.message += f" ({left_out} more of these lines were left out)"
        return super().formatMessage(record)

    def formatException(self, raised: Any) -> str:
        return "\n".join(cause_lines(raised[1])) if raised[1] is not None else ""

    def format(self, record: logging.LogRecord) -> str:
        # Another formatter may have kept its own text of the exception in the record.
        kept, record.exc_text = record.exc_text, None
        try:
            return without_credentials(super().format(record))
        finally:
            record.exc_text = kept


def cause_lines(error: BaseException) -> Iterator[str]:
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


def unexpected(
    error: BaseException, log: logging.Logger, doing: str, file: str, *, traced: bool = True
) -> InternalError:
    """Log an error that no code raised on purpose; returns the part that may be shown.

    Args:
        doing: what failed, such as ``row 3 of job_1``.
        file: the log's file below ``.antiphon/logs``.
        traced: with a traceback; otherwise in one line.
    """
    reference = new_id("err")
    if traced:
        log.error("%s: %s fails", reference, doing, exc_info=error)
    else:
        log.error("%s: %s fails: %s", reference, doing, described(error))
    return InternalError(
        f"{type(error).__qualname__} was raised, a fault of Antiphon itself {WITHHELD}.",
        next_step=f"Look for {reference} in .antiphon/logs/{file} and report what stands there.",
    )


def without_credentials(text: str) -> str:
    """The text with whatever looks like a credential struck out."""
    return _CREDENTIALS.sub(lambda found: f"{found['scheme'] or found['cookie'] or ''}[struck out]", text)
