"""Unpacked rows are kept by their content, within a bound."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from antiphon.catalog.unpacked_rows import UnpackedRows


@pytest.fixture
def unpacked() -> list[bytes]:
    return []


@pytest.fixture
def rows(unpacked: list[bytes]) -> UnpackedRows[list[str]]:
    def unpack(packed: bytes, measures: Collection[str] | None) -> list[str]:
        unpacked.append(packed)
        return [one for one in packed.decode().split() if measures is None or one in measures]

    return UnpackedRows(unpack, most=6)


def test_a_row_is_unpacked_once_for_the_measures_that_are_read(
    rows: UnpackedRows[list[str]], unpacked: list[bytes]
) -> None:
    assert rows.read(b"a b c", ["a", "b"]) is rows.read(b"a b c", ("b", "a"))
    assert rows.read(b"a b c", None) == ["a", "b", "c"]
    assert rows.read(b"a b d", ["a", "b", "d"]) == ["a", "b", "d"], "another content is another row"
    assert len(unpacked) == 3


def test_the_least_recently_read_goes_first(rows: UnpackedRows[list[str]], unpacked: list[bytes]) -> None:
    for row in (b"a b", b"c d", b"e f", b"a b", b"g h"):
        rows.read(row, None)
    assert unpacked == [b"a b", b"c d", b"e f", b"g h"]
    for row in (b"a b", b"e f", b"g h"):
        rows.read(row, None)
    assert len(unpacked) == 4
    rows.read(b"c d", None)
    assert unpacked[4:] == [b"c d"]


def test_rows_without_amounts_are_bounded_too(rows: UnpackedRows[list[str]], unpacked: list[bytes]) -> None:
    for number in range(20):
        rows.read(b"a" * number, ["none"])
    rows.read(b"", ["none"])
    assert len(unpacked) == 21
