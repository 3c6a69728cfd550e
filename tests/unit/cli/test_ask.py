"""Answers from the terminal: starting the project is advised where that is what is missing, and nowhere else."""

from __future__ import annotations

import pytest

from antiphon.cli.ask import needs_start
from antiphon.core.errors import FeatureUnavailableError, StorageFullError, UnavailableError


@pytest.mark.parametrize(
    ("error", "published", "needed"),
    [
        (UnavailableError("The engine cannot be reached.", where="engine"), True, True),
        (UnavailableError("Another writer holds the catalog.", where="catalog"), True, False),
        (StorageFullError("The disk is full.", where="catalog"), False, False),
        (FeatureUnavailableError("Nothing is published yet.", where="default/dev"), False, True),
        (FeatureUnavailableError("The shop has no features.", where="shop"), True, False),
    ],
)
def test_a_start_is_advised_where_it_would_help(
    error: UnavailableError | FeatureUnavailableError, published: bool, needed: bool
) -> None:
    assert needs_start(error, published) == needed
