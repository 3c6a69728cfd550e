"""Two views flip together under readers in other processes, and a client of two gateways never goes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.features.flips import Size, measure
from benchmarks.features.torn import generations, is_torn
from tests.servers import RedisProcess

SMALL = Size(batches=300, moves=8, entities=60, generations=3, quiet=4, reads=120, peer_seconds=0, longest=60)


def told(view: str, generation: int) -> dict[str, float]:
    return {
        f"{view}.newest": float(generation),
        f"{view}.told": generation + 1,
        f"{view}.total": generation * (generation + 1) / 2,
    }


def test_a_batch_is_whole_only_if_every_value_is_of_one_generation() -> None:
    whole = [{**told("left", 4), **told("right", 4)} for _ in range(3)]
    assert generations(whole, ("left", "right")) == {4}
    assert not is_torn({4})
    for torn in (
        [*whole, {**told("left", 4), **told("right", 5)}],
        [*whole, {**told("left", 3), **told("right", 3)}],
        [*whole, {**told("left", 4), **told("right", 4), "right.total": 15.0}],
        [*whole, {**told("left", 4), **told("right", 4), "left.newest": None}],
        [*whole, {**told("left", 4), **told("right", 4), "left.total": 11.0}],
        [*whole, told("left", 4)],
        [],
    ):
        assert is_torn(generations(torn, ("left", "right")))


@pytest.mark.parametrize("store", ["lmdb", "redis"])
def test_no_batch_is_torn_while_publications_flip(store: str, tmp_path: Path) -> None:
    server = RedisProcess() if store == "redis" else None
    try:
        if server is not None:
            server.start()
        found = measure(tmp_path, "-" if server is None else server.url, SMALL)
    finally:
        if server is not None:
            server.remove()
    assert found["batches"] >= SMALL.batches
    assert found["flips"] >= SMALL.moves
    assert (found["torn"], found["of_another_publication"]) == (0, 0)
    client = found["client"]
    assert found["backward_in_one_reader"] == client["backward"] == client["backward_without_minimum"] == 0
    assert client["reads"] == SMALL.reads
    assert client["stopped"] >= 2


def test_views_that_are_published_one_after_the_other_are_found_torn(tmp_path: Path) -> None:
    """The check can fail."""
    found = measure(tmp_path, "-", SMALL, atomic=False)
    assert found["torn"] > 0


def test_a_client_of_two_gateways_goes_back_when_publications_are_not_announced(tmp_path: Path) -> None:
    """The check can fail."""
    found = measure(tmp_path, "-", SMALL, notice=0)
    assert found["client"]["backward_without_minimum"] > 0
