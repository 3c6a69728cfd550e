"""Errors across the socket: a code and a message there, a class of ``core.errors`` here."""

from __future__ import annotations

from antiphon.core.errors import AntiphonError, EngineError, InvalidDefinitionsError
from antiphon.engine.api.messages import RequestFailure


def failure_of(request: str, error: AntiphonError) -> RequestFailure:
    """The frame that tells a caller about an error."""
    return RequestFailure(request, error.code, error.what, error.where, error.next_step)


def error_of(failed: RequestFailure) -> AntiphonError:
    """The error a frame tells about; an unknown code means an engine newer than this side."""
    kind = _classes().get(failed.code, EngineError)
    return kind(failed.message, where=failed.where, next_step=failed.next_step)


def _classes() -> dict[str, type[AntiphonError]]:
    known: dict[str, type[AntiphonError]] = {}
    open_classes: list[type[AntiphonError]] = [AntiphonError]
    while open_classes:
        current = open_classes.pop()
        known.setdefault(current.code, current)
        open_classes.extend(
            subclass for subclass in current.__subclasses__() if subclass is not InvalidDefinitionsError
        )
    return known
