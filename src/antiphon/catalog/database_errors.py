"""Errors of SQLite and SQLAlchemy, translated into Antiphon's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, OperationalError

from antiphon.core.errors import (
    AntiphonError,
    CorruptionError,
    InvalidInputError,
    SetupError,
    StorageFullError,
    UnavailableError,
)

BUSY_SECONDS = 10.0
"""Seconds for which a writer waits for the write lock before it gets the error that the catalog is busy."""


def busy_error() -> UnavailableError:
    """The error of a write lock that was not free in time."""
    return UnavailableError(
        f"The catalog's write lock was not free within {BUSY_SECONDS:.0f} s.",
        where="catalog",
        next_step="Try again; if it stays, look for a process that holds a transaction open.",
    )


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise what SQLite and SQLAlchemy raise inside the block as the error that says what to do."""
    try:
        yield
    except OperationalError as error:
        text = str(error.orig)
        if "decode to UTF-8" in text:
            raise _damaged("a text in it is not UTF-8") from error
        if "locked" in text or "busy" in text:
            raise busy_error() from error
        if "no such table" in text or "no such column" in text:
            raise SetupError(
                f"The catalog's schema is not this version's: {text}.",
                where="catalog",
                next_step="Run `antiphon up` or `antiphon apply`, which migrate it.",
            ) from error
        if "full" in text:
            raise StorageFullError(
                f"The catalog cannot be written: {text}.", where="catalog", next_step="Free disk space and try again."
            ) from error
        raise UnavailableError(
            f"The catalog cannot be used: {text}.", where="catalog", next_step="Check disk space and permissions."
        ) from error
    except sa.exc.IntegrityError:
        raise
    except OverflowError as error:
        # Only a caller's number can be this large: what the catalog counts stays far below 2**63.
        raise InvalidInputError("A number is too large.", next_step="Numbers are whole and below 2**63.") from error
    except DatabaseError as error:
        text = str(error.orig)
        if "malformed" in text or "not a database" in text:
            raise _damaged(text) from error
        raise
    except sa.exc.StatementError as error:
        if isinstance(error.orig, AntiphonError):  # Ours, of a value that is no instant.
            raise error.orig from None
        raise
    # The driver reads names of tables for its messages; a row's document is read where it was fetched.
    except UnicodeDecodeError as error:
        raise _damaged("a name or a text in it is not UTF-8") from error
    except msgspec.DecodeError as error:
        raise _damaged("a document in it cannot be read, or another version wrote it") from error


def _damaged(why: str) -> CorruptionError:
    return CorruptionError(
        f"The catalog's file is damaged: {why}.",
        where="catalog",
        next_step="Stop the platform and restore catalog.db from a backup; nothing was changed.",
    )
