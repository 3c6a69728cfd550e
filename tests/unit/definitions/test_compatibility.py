"""Where a source lies is no matter for readers; what is read is."""

from __future__ import annotations

from typing import Any

import pytest

from antiphon import Entity, Source, col, feature_view, last
from antiphon.definitions.compatibility import compare
from antiphon.definitions.feature_view import FeatureViewSpec

airport = Entity("airport", keys=["origin"])
DATABASE = {"url": "postgresql://reader@one/shop", "table": "delays", "password_variable": "ONE"}


def view(**options: Any) -> FeatureViewSpec:
    @feature_view(entity=airport, source=Source.table("delays", event_time="at", **options))
    class Delays:
        delay = last(col.delay)

    return Delays.spec()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"path": "a.parquet"}, {"path": "b.parquet"}),
        (DATABASE, {**DATABASE, "url": "postgresql://reader@two/shop"}),
        (DATABASE, {**DATABASE, "password_variable": "TWO"}),
    ],
    ids=["file", "database", "password"],
)
def test_another_place_breaks_nothing_and_keeps_the_version(before: dict[str, str], after: dict[str, str]) -> None:
    old, new = view(**before), view(**after)
    assert old.definition_version == new.definition_version
    assert (compare(old, new).level, compare(old, new).sentences) == (
        "cosmetic",
        ("its source is read from another place",),
    )


@pytest.mark.parametrize("after", [{**DATABASE, "table": "others"}, {"path": "a.parquet"}], ids=["table", "file"])
def test_other_rows_are_another_version(after: dict[str, str]) -> None:
    old, new = view(**DATABASE), view(**after)
    assert old.definition_version != new.definition_version
    assert compare(old, new).level == "breaking"
    assert "its source's table is another one" in compare(old, new).sentences
