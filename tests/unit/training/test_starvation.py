from __future__ import annotations

import pytest

from antiphon.training.starvation import Starvation, StarvationWatch, nice_for


def looks(floor: float, *stretches: tuple[float, float, bool]) -> list[tuple[float, Starvation]]:
    """Everything that is told, with its moment, over stretches of (seconds, share of a core, paused)."""
    at, used = 100.0, 7.0
    watch = StarvationWatch(floor, at, used)
    told = []
    for seconds, share, paused in stretches:
        for _ in range(round(seconds)):
            at, used = at + 1.0, used + share
            found = watch.look(at, used, paused)
            if found is not None:
                told.append((at - 100.0, found))
    return told


def test_a_training_that_gets_its_share_is_never_told_of() -> None:
    assert looks(0.0, (600, 1.9, False)) == []
    assert looks(0.5, (600, 0.6, False)) == []


def test_starvation_is_told_after_a_minute_and_each_minute_after_it() -> None:
    told = looks(0.0, (200, 0.04, False))
    assert [at for at, _ in told] == [60, 120, 180]
    assert [(round(one.share, 3), one.seconds) for _, one in told] == [(0.04, 60), (0.04, 120), (0.04, 180)]
    assert str(told[2][1]) == "it got 4% of a core for 3 min: other work on this machine holds it back"


def test_pauses_are_no_starvation_and_do_not_end_one() -> None:
    assert looks(0.0, (300, 0.0, True)) == []
    assert looks(0.0, (40, 1.0, False), (3_000, 0.0, True), (19, 0.0, False)) == []
    (first, second) = looks(0.0, (70, 0.04, False), (500, 0.0, True), (60, 0.04, False))
    assert (first[0], second[1].seconds) == (60, pytest.approx(120, abs=2))


def test_what_starved_and_got_its_share_again_begins_anew() -> None:
    told = looks(0.0, (60, 0.1, False), (120, 1.0, False), (120, 0.1, False))
    assert told[0][0] == 60
    assert told[1][1].seconds < 120, "the first starvation is over"


def test_a_floor_is_what_counts_as_too_little() -> None:
    assert looks(0.8, (60, 0.7, False))
    assert not looks(0.1, (60, 0.2, False))


@pytest.mark.parametrize(("share", "nice"), [(1.0, 0), (0.5, 0), (0.25, 4), (0.1, 9), (0.01, 19)])
def test_a_floor_has_the_nice_value_that_gives_it_beside_one_busy_neighbor(share: float, nice: int) -> None:
    assert nice_for(share) == nice
    weight = 1.25**-nice
    assert nice == 19 or weight / (weight + 1) >= share or share > 0.5
