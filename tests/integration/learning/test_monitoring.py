"""What is known of an application in use, over real receipts, outcomes and a real training set."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.features.world import NOON
from tests.integration.learning.flown import Flown
from tests.integration.learning.joining import Declared

from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.definitions.application import Figure
from antiphon.definitions.learning import Gates
from antiphon.learning.outcomes.monitoring import Monitor

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def flown(tmp_path: Path) -> Iterator[Flown]:
    flown = Flown(tmp_path)
    yield flown
    flown.close()


def monitor(flown: Flown, **fields: Any) -> Monitor:
    figures = (Figure("congestion.delay_2h", step=5), Figure("congestion.departures_2h"))
    watched = flown.declare(figures=figures, gates=Gates(slices=("origin",)), **fields)
    return Monitor(
        outcomes=flown.outcomes,
        receipts=flown.receipts,
        applications=Declared(watched, flown.declare(name="mute", outcome=None)).get,
        clock=flown.world.clock,
    )


def serve(flown: Flown, first: int, last: int) -> None:
    for number in range(first, last):
        flown.predict(f"p{number}", NOON - 20 * DAY + number * HOUR, "delayed" if number % 4 == 0 else "on_time")


def test_performance_is_of_the_window_and_its_parts(flown: Flown) -> None:
    serve(flown, 0, 48)
    found = monitor(flown).performance(flown.world.scope, "desk", until=NOON - 19 * DAY)
    assert found.whole is not None
    assert (found.whole.rows, found.whole.labels["delayed"], found.whole.metrics["auc"]) == (24, 6, 0.5)
    assert found.whole.mean_forecast == {"delayed": 0.25}
    assert [(group.value, group.scores.rows) for group in found.days] == [("2013-03-21", 12), ("2013-03-22", 12)]
    assert [(group.key, group.value, group.scores.rows) for group in found.slices] == [("origin", "EWR", 24)]
    assert [(each.release, each.predictions, each.labelled) for each in found.coverage] == [(flown.release.id, 48, 48)]
    assert found.counts == {"label": {"joined": 48}}
    with pytest.raises(NotFoundError):
        monitor(flown).performance(flown.world.scope, "gone")
    with pytest.raises(InvalidInputError, match="declares no outcome"):
        monitor(flown).performance(flown.world.scope, "mute")


def test_of_nothing_nothing_is_said(flown: Flown) -> None:
    found = monitor(flown).performance(flown.world.scope, "desk")
    assert (found.whole, found.releases, found.coverage, found.counts) == (None, (), (), {})
