"""What is known of an application in use, over real receipts, outcomes and a real training set."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.embedders import WORDS
from tests.integration.features.world import NOON
from tests.integration.learning.flown import Flown
from tests.integration.learning.joining import Declared

from antiphon.catalog.serving.blobs import Blobs
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
        datasets=flown.datasets,
        applications=Declared(watched, flown.declare(name="mute", outcome=None)).get,
        lake=flown.world.lake,
        texts=Blobs(flown.world.database),
        embedders=WORDS,
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


def test_drift_is_against_the_first_week_until_there_is_a_training_set(flown: Flown) -> None:
    serve(flown, 0, 12 * 24)
    scope = flown.world.scope
    before = monitor(flown).drift(scope, "desk", recent=3 * DAY)
    (forecast,) = before.forecasts
    assert (before.reference, forecast.name, forecast.verdict) == ("first week", "probability of delayed", "steady")
    assert (forecast.reference, forecast.recent) == (7 * 24, 3 * 24)
    assert [(each.name, each.verdict) for each in before.features] == [("congestion.delay_2h", "steady")]
    # Served delays all print 10 minutes; those learned from lie between -5 and 40.
    dataset = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON, origins=("history",)))
    after = monitor(flown).drift(scope, "desk", recent=3 * DAY)
    assert after.reference == dataset.id
    assert {each.name: each.verdict for each in after.features} == {"congestion.delay_2h": "shifted"}
    # A training set whose file is gone is no reference.
    flown.world.lake.path(dataset.path).unlink()
    assert monitor(flown).drift(scope, "desk", recent=3 * DAY).reference == "first week"
    # Without an outcome nothing is forecast.
    lengths = monitor(flown, outcome=None).drift(scope, "desk", recent=3 * DAY).forecasts
    assert [one.name for one in lengths] == ["tokens of the answer", "tokens of the prompt"]


def test_of_nothing_nothing_is_said(flown: Flown) -> None:
    found = monitor(flown).performance(flown.world.scope, "desk")
    assert (found.whole, found.releases, found.coverage, found.counts) == (None, (), (), {})
    drift = monitor(flown).drift(flown.world.scope, "desk")
    assert (drift.since, drift.features) == (None, ())
    assert [each.verdict for each in drift.forecasts] == ["too-few"]


def test_texts_are_compared_by_their_words_where_that_is_asked_for(flown: Flown) -> None:
    serve(flown, 0, 12 * 24)
    blobs, scope = Blobs(flown.world.database), flown.world.scope
    words = ["when do we leave", "is there a delay", "how late are we", "which gate is it"]
    weather = ["does it snow today", "will rain come soon", "how strong is wind", "is fog ahead now"]
    for number, made in enumerate(sorted(flown.receipts.list(scope, limit=1_000), key=lambda one: one.as_of)):
        said = words[number % 4] if number < 7 * 24 else weather[number % 4]
        asked = blobs.put(scope, f"{said}?".encode())
        text = blobs.put(scope, b"It leaves at ten.")
        texts = {"question_blob": asked, "text_blob": text}
        flown.receipts.add(msgspec.structs.replace(made, prediction=f"q{number}", **texts))
    watched = monitor(flown)
    assert watched.drift(scope, "desk", recent=3 * DAY).texts == ()
    (asked_texts,) = watched.drift(scope, "desk", recent=3 * DAY, texts=True).texts
    assert (asked_texts.name, asked_texts.verdict) == ("what is asked", "shifted")
    assert asked_texts.index == 1.0
    # Without an outcome what is answered is compared too; erased texts are left out.
    for said in weather:
        blobs.erase(scope, blobs.put(scope, f"{said}?".encode()))
    found = monitor(flown, outcome=None).drift(scope, "desk", recent=3 * DAY, texts=True).texts
    assert {one.name: (one.verdict, one.recent > 0) for one in found} == {
        "what is asked": ("too-few", False), "what is answered": ("steady", True),
    }  # fmt: skip
