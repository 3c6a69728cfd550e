"""Records come out in the order of their keys, and once, whether they fit into memory or not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from antiphon.core.ids import keyed_hash, keyed_hashes
from antiphon.features.online.snapshots import sorting
from antiphon.features.online.snapshots.sorting import SortedRecords


def records(count: int) -> dict[bytes, bytes]:
    hashes = [hashlib.blake2b(str(n).encode(), digest_size=16).digest() for n in range(count)]
    of_tiles = {
        key + suffix: b"t" * (n % 50) for n, key in enumerate(hashes) for suffix in (b"\xff", b"\x80" + bytes(7))
    }
    return {**{key: key * 3 for key in hashes}, **(of_tiles if count < 2_000 else {})}


@pytest.mark.parametrize("held", [sorting.HELD, 50_000])
@pytest.mark.parametrize("count", [0, 1, 700, 5_000])
def test_records_come_in_order_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, count: int) -> None:
    monkeypatch.setattr(sorting, "HELD", held)
    monkeypatch.setattr(sorting, "WRITTEN", 10_000)
    monkeypatch.setattr(sorting, "_TAKEN", 100)
    monkeypatch.setattr(sorting, "_IN_A_FILE", 100)
    wanted = records(count)
    found = SortedRecords(tmp_path / "sorting", count)
    found.add(list(wanted)[::2], list(wanted.values())[::2])
    found.add(list(wanted)[1::2], list(wanted.values())[1::2])
    found.finish()
    assert (found.records, found.size) == (len(wanted), sum(map(len, wanted.values())))
    parts = [list(part) for part in found]
    assert [pair for part in parts for pair in part] == sorted(wanted.items())
    assert len(parts) > 1 or count < 700
    # Files had no name: a process that is killed leaves none.
    assert list(tmp_path.iterdir()) == []


def test_many_hashes_are_those_of_one_by_one() -> None:
    texts = ["", "é", "a" * 300]
    for key in (b"k", b"k" * 64, b"k" * 65, b"k" * 200):
        assert keyed_hashes(key, [text.encode() for text in texts]) == [keyed_hash(key, text) for text in texts]
    assert keyed_hash(b"k" * 65, "a") != keyed_hash(b"k" * 64, "a")
