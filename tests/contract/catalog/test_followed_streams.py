"""Positions of followed streams: moved only from where they were read, of one place, and sealed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.features.followed_streams import FollowedStreams, PositionMove
from antiphon.core.clock import ManualClock


@pytest.fixture
def streams(database: Database) -> FollowedStreams:
    return FollowedStreams(database)


def test_a_position_moves_once_and_counts_what_was_refused(streams: FollowedStreams) -> None:
    begun = streams.begin(DEV, "orders", "db orders")
    assert (begun.position, begun.moves, streams.begin(DEV, "orders", "db orders")) == (None, 0, begun)
    moved = streams.advance(DEV, begun, PositionMove("a", 2, 1, 5, "no id", NOON))
    assert moved == streams.list(DEV)["orders"]
    assert (moved.position, moved.refused, moved.lost, moved.waiting, moved.refusal) == ("a", 2, 1, 5, "no id")
    assert streams.advance(DEV, begun, PositionMove("b", 2)) is None, "another process has moved it"
    further = streams.advance(DEV, moved, PositionMove("b", 1))
    assert further is not None
    assert (further.refused, further.refusal, further.caught_up_at, further.waiting) == (3, "no id", NOON, None)
    assert streams.list(OTHER) == {}


def test_another_place_is_read_from_its_beginning(streams: FollowedStreams) -> None:
    begun = streams.begin(DEV, "orders", "db orders")
    moved = streams.advance(DEV, begun, PositionMove("a", 2))
    assert moved is not None
    other = streams.begin(DEV, "orders", "db shop.orders")
    assert (other.position, other.refused, other.place) == (None, 0, "db shop.orders")
    assert streams.advance(DEV, moved, PositionMove("b")) is None, "of the place before"
    assert streams.begin(DEV, "orders", "db shop.orders") == other


def test_the_first_of_the_failures_in_a_row_is_remembered_until_a_page_comes(
    streams: FollowedStreams, clock: ManualClock
) -> None:
    begun = streams.begin(DEV, "orders", "db orders")
    streams.failed(DEV, "orders", "away")
    clock.advance(timedelta(minutes=1))
    streams.failed(DEV, "orders", "full")
    failing = streams.begin(DEV, "orders", "db orders")
    assert (failing.error, failing.failing_since) == ("full", NOON)
    moved = streams.advance(DEV, begun, PositionMove("a"))
    assert moved is not None
    assert (moved.error, moved.failing_since) == (None, None)
    assert moved == streams.list(DEV)["orders"]
