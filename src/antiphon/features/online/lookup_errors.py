"""Errors of a lookup, each with its next step."""

from __future__ import annotations

from antiphon.core.errors import CorruptionError, FeaturesNotReadyError, UnavailableError
from antiphon.core.scope import Scope

RETRY_SECONDS = 1.0
"""After which asking again makes sense while something is built again: small snapshots take less."""


def nothing_published(scope: Scope) -> FeaturesNotReadyError:
    """Before the first publication."""
    return FeaturesNotReadyError(
        "Nothing is published yet.", where=str(scope), next_step="Run `antiphon features refresh`."
    )


def not_published(view: str, version: str, publication: int) -> FeaturesNotReadyError:
    """A publication without the view in this definition version."""
    return FeaturesNotReadyError(
        f"The view {view!r} is not published in definition version {version}.",
        where=f"publication {publication}",
        next_step=f"Run `antiphon features refresh {view}`; a held view is set free by "
        f"`antiphon features resume {view} --reason …` first.",
    )


def not_reached(minimum: int, number: int) -> UnavailableError:
    """A publication that the client knows of and this process does not."""
    return UnavailableError(
        f"Publication {minimum} is not readable here yet; {number} is.",
        where="minimum_publication",
        next_step="Try again in a moment.",
    )


def pruned(view: str) -> UnavailableError:
    """A snapshot without the streamed events that follow it."""
    return UnavailableError(
        f"Streamed events after the snapshot of {view!r} are pruned.",
        where="overlay",
        next_step="Roll back with `antiphon features rollback`, which restores them first.",
    )


def corrupt(view: str, snapshot: str) -> CorruptionError:
    """A snapshot whose bytes are not those that were sealed."""
    return CorruptionError(
        f"The online snapshot {snapshot} of {view!r} is damaged.",
        where="online store",
        next_step="`antiphon up` builds it again from the lake.",
    )


def damaged(broken: CorruptionError) -> UnavailableError:
    """A damaged snapshot, and no earlier one that can stand in for it."""
    return _soon(f"No publication can be read: {broken.what}", "online store", "It is built again from the lake")


def replaying() -> UnavailableError:
    """An overlay that is being filled again from the log."""
    return _soon("Streamed events are being read again from the log.", "overlay", "It takes a moment")


def _soon(what: str, where: str, meanwhile: str) -> UnavailableError:
    error = UnavailableError(
        what, where=where, next_step=f"{meanwhile} while `antiphon up` runs: try again in a moment."
    )
    error.retry_after = RETRY_SECONDS
    return error
