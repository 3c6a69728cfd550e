"""Errors for which an engine is passed over, which of them count against it, and what a caller is told in the end."""

from __future__ import annotations

from collections.abc import Sequence

from antiphon.core.errors import AntiphonError, EngineError, OverloadedError, UnavailableError
from antiphon.definitions.granted import model_owner

FAILURES = (UnavailableError, EngineError)
"""Errors that count against an engine. One that is full, or does not serve a model, still answers."""


class PassingError(UnavailableError):
    """A reason of ours to pass an engine over."""

    reason: str


class LateError(PassingError):
    """No first token in time."""

    reason = "late"


class SlowStartError(PassingError):
    """Not up in time."""

    reason = "starting"


class LeftAloneError(PassingError):
    """Not asked."""

    reason = "open"


def counts_against(error: AntiphonError) -> bool | None:
    """True for an error that counts against an engine. One that is full, or starts, has not shown that it works, nor
    that it does not."""
    return None if isinstance(error, OverloadedError | SlowStartError) else isinstance(error, FAILURES)


def not_served(model: str, where: str) -> UnavailableError:
    """The error for a model that an engine does not serve, or not yet."""
    step = "Add it to [engine] models in antiphon.toml, or activate a release that pins another."
    if model_owner(model) is not None:
        step = "Try again in a moment: the worker has it loaded. If it stays away, worker.log says why."
    return UnavailableError(f"The engine does not serve the model {model!r}.", where=where, next_step=step)


def refusal(failures: Sequence[AntiphonError], wait: float) -> AntiphonError:
    """The refusal of a request that no engine answered: the first engine's error, with the time to try again. One of
    the engines is asked again in ``wait`` seconds."""
    first = failures[0]
    first.retry_after = wait or first.retry_after or 1.0
    return first
