"""What of a source belongs to a view's definition version."""

from __future__ import annotations

from antiphon import Entity, Source, col, count, feature_view, mean
from antiphon.definitions.source import SourceSpec


def version(source: Source) -> str:
    @feature_view(entity=Entity("o", ["origin"]), source=source)
    class V:
        n = count(window="2h")
        d = mean(col.dep_delay, window="2h", scale="0.01")

    return V.spec().definition_version


def test_a_view_keeps_the_version_that_it_had_in_older_releases() -> None:
    stream = Source.stream(
        "departures", history="x", event_time="at", available_at="known", event_id="id", where=col.a > 3
    )
    assert version(stream) == "9038b8457fca4ef8"
    assert version(Source.table("departures", path="x", event_time="at")) == "4af8fdccba1acf85"


def test_where_rows_lie_and_who_asks_is_no_part_of_it() -> None:
    here = Source.table("o", url="postgresql://a@h/d", table="t", password_variable="A", event_time="at")
    there = Source.table("o", url="postgresql://b@i/e", table="t", password_variable="B", event_time="at")
    other = Source.table("o", url="postgresql://a@h/d", table="u", password_variable="A", event_time="at")
    assert version(here) == version(there)
    assert version(here) != version(other)
    assert isinstance(here.spec(), SourceSpec)
