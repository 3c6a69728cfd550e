"""Each check of the crowd's kill harness finds the violation it is there for, in a state that is whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.chaos.harness.feature_crowd_checks import Brute, pins_kept, readings_right, steps_right
from tests.chaos.harness.feature_crowd_evidence import Crowded, cut_power, watch_syncs

HOUR = 3_600_000_000
NOON = datetime(2013, 4, 10, 12, tzinfo=UTC)
AT = int(NOON.timestamp()) * 1_000_000
BRUTE = Brute([(0, "h1", "shop-0", 2.0, AT - 3 * HOUR, AT - 3 * HOUR)], {"counted@a": 2, "counted@b": 4})


def manifest(minute: int, offset: int | None) -> dict[str, Any]:
    return {"as_of": f"2013-04-10T12:{minute:02}:00Z", "stream_offset": offset, "source_hash": "v0"}


WHOLE = Crowded(
    publications={
        1: {"counted@a": "s1"},
        2: {"counted@a": "s2", "stocked@c": "s3"},
        3: {"counted@a": "s2", "stocked@c": "s3", "counted@b": "s4"},
        4: {"counted@a": "s1", "stocked@c": "s3", "counted@b": "s4"},
    },
    manifests={"s1": manifest(0, 0), "s2": manifest(1, 1), "s3": manifest(0, None), "s4": manifest(2, 1)},
    pruned=frozenset({"s9"}),
    staged=frozenset(),
    named={},
    lake={},
    online={},
    written={},
    left={},
    offsets={},
    events=[
        (1, "e1", "shop-0", 1.0, AT - HOUR, AT - HOUR),
        (2, "e2", "shop-0", 3.0, AT - HOUR + 1, AT - HOUR + 1),
    ],
    reasons={1: "settle 1-0", 2: "again 2-0", 3: "orders 3-0", 4: "back 4-0"},
    receipts={"pred_1": (1_000.0, ("s1",))},
    pruned_at={"s1": 1_020.0},
    datasets=frozenset({"data_1"}),
)
STOCK = {"v0": [("shop-0", 7, AT - HOUR, AT - HOUR), ("shop-0", -5, AT, AT)]}


def changed(**fields: Any) -> Crowded:
    return msgspec.structs.replace(WHOLE, **fields)


def reading(number: int, version: str, between: tuple[int, int], orders: int, lately: int) -> dict[str, Any]:
    return {
        "publication": number, "read": number, "as_of": NOON.isoformat(), "views": {"counted": version},
        "values": {"shop-0": {"counted.orders": orders, "counted.lately": lately}},
        "offsets": [{f"counted@{version}": between[0]}, {f"counted@{version}": between[1]}],
    }  # fmt: skip


def right(*readings: dict[str, Any], found: Crowded = WHOLE) -> list[str]:
    return readings_right(found, readings, BRUTE, STOCK, {})


def test_a_whole_state_passes() -> None:
    stocked = {"publication": 2, "read": 2, "as_of": NOON.isoformat(), "views": {"stocked": "c"}}
    stocked["values"] = {"shop-0": {"stocked.pieces": 7, "stocked.counts": 1}, "shop-1": {"stocked.pieces": None}}
    stocked["values"]["shop-1"]["stocked.counts"] = 0
    assert right(reading(1, "a", (0, 2), 2, 1), reading(1, "a", (0, 2), 3, 2), reading(3, "b", (0, 0), 2, 2)) == []
    assert right(stocked) == []
    found = changed(
        publications={
            1: {"counted@a": "s1"},
            2: {"counted@a": "s2"},
            3: {"counted@a": "s2", "counted@b": "s4"},
            4: {"counted@a": "s1"},
        }
    )
    assert steps_right(found) == []
    assert pins_kept(WHOLE, 8.0, ["pred_1"], ["data_1"]) == []


BROKEN: dict[str, Callable[[], list[str]]] = {
    "between the offsets 0 and 1": lambda: right(reading(1, "a", (0, 1), 3, 2)),
    "is right at the last": lambda: right(reading(1, "a", (2, 2), 2, 1)),
    "'counted.lately': 2} was read": lambda: right(reading(1, "a", (0, 2), 2, 2)),
    "cannot be read: why": lambda: right({**reading(1, "a", (0, 0), 0, 0), "failed": "why"}),
    "answered from 1": lambda: right({**reading(2, "a", (0, 0), 0, 0), "read": 1}),
    "publication 2 (again 2-0) changed stocked": lambda: steps_right(WHOLE),
    "lost counted": lambda: steps_right(changed(publications={1: {"counted@a": "s1"}, 2: {}})),
    "older snapshot of counted": lambda: steps_right(
        changed(publications={1: {"counted@a": "s2"}, 2: {"counted@a": "s1"}})
    ),
    "s1 was pruned 20.0 s after pred_1": lambda: pins_kept(WHOLE, 30.0, [], []),
    "the receipt of pred_2 is lost": lambda: pins_kept(WHOLE, 8.0, ["pred_2"], []),
    "the dataset data_2 is lost": lambda: pins_kept(WHOLE, 8.0, [], ["data_2"]),
    "names s8, which is unknown": lambda: pins_kept(changed(receipts={"p": (0.0, ("s8",))}), 8.0, [], []),
}


@pytest.mark.parametrize("words", list(BROKEN))
def test_what_is_broken_is_found(words: str) -> None:
    assert any(words in one for one in BROKEN[words]()), BROKEN[words]()


def test_a_power_cut_loses_what_was_not_synced_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".antiphon" / "lake" / "default" / "dev" / "ab"
    folder.mkdir(parents=True)
    for name in ("fsync", "unlink"):  # watched from here on, and put back after the test
        monkeypatch.setattr(os, name, getattr(os, name))
    watch_syncs(tmp_path)
    for name, content_synced, name_synced in (("whole", 1, 1), ("torn", 0, 1), ("lost", 1, 0)):
        if not name_synced:
            _sync(folder)
        (folder / "draft").write_bytes(b"0123456789")
        if content_synced:
            _sync(folder / "draft")
        os.replace(folder / "draft", folder / name)
    lost = {Path(line.partition(" (")[0]).name: line.partition(" (")[2] for line in cut_power(tmp_path)}
    assert lost == {"torn": "its content)", "lost": "its name)"}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"whole": b"0123456789", "torn": b"01234"}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
