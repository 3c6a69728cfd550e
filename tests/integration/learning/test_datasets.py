"""Datasets out of a real history, real receipts and a real lake: the window, the draw, and building again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text as sql
from tests.integration.features.desk import flight, history, write
from tests.integration.features.online.test_lookup import departure
from tests.integration.features.world import NOON
from tests.integration.learning.flown import WINDOW, Flown, asked, questions, write_questions

from antiphon.core.errors import ConflictError, InvalidInputError
from antiphon.definitions.learning import TrainingWindow
from antiphon.definitions.prompt import Prompt
from antiphon.features.offline.point_in_time.join import point_in_time

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def flown(tmp_path: Path) -> Iterator[Flown]:
    flown = Flown(tmp_path)
    yield flown
    flown.close()


def test_a_training_set_ends_an_embargo_before_its_cutoff(flown: Flown) -> None:
    spec = flown.builder.plan(flown.application, cutoff=NOON)
    assert (spec.first, spec.last, spec.cutoff) == (NOON - 22 * DAY, NOON - 2 * DAY, NOON)
    assert (spec.maturity_seconds, spec.origins, spec.examples) == (6 * 3600, ("history", "receipts"), 100)
    held_out = flown.builder.plan(flown.application, kind="evaluation", cutoff=NOON)
    assert (held_out.first, held_out.last, held_out.examples) == (NOON - 2 * DAY, NOON, 300)
    # The declared cutoff, and that of the order; without one it is now.
    declared = msgspec.structs.replace(WINDOW, cutoff="2013-03-01T00:00:00+00:00")
    assert flown.builder.plan(flown.application, declared).cutoff.isoformat() == "2013-03-01T00:00:00+00:00"
    assert flown.builder.plan(flown.application).cutoff == flown.world.clock.now()


def test_a_dataset_holds_what_was_known(flown: Flown) -> None:
    dataset = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON, examples=1_000))
    rows = flown.rows(dataset.path)
    assert dataset.rows == len(rows) == 240
    # Moments before NOON − 22 days, and those of the embargo: NOON − 2 days itself is the last that is in.
    assert dataset.dropped == {"outside-window": 160}
    assert dataset.labels["delayed"] == sum(row["label"] == "delayed" for row in rows) == 80
    assert [row["example"] for row in rows] == sorted({row["example"] for row in rows})
    assert max(row["moment"] for row in rows) == NOON - 2 * DAY
    assert min(row["moment"] for row in rows) > NOON - 22 * DAY
    assert {(row["drawn_from"], row["prediction"]) for row in rows} == {("history", None)}
    assert dataset.columns[:4] == ("example", "moment", "origin", "dest")
    assert dataset.columns[-4:] == ("label", "label_at", "drawn_from", "prediction")
    features = [name for name in dataset.columns if name.count(".") == 1]
    assert features[:2] == ["congestion.delay_2h", "congestion.departures_2h"]
    # The features are those of a point-in-time join of the rows themselves.
    import pyarrow as pa

    stamp = pa.timestamp("us", tz="UTC")
    frame = pa.table(
        {
            "origin": [row["origin"] for row in rows],
            "dest": [row["dest"] for row in rows],
            "as_of": pa.array([row["moment"] for row in rows], stamp),
        }
    )
    joined = point_in_time(frame, list(flown.world.specs.values()), scope=flown.world.scope).to_pylist()
    assert [{name: row[name] for name in features} for row in rows] == [
        {name: row[name] for name in features} for row in joined
    ]
    assert any(row["congestion.delay_2h"] for row in rows)


def test_a_set_is_divided_in_time_and_nothing_is_in_both_parts(flown: Flown) -> None:
    spec = flown.builder.plan(flown.application, cutoff=NOON, examples=1_000)
    learned, held_out = (flown.builder.build(part) for part in flown.builder.split(spec, 0.2))
    assert learned.rows + held_out.rows == 240
    assert abs(held_out.rows - 48) <= 12, "moments that are the same stay together"
    latest = max(row["moment"] for row in flown.rows(learned.path))
    assert latest < min(row["moment"] for row in flown.rows(held_out.path))
    with pytest.raises(InvalidInputError, match="1 examples cannot be divided"):
        flown.builder.split(msgspec.structs.replace(spec, examples=1), 0.2)


def test_the_draw_is_by_hash_and_a_smaller_one_is_part_of_a_larger(flown: Flown) -> None:
    def drawn(**fields: Any) -> list[str]:
        dataset = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON, **fields))
        assert dataset.dropped.get("sampled-out", 0) == 240 - dataset.rows
        return [row["example"] for row in flown.rows(dataset.path)]

    everything, fifty, ten, other = drawn(examples=240), drawn(examples=50), drawn(examples=10), drawn(seed=1)
    smallest = sorted(everything, key=lambda example: hashlib.sha256(f"0|{example}".encode()).hexdigest())
    assert sorted(smallest[:50]) == fifty
    assert set(ten) < set(fifty)
    assert set(other) != set(smallest[:100])


def test_a_history_without_questions_serves_a_prompt_that_shows_one(flown: Flown) -> None:
    asks = flown.declare(prompt=Prompt("Delays of {{ features.congestion.delay_2h }} minutes. {{ question }}"))
    dataset = flown.builder.build(flown.builder.plan(asks, cutoff=NOON))
    assert {row["question"] for row in flown.rows(dataset.path)} == {None}


def test_a_label_from_the_future_or_before_its_question_is_counted_and_never_used(flown: Flown) -> None:
    at = NOON - 3 * DAY
    write_questions(
        flown.flown,
        [
            *questions(60),
            asked(901, at, 3 * DAY + timedelta(microseconds=1), "delayed"),
            asked(902, at, 3 * DAY, "delayed"),
            asked(903, at, -timedelta(microseconds=1), "delayed"),
            asked(904, at, HOUR, "cancelled"),
            asked(905, at, HOUR, None),
            asked(906, at, HOUR, "delayed", origin=None),
            asked(902, at, 3 * DAY, "delayed"),
        ],
    )
    window = TrainingWindow(history="20d", maturity="6h")
    dataset = flown.builder.build(flown.builder.plan(flown.application, window, cutoff=NOON, examples=1_000))
    # Of the 60 questions those of the last six hours (at −2 and −4; −6 is just mature) are too young.
    assert dataset.dropped == {
        "after-cutoff": 1, "before-moment": 1, "immature": 2, "unknown-label": 2, "unreadable": 1,
    }  # fmt: skip
    assert dataset.rows == 58 + 1
    assert all(row["moment"] <= row["label_at"] <= NOON for row in flown.rows(dataset.path))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "There is no example from"),
        ([asked(1, NOON - 300 * DAY, HOUR, "delayed")], "There is no example from"),
        ([asked(n, NOON - 3 * DAY - n * HOUR, HOUR, "on_time") for n in range(9)], "All 9 examples .* 'on_time'"),
    ],
)
def test_an_empty_or_single_class_set_is_refused(flown: Flown, rows: list[Any], told: str) -> None:
    write_questions(flown.flown, rows)
    with pytest.raises(InvalidInputError, match=told) as refused:
        flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON))
    assert "cutoff" in str(refused.value.next_step)
    assert flown.datasets.list(flown.world.scope) == []
    assert list(flown.world.lake.files(flown.world.scope)) == []


def test_what_cannot_be_planned_is_refused(flown: Flown) -> None:
    plan = flown.builder.plan
    with pytest.raises(InvalidInputError, match="declares no outcome"):
        plan(flown.declare(outcome=None))
    with pytest.raises(InvalidInputError, match="no embargo"):
        plan(flown.application, TrainingWindow(), kind="evaluation")
    with pytest.raises(InvalidInputError, match="no window up to the cutoff"):
        plan(flown.application, cutoff=NOON, last=NOON + HOUR)
    with pytest.raises(InvalidInputError, match="do not come from hearsay"):
        plan(flown.application, origins=("hearsay",))
    with pytest.raises(InvalidInputError, match="at least 1 example"):
        plan(flown.application, examples=0)
    with pytest.raises(InvalidInputError, match="'label' has the name of"):
        plan(flown.declare(entity_keys=("label",)))
    with pytest.raises(InvalidInputError, match="is no instant"):
        plan(flown.application, TrainingWindow(cutoff="noon"))


def test_it_is_built_again_from_its_specification(flown: Flown) -> None:
    dataset = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON))
    flown.world.lake.path(dataset.path).unlink()
    # What came later is not part of it: an event in the log, a prediction with an outcome.
    flown.world.append("departures", departure(9001, -60 * 24 * 3, 25.0))
    flown.predict("p1", NOON - 3 * DAY, "delayed")
    assert flown.builder.rebuild(dataset.id) == dataset
    assert len(flown.rows(dataset.path)) == 100
    assert flown.builder.build(dataset.spec) == dataset
    # A plan made now sees the event, so its features are others.
    now = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON))
    assert now.spec.offsets == {"departures": 1}
    assert now.logical_hash != dataset.logical_hash


@pytest.mark.parametrize(
    ("source", "told"),
    [("departures", "the file of departures changed"), ("flown", "the file of flown changed")],
)
def test_a_rebuild_names_the_source_that_changed(flown: Flown, source: str, told: str) -> None:
    dataset = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON))
    if source == "departures":
        write(flown.departures, [*history(), flight(9_999, NOON - 3 * DAY, 400.0)])
    else:
        write_questions(flown.flown, questions(200))
    with pytest.raises(ConflictError, match=told):
        flown.builder.rebuild(dataset.id)
    getattr(flown, source).unlink()
    with pytest.raises(ConflictError, match="cannot be built again: source: There is no file"):
        flown.builder.rebuild(dataset.id)
    assert len(flown.rows(dataset.path)) == 100  # what was built is still there


def test_a_source_that_changed_without_touching_the_rows_changes_nothing(flown: Flown) -> None:
    dataset = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON))
    write(flown.departures, [*history(), flight(9_999, NOON + DAY, 400.0)])
    assert flown.builder.rebuild(dataset.id) == dataset


def test_receipts_with_outcomes_are_examples_as_they_were_served(flown: Flown) -> None:
    for number in range(20):
        label = "delayed" if number % 4 == 0 else "on_time"
        flown.predict(f"p{number}", NOON - 3 * DAY - number * HOUR, label)
    flown.predict("no-outcome", NOON - 4 * DAY, None)
    flown.predict("embargoed", NOON - DAY, "delayed")
    flown.predict("again", NOON - 3 * DAY, "delayed")
    other = flown.released(flown.declare(features={**flown.application.features, "congestion": "0" * 16}))
    flown.predict("other-features", NOON - 5 * DAY, "delayed", other)
    dataset = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON, origins=("receipts",)))
    assert dataset.dropped == {"duplicate": 1, "other-definition": 1, "outside-window": 1}
    rows = flown.rows(dataset.path)
    assert {row["prediction"] for row in rows} == {f"p{number}" for number in range(20)} - {"p0"} | {"again"}
    assert {row["congestion.delay_2h"] for row in rows} == {12.5}
    assert {row["route_history.flights"] for row in rows} == {None}
    assert dataset.labels["delayed"] == 5
    assert [(source.name, source.rows) for source in dataset.sources] == [("receipts", 23)]
    assert flown.builder.rebuild(dataset.id) == dataset


def test_a_prediction_stands_for_the_historys_row_of_its_moment(flown: Flown) -> None:
    # Question 37 of the history is about the same origin and moment.
    flown.predict("p1", NOON - 76 * HOUR, "delayed")
    dataset = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON, examples=1_000))
    assert (dataset.rows, dataset.dropped["duplicate"]) == (240, 1)
    (served,) = [row for row in flown.rows(dataset.path) if row["drawn_from"] == "receipts"]
    assert (served["prediction"], served["congestion.delay_2h"]) == ("p1", 12.5)


def test_erased_receipts_are_missed_by_a_rebuild(flown: Flown) -> None:
    for number in range(8):
        flown.predict(f"p{number}", NOON - 3 * DAY - number * HOUR, "delayed" if number % 2 else "on_time")
    dataset = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON, origins=("receipts",)))
    with flown.world.database.transaction() as connection:
        connection.execute(sql("DELETE FROM receipts WHERE prediction = 'p3'"))
    with pytest.raises(ConflictError, match="1 receipts or their entity keys are gone"):
        flown.builder.rebuild(dataset.id)
    with flown.world.database.transaction() as connection:
        connection.execute(sql("DELETE FROM outcomes WHERE prediction = 'p4'"))
    with pytest.raises(ConflictError, match="receipts changed: 7 joined outcomes, 8 then"):
        flown.builder.rebuild(dataset.id)


def test_garbage_collection_spares_the_files_of_datasets(flown: Flown) -> None:
    from antiphon.features.publication.publish import Publisher

    world = flown.world
    dataset = flown.builder.build(flown.builder.plan(flown.application, cutoff=NOON))
    world.clock.advance(timedelta(days=20_000))

    def collect(**named: Any) -> None:
        Publisher(world.catalog, online=world.online, **named).collect_garbage()

    collect(also_named=flown.datasets.files)
    assert len(flown.rows(dataset.path)) == 100
    collect()
    assert list(world.lake.files(world.scope)) == []


def test_a_survey_says_what_would_be_in_it(flown: Flown) -> None:
    survey = flown.builder.survey(flown.builder.plan(flown.application, cutoff=NOON, examples=60))
    assert survey.rows == sum(survey.labels.values()) == 60
    assert set(survey.labels) == {"on_time", "delayed"}
    assert survey.dropped == {"outside-window": 160, "sampled-out": 180}
    assert survey.latest == NOON - 2 * HOUR
    assert flown.datasets.list(flown.world.scope) == []
