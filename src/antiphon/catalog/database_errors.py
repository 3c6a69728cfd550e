"""Errors of databases and of SQLAlchemy, translated into Antiphon's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import sqlalchemy as sa

from antiphon.core.errors import (
    AntiphonError,
    CorruptionError,
    InvalidInputError,
    SetupError,
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


def damaged_error(why: str) -> CorruptionError:
    """The error of a catalog that cannot be read."""
    return CorruptionError(
        f"The catalog is damaged: {why}.",
        where="catalog",
        next_step="Stop the platform and restore the catalog from a backup; nothing was changed.",
    )


def other_schema_error(why: str) -> SetupError:
    """The error of a catalog that has not the tables of this version."""
    return SetupError(
        f"The catalog's schema is not this version's: {why}.",
        where="catalog",
        next_step="Run `antiphon up` or `antiphon apply`, which migrate it.",
    )


@contextmanager
def translated_errors(
    translate: Callable[[sa.exc.DBAPIError], Exception | None], refused: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Raise what a database and SQLAlchemy raise inside the block as the error that says what to do.

    Args:
        translate: the better error for one of the driver's; ``None`` when there is none.
        refused: called for each statement that no retry makes good: a table that is not there, damage, no permission.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        better = translate(error)
        if isinstance(better, SetupError | CorruptionError) or isinstance(error, sa.exc.ProgrammingError):
            refused()
        if better is None:
            raise
        raise better from error
    except sa.exc.PendingRollbackError as error:
        # A statement after the one that lost the connection, whose own error was an effect's of a group.
        raise UnavailableError(
            "The connection to the catalog was lost, and with it the transaction.",
            where="catalog",
            next_step="Nothing of it is done; try again.",
        ) from error
    except sa.exc.TimeoutError as error:
        raise UnavailableError(
            "All connections to the catalog are in use.", where="catalog", next_step="Try again in a second."
        ) from error
    except OverflowError as error:
        # Only a caller's number can be this large: what the catalog counts stays far below 2**63.
        raise InvalidInputError("A number is too large.", next_step="Numbers are whole and below 2**63.") from error
    except sa.exc.StatementError as error:
        if isinstance(error.orig, AntiphonError):  # Ours, of a value that is no instant.
            raise error.orig from None
        raise
    # The driver reads names of tables for its messages; a row's document is read where it was fetched.
    except UnicodeDecodeError as error:
        raise damaged_error("a name or a text in it is not UTF-8") from error
    except msgspec.DecodeError as error:
        raise damaged_error("a document in it cannot be read, or another version wrote it") from error
