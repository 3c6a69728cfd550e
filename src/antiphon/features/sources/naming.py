"""Whatever goes wrong while a source is read is one of our errors and says which source it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.core.errors import AntiphonError, InvalidInputError, UnavailableError

_NAMELESS = (None, "source", "compute")


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Run a block that reads the source of this name.

    Raises:
        InvalidInputError: a library could not make anything of what it read.
        UnavailableError: the operating system did not give it.
        AntiphonError: as the block raised it, with the source's name where it says no place.
    """
    try:
        yield
    except AntiphonError as error:
        if error.where in _NAMELESS:
            error.where = f"source {source}"
        raise
    except OSError as error:
        raise UnavailableError(
            f"The source {source} cannot be read: {error.strerror or type(error).__name__}.",
            where=f"source {source}",
            next_step="Look at the file and at the disk's space, and refresh again.",
        ) from error
    except (ValueError, ArithmeticError) as error:
        # What they say may quote somebody's value, and errors are kept and shown.
        raise InvalidInputError(
            f"The source {source} cannot be read: {type(error).__name__}.",
            where=f"source {source}",
            next_step="Compare its values with the definition; nothing was published.",
        ) from error
