"""Levels of quotas: what one gateway draws, all see, on every database."""

from __future__ import annotations

from datetime import timedelta

import pytest

from antiphon.catalog.database import Database
from antiphon.catalog.serving.quotas import Draw, QuotaLevels
from antiphon.core.clock import ManualClock
from antiphon.core.token_bucket import Meter

REQUESTS, TOKENS = Meter("requests", 10, 60.0), Meter("tokens", 100, 60.0)


def draw(need: float, share: float = 0.0, tokens: float = 0.0) -> list[Draw]:
    return [Draw(REQUESTS, need, share), Draw(TOKENS, tokens, 0.0)]


def test_a_share_is_taken_once_and_runs_down_with_time(database: Database, clock: ManualClock) -> None:
    levels = QuotaLevels(database)
    taken = levels.draw("acme", "all", draw(1, share=6, tokens=30))
    assert (taken.taken, taken.refused) == ({"requests": 6, "tokens": 30}, None)
    assert QuotaLevels(database).used("acme", "all", [REQUESTS, TOKENS]) == {"requests": 6.0, "tokens": 30.0}
    assert levels.used("acme", "keys/other", [REQUESTS]) == {"requests": 0.0}
    assert levels.used("other", "all", [REQUESTS]) == {"requests": 0.0}
    clock.advance(timedelta(seconds=30))
    assert levels.used("acme", "all", [REQUESTS]) == {"requests": pytest.approx(1.0)}


def test_of_all_meters_or_of_none(database: Database) -> None:
    levels = QuotaLevels(database)
    levels.draw("acme", "all", draw(1, tokens=95))
    refused = levels.draw("acme", "all", draw(1, tokens=10))
    assert (refused.refused, refused.taken) == ("tokens", {"requests": 0.0, "tokens": 0.0})
    assert refused.wait == pytest.approx(3.0)
    assert levels.used("acme", "all", [REQUESTS, TOKENS]) == {"requests": 1.0, "tokens": 95.0}


def test_what_is_left_of_a_share_is_given_back(database: Database) -> None:
    levels = QuotaLevels(database)
    first = levels.draw("acme", "all", [Draw(REQUESTS, 1, 8)])
    again = levels.draw("acme", "all", [Draw(REQUESTS, 2, 2, returned=7, drawn=first.levels["requests"])])
    assert again.taken == {"requests": 2}
    assert levels.used("acme", "all", [REQUESTS]) == {"requests": 3.0}
