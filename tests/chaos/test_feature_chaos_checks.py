"""Each check of the feature platform's kill harness finds the violation it is there for, in a state that is whole."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from tests.chaos.harness.feature_chaos_checks import (
    catalog_whole,
    events_kept,
    no_orphans,
    offsets_forward,
    publications_forward,
    values_right,
)
from tests.chaos.harness.feature_chaos_evidence import Found
from tests.chaos.harness.feature_chaos_lives import Aim, phase_of

HOUR = 3_600_000_000
NOON = datetime(2013, 4, 10, 12, tzinfo=UTC)
AT = int(NOON.timestamp()) * 1_000_000


def manifest(offset: int | None, *files: str) -> dict[str, Any]:
    return {"stream_offset": offset, "source_hash": "v0", "files": [{"path": file, "sha256": file} for file in files]}


WHOLE = Found(
    publications={1: {"counted@a": "s1"}, 2: {"counted@a": "s2", "stocked@b": "s3"}},
    manifests={"s1": manifest(0, "f1"), "s2": manifest(1, "f2"), "s3": manifest(None, "f3")},
    pruned=frozenset(),
    staged=frozenset(),
    named={"f1": ("f1", "s1"), "f2": ("f2", "s2"), "f3": ("f3", "s3"), "f4": ("f4", "verd_1")},
    lake={name: (name, 10.0) for name in ("f1", "f2", "f3", "f4")},
    online={("counted", "s2"): True, ("stocked", "s3"): True},
    written={("counted", "s2"): 10.0, ("stocked", "s3"): 10.0},
    left={},
    offsets={"counted@a": 2},
    events=[
        (1, "e1", "shop-0", 1.0, AT - HOUR, AT - HOUR),
        (2, "h1", "shop-0", 2.0, AT - 3 * HOUR, AT),  # of the history, known earlier
    ],
)
HISTORY = [(0, "h1", "shop-0", 2.0, AT - 3 * HOUR, AT - 3 * HOUR)]
STOCK = {"v0": [("shop-0", 7, AT - HOUR, AT - HOUR), ("shop-0", -5, AT, AT), ("shop-0", 9, AT, AT + 1)]}
VALUES = {"counted.orders": 2, "counted.lately": 1, "stocked.pieces": 7, "stocked.counts": 1}
READING = {"publication": 2, "as_of": NOON.isoformat(), "read": 2, "values": {"shop-0": VALUES}}


def changed(**fields: Any) -> Found:
    return msgspec.structs.replace(WHOLE, **fields)


def right(reading: dict[str, Any], found: Found = WHOLE) -> list[str]:
    return values_right(found, [reading], HISTORY, STOCK, found.offsets)


def test_a_whole_state_passes() -> None:
    assert catalog_whole(WHOLE, 1) == []
    assert events_kept(WHOLE, ["e1", "h1"]) == []
    assert offsets_forward({"counted@a": 2}, WHOLE) == []
    assert publications_forward({1: {"counted@a": "s1"}}, WHOLE) == []
    assert no_orphans(WHOLE, 100.0, 1) == []
    assert right(READING) == []


BROKEN: dict[str, Callable[[], list[str]]] = {
    "numbered": lambda: catalog_whole(changed(publications={2: WHOLE.publications[2]}), 1),
    "no manifest": lambda: catalog_whole(changed(manifests={"s1": manifest(0), "s3": manifest(None)}), 1),
    "build of s2 is missing": lambda: catalog_whole(changed(online={("stocked", "s3"): True}), 1),
    "build of s2 is changed": lambda: catalog_whole(
        changed(online={("counted", "s2"): False, ("stocked", "s3"): True}), 1
    ),
    "f4, which is missing": lambda: catalog_whole(changed(lake={n: (n, 1.0) for n in ("f1", "f2", "f3")}), 1),
    "f1, which is changed": lambda: catalog_whole(changed(lake=WHOLE.lake | {"f1": ("x", 1.0)}), 1),
    "s2 was pruned": lambda: catalog_whole(changed(pruned=frozenset({"s2"})), 1),
    "s9 waits": lambda: catalog_whole(changed(pruned=frozenset({"s9"}), staged=frozenset({"s9"})), 1),
    "build of s1 is missing": lambda: catalog_whole(WHOLE, 2),
    "holes": lambda: events_kept(changed(events=WHOLE.events[1:]), []),
    "e1 is in the log 2 times": lambda: events_kept(changed(events=[*WHOLE.events, (3, *WHOLE.events[0][1:])]), []),
    "e9 was acknowledged": lambda: events_kept(WHOLE, ["e9"]),
    "had consumed 2 and now 1": lambda: offsets_forward({"counted@a": 2}, changed(offsets={"counted@a": 1})),
    "consumed 3 of 2": lambda: offsets_forward({}, changed(offsets={"counted@a": 3})),
    "publication 1 changed": lambda: publications_forward({1: {"counted@a": "s9"}}, WHOLE),
    "publication 3 changed or is gone": lambda: publications_forward({3: {}}, WHOLE),
    "unfinished write": lambda: no_orphans(changed(left={".s.building": 10.0}), 100.0, 1),
    "build of s1 is in no": lambda: no_orphans(changed(written={("counted", "s1"): 10.0}), 100.0, 1),
    "nothing names f5": lambda: no_orphans(changed(lake=WHOLE.lake | {"f5": ("f5", 10.0)}), 100.0, 1),
    "cannot be read: why": lambda: right({**READING, "failed": "why"}),
    "answered from 1": lambda: right({**READING, "read": 1}),
    "lately is 1 and was read as 2": lambda: right({**READING, "values": {"shop-0": {**VALUES, "counted.lately": 2}}}),
    "orders is 1 and was read as 2": lambda: right(READING, changed(events=[], offsets={})),
    "pieces is 7 and was read as 2": lambda: right({**READING, "values": {"shop-0": {**VALUES, "stocked.pieces": 2}}}),
    "were read, there are": lambda: right({**READING, "values": {"shop-0": {"counted.orders": 2}}}),
}


@pytest.mark.parametrize("words", list(BROKEN))
def test_what_is_broken_is_found(words: str) -> None:
    assert any(words in one for one in BROKEN[words]()), BROKEN[words]()


def test_what_is_young_is_no_orphan() -> None:
    young = changed(lake=WHOLE.lake | {"f5": ("f5", 200.0)}, left={".s.building": 200.0})
    assert no_orphans(young, 100.0, 1) == []


def test_the_phase_is_the_innermost_that_was_under_way() -> None:
    said = ["begin refresh", "in publish", "in online build", "after online build 0.1"]
    assert phase_of(said) == "refresh: publish"
    assert phase_of(said[:3]) == "refresh: online build"
    assert phase_of([*said, "after publish 0.2", "end refresh 1.0"]) == "between operations"


def test_an_aim_passes_over_what_it_is_told_to() -> None:
    aim = Aim("refresh", "gate", 1, 1)
    lines = ["begin refresh", "in gate", "end refresh 1", "begin refresh", "in gate", "after gate 1", "in gate"]
    assert [aim.reached(line) for line in lines] == [False] * 6 + [True]
    assert Aim("refresh", None, 0, 3).reached("begin refresh")
    few = Aim("refresh", "gate", 0, 2)
    assert [few.reached(line) for line in ("begin refresh", "in gate", "end refresh 1")] == [False, False, True]
