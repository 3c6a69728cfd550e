"""Answers from the terminal: starting the project is advised where that is what is missing, and nowhere else."""

from __future__ import annotations

import pytest

from antiphon.cli.ask import needs_start
from antiphon.core.errors import FeatureUnavailable, StorageFull, Unavailable


@pytest.mark.parametrize(
    ("error", "published", "needed"),
    [
        (Unavailable("The engine cannot be reached.", where="engine"), True, True),
        (Unavailable("Another writer holds the catalog.", where="catalog"), True, False),
        (StorageFull("The disk is full.", where="catalog"), False, False),
        (FeatureUnavailable("Nothing is published yet.", where="default/dev"), False, True),
        (FeatureUnavailable("The shop has no features.", where="shop"), True, False),
    ],
)
def test_a_start_is_advised_where_it_would_help(
    error: Unavailable | FeatureUnavailable, published: bool, needed: bool
) -> None:
    assert needs_start(error, published) == needed
