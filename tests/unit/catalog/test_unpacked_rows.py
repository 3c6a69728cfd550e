"""Unpacked rows: kept by content and measures, bounded, and read by several threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from antiphon.catalog.measurements import Amount, Measurements
from antiphon.catalog.unpacked_rows import UnpackedRows


def packed(count: float, series: int = 1) -> bytes:
    return Measurements({("answers", (str(number),)): Amount(count) for number in range(series)}).packed()


@pytest.fixture
def unpacked() -> list[bytes]:
    return []


@pytest.fixture
def rows(unpacked: list[bytes]) -> UnpackedRows[Measurements]:
    def unpack(row: bytes, measures: frozenset[str] | None) -> Measurements:
        unpacked.append(row)
        return Measurements.unpacked(row, measures)

    return UnpackedRows(unpack, most=10)


def test_a_row_is_unpacked_once_for_each_choice_of_measures(
    rows: UnpackedRows[Measurements], unpacked: list[bytes]
) -> None:
    row = packed(1)
    for _ in range(2):
        assert rows.read(row, None) == rows.read(row, frozenset({"answers"})) == Measurements.unpacked(row)
        assert rows.read(row, frozenset({"others"})) == {}
    assert len(unpacked) == 3


def test_a_row_with_other_content_is_another_row(rows: UnpackedRows[Measurements]) -> None:
    for count in (1.0, 2.0, 1.0):
        assert rows.read(packed(count), None) == {("answers", ("0",)): Amount(count)}


def test_the_least_recently_read_goes_first_and_more_than_fits_is_not_kept(
    rows: UnpackedRows[Measurements], unpacked: list[bytes]
) -> None:
    first, second, third, flood = packed(1, 5), packed(2, 5), packed(3, 5), packed(4, 11)
    for row in (first, second, first, third, first):
        rows.read(row, None)
    assert unpacked == [first, second, third]
    rows.read(second, None)
    assert unpacked[3:] == [second]
    for _ in range(2):
        assert len(rows.read(flood, None)) == 11
    assert unpacked[4:] == [flood, flood]


def test_rows_without_amounts_are_bounded_too(rows: UnpackedRows[Measurements], unpacked: list[bytes]) -> None:
    every = [packed(number) for number in range(12)]
    for row in (*every, every[0]):
        assert rows.read(row, frozenset({"others"})) == {}
    assert unpacked == [*every, every[0]]


def test_threads_that_read_at_once_each_have_the_row_and_the_bound_holds(unpacked: list[bytes]) -> None:
    rows = UnpackedRows(Measurements.unpacked, most=10)
    every = [packed(number, 3) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: rows.read(every[number % 8], None), range(2_000)))
    assert all(one == Measurements.unpacked(every[number % 8]) for number, one in enumerate(found))
    assert rows._amounts == sum(len(one) for one in rows._rows.values()) <= 10
