"""The tree of errors: a status that clients repeat says after how long, and one that stays wrong says nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from antiphon.core import errors
from antiphon.core.errors import AntiphonError

REPEATED = {408, 409, 429, 502, 503, 504, 507}
"""Statuses that OpenAI's clients repeat by themselves, but 500: what is broken does not say when it is whole."""
NOT_MENDED_BY_TIME = {errors.SetupError}
"""Of the machine: what is missing there is there once somebody has put it there."""


def below(base: type[AntiphonError]) -> Iterator[type[AntiphonError]]:
    for inner in base.__subclasses__():
        if inner.__module__ == errors.__name__:
            yield inner
            yield from below(inner)


OWN_RETRY = {
    errors.BudgetExhaustedError,
    errors.OverloadedError,
    errors.RateLimitError,
    errors.ResourceUnavailableError,
}
CLASSES = sorted(set(below(AntiphonError)) - OWN_RETRY, key=lambda found: found.__name__)


@pytest.mark.parametrize("found", CLASSES)
def test_what_is_repeated_says_after_how_long(found: type[AntiphonError]) -> None:
    assert (found.retry_after is not None) == (found.http_status in REPEATED and found not in NOT_MENDED_BY_TIME)


def test_a_full_disk_is_not_asked_again_at_once() -> None:
    assert errors.StorageFullError("The disk is full.").retry_after == 60.0


def test_what_is_never_let_in_is_not_transient() -> None:
    assert errors.OverloadedError("256 questions wait.").transient
    assert not errors.OverloadedError("The prompt is larger than the quota.", retry_after=float("inf")).transient
    assert not errors.ConflictError("The batch is completed.").transient
