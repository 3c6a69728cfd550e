"""Search of receipts by facets: the same on both catalogs as over the receipts themselves."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.catalog.examples import DEV, NOON, OTHER, receipt

from antiphon.catalog.database import Database
from antiphon.catalog.serving import receipt_search
from antiphon.catalog.serving.receipt import CacheReceipt, GuardReceipt, Receipt
from antiphon.catalog.serving.receipt_search import FACETS, Place, ReceiptSearch
from antiphon.catalog.serving.receipts import Receipts

MADE = [
    receipt(
        f"p{number:02}",
        created_at=NOON + timedelta(seconds=number // 2),  # Two of a moment.
        application=("desk", "triage", "<b>x</b>")[number % 3],
        path="batch" if number % 2 else "online",
        subject=f"s{number % 5}",
        role="shadow" if number % 7 == 0 else "live",
        guards=(GuardReceipt("words", "pass"), GuardReceipt("figures", ("retry", "template")[number % 2]))
        if number % 4
        else (),
        release=f"rel_{number % 4}",
        cache=CacheReceipt("stored" if number % 6 == 0 else "generated"),
    )
    for number in range(30)
]


@pytest.fixture
def search(database: Database) -> ReceiptSearch:
    receipts = Receipts(database)
    for one in (*MADE, receipt("foreign", OTHER, application="theirs")):
        receipts.add(one)
    return ReceiptSearch(database)


def expected(chosen: dict[str, list[str]]) -> list[Receipt]:
    found = [one for one in MADE if all(getattr(one.facets, name) in some for name, some in chosen.items() if some)]
    return sorted(found, key=lambda one: (one.created_at, one.prediction), reverse=True)


@given(
    chosen=st.fixed_dictionaries(
        {},
        optional={
            name: st.lists(st.sampled_from(sorted({getattr(one.facets, name) for one in MADE} | {"none of it"})))
            for name in FACETS
        },
    ),
    limit=st.integers(1, 12),
    merged=st.sampled_from([0, 64]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_and_counts_are_those_of_the_receipts(
    search: ReceiptSearch, chosen: dict[str, list[str]], limit: int, merged: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receipt_search, "_MOST_MERGED", merged)
        found: list[Receipt] = []
        place = None
        while page := search.page(DEV, chosen, limit, before=place):
            assert len(page) <= limit
            found += page
            place = Place(page[-1].created_at, page[-1].prediction)
    assert found == expected(chosen)
    counts = search.counts(DEV, chosen)
    assert (counts.matching, counts.counted, counts.complete) == (len(found), len(MADE), True)
    for facet in FACETS:
        others = {name: values for name, values in chosen.items() if name != facet}
        told = {one.value: one.count for one in counts.values[facet] if one.count}
        values = [getattr(one.facets, facet) for one in expected(others)]
        assert told == {value: values.count(value) for value in values}


def test_a_span_and_a_subject_bound_the_search(search: ReceiptSearch) -> None:
    since, until = NOON + timedelta(seconds=3), NOON + timedelta(seconds=9)
    found = search.page(DEV, {"path": ["online"]}, 50, since, until, "s1")
    assert [one.prediction for one in found] == ["p16", "p06"]
    assert search.counts(DEV, {"path": ["online"]}, since, until, "s1").matching == 2
    assert search.page(DEV, {}, 50, since=NOON + timedelta(days=1)) == []


def test_requests_of_users_are_counted_by_release(search: ReceiptSearch) -> None:
    found = search.by_release(DEV, "desk")
    seen = [one for one in MADE if one.application == "desk" and one.role == "live"]
    assert {name: (one.requests, one.latest) for name, one in found.items()} == {
        name: (len(times), max(times))
        for name in ("rel_0", "rel_1", "rel_2", "rel_3")
        if (times := [one.created_at for one in seen if one.release == name])
    }
    assert sum(one.requests for one in found.values()) == len(seen) > 0
    assert search.by_release(DEV, "theirs") == {}


def test_only_the_newest_are_counted_and_that_is_said(search: ReceiptSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_search, "MOST_COUNTED", 10)
    counts = search.counts(DEV, {})
    assert (counts.counted, counts.complete) == (10, False)


def test_a_scope_sees_its_own_alone(search: ReceiptSearch) -> None:
    assert [one.prediction for one in search.page(OTHER, {}, 50)] == ["foreign"]
    assert [one.value for one in search.counts(OTHER, {}).values["application"]] == ["theirs"]
    assert "theirs" not in {one.value for one in search.counts(DEV, {}).values["application"]}


def test_what_was_known_of_kinds_may_be_forgotten(search: ReceiptSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_search, "_MOST_KNOWN", 2)
    assert search.page(DEV, {}, 50) == expected({})
