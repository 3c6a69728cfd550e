"""Features out of a dataset: exactly its values, or an error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from antiphon.catalog.learning.datasets import Dataset, DatasetSpec
from antiphon.core.errors import FeatureUnavailableError
from antiphon.core.scope import Scope
from antiphon.features.values import FeatureValue, FeatureVector
from antiphon.learning.datasets.reader import DatasetFeatureReader, DatasetRow, users_of

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)
VIEWS = {"congestion": "v1", "weather": "v2"}


def dataset() -> Dataset:
    spec = DatasetSpec(
        application="desk",
        kind="evaluation",
        property="outlook",
        positive="delayed",
        cutoff=NOON,
        first=NOON - timedelta(days=1),
        last=NOON,
        maturity_seconds=0.0,
        origins=("history",),
        examples=2,
        seed=0,
        views=VIEWS,
        entity_keys=("flight",),
    )
    return Dataset("data_1", Scope(), spec, (), 2, 1, {}, (), "p", "s", "l", NOON)


def row(example: str, flight: str = "B6 1", delay: float | None = 5.0, moment: datetime = NOON) -> DatasetRow:
    values = {
        "congestion.delay": FeatureValue(delay, NOON - timedelta(minutes=3), "v1"),
        "weather.wind": FeatureValue(None, None, "v2"),
    }
    return DatasetRow(example, {"flight": flight}, moment, "delayed", FeatureVector(None, values))


def test_a_row_is_the_same_in_every_dataset_that_has_it() -> None:
    served = msgspec.structs.replace(row("a"), prompt_blob="0" * 64, user="b")
    assert served.content == row("a").content != row("b").content


def test_a_read_gives_the_row_and_nothing_published() -> None:
    reader = DatasetFeatureReader(dataset(), [row("a"), row("b", "B6 2", 9.0)])
    vector = reader.read(VIEWS, {"flight": "B6 2"}, NOON)
    assert vector.publication is None
    assert {name: value.value for name, value in vector.values.items()} == {
        "congestion.delay": 9.0,
        "weather.wind": None,
    }
    assert vector.values["congestion.delay"].event_time == NOON - timedelta(minutes=3)
    assert list(reader.read({"weather": "v2"}, {"flight": "B6 2"}, NOON).values) == ["weather.wind"]


@pytest.mark.parametrize(
    ("keys", "moment", "views", "words"),
    [
        ({"flight": "B6 9"}, NOON, VIEWS, "no features of this entity"),
        ({"flight": "B6 1"}, NOON + timedelta(microseconds=1), VIEWS, "no features of this entity"),
        ({"flight": "B6 1"}, NOON, {"congestion": "v2"}, "definition version v2"),
        ({"flight": "B6 1"}, NOON, {"route": "v1"}, "the view 'route'"),
    ],
)
def test_what_the_dataset_does_not_have_is_not_made_up(
    keys: dict[str, str], moment: datetime, views: dict[str, str], words: str
) -> None:
    with pytest.raises(FeatureUnavailableError, match=words):
        DatasetFeatureReader(dataset(), [row("a")]).read(views, keys, moment)


def test_rows_that_contradict_each_other_are_read_by_nobody() -> None:
    same = DatasetFeatureReader(dataset(), [row("a"), row("b")])
    assert same.read(VIEWS, {"flight": "B6 1"}, NOON).values["congestion.delay"].value == 5.0
    with pytest.raises(FeatureUnavailableError, match="two rows"):
        DatasetFeatureReader(dataset(), [row("a"), row("b", delay=7.0)]).read(VIEWS, {"flight": "B6 1"}, NOON)


def test_a_row_is_known_by_all_that_it_asks_and_is_held_against() -> None:
    asked = row("a")
    assert row("a").content == asked.content
    others = [
        row("b"), row("a", delay=6.0), row("a", flight="B6 2"), row("a", moment=NOON + timedelta(hours=1)),
        msgspec.structs.replace(asked, label="on_time"), msgspec.structs.replace(asked, question="And now?"),
        msgspec.structs.replace(asked, further={"minutes": "12"}),
    ]  # fmt: skip
    assert len({asked.content, *(other.content for other in others)}) == 8


def test_rows_of_one_user_belong_together_and_without_one_those_of_an_entity() -> None:
    rows = [row(f"e{n}", f"B6 {n % 12}") for n in range(24)]
    assert users_of(rows)["e5"] == users_of(rows)["e17"] == "e17"  # the first of both, as text
    asked = [msgspec.structs.replace(one, user="e0" if n % 2 == 0 else "") for n, one in enumerate(rows)]
    assert {users_of(asked)[f"e{n}"] for n in range(0, 24, 2)} == {"e0"}
    assert asked[2].content == rows[2].content, "another dataset names the user by another row"
    few = [row(f"e{n}", f"B6 {n % 3}") for n in range(24)]
    assert users_of(few) == {}, "three flights are all there are"
