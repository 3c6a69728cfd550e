"""What must hold of the feature platform between two lives: pure functions of what was found and what was said.

Expected values are computed by brute force from the source files and the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tests.chaos.harness.feature_chaos_evidence import Event, Found, microseconds

_HOUR = 3_600_000_000
Stock = Mapping[str, Sequence[tuple[str, int, int, int]]]
"""Rows of each version of the table, by its hash."""


def catalog_whole(found: Found, kept: int) -> list[str]:
    """Publications have no gap; what they name has a manifest and its files, those that are kept also sealed builds;
    whatever else names a file of the lake finds it."""
    wrong = []
    numbers = list(found.publications)
    if numbers != list(range(1, len(numbers) + 1)):
        wrong.append(f"the publications are numbered {numbers}")
    for number, snapshots in found.publications.items():
        for key, snapshot in snapshots.items():
            where = f"publication {number}, {key.partition('@')[0]}"
            if snapshot not in found.manifests:
                wrong.append(f"{where}: {snapshot} has no manifest")
            sealed = found.online.get((key.partition("@")[0], snapshot))
            if number > len(numbers) - kept and sealed is not True:
                wrong.append(f"{where}: the sealed build of {snapshot} is {'missing' if sealed is None else 'changed'}")
            if number > len(numbers) - kept and snapshot in found.pruned:
                wrong.append(f"{where}: {snapshot} was pruned")
    wrong += [f"{one} waits for the end of its embargo and was pruned" for one in found.staged & found.pruned]
    for path, (sha256, by) in found.named.items():
        stored = found.lake.get(path)
        if stored is None or stored[0] != sha256:
            wrong.append(f"{by} names {path}, which is {'missing' if stored is None else 'changed'}")
    return wrong


def events_kept(found: Found, acknowledged: Iterable[str]) -> list[str]:
    """Every acknowledged event is in the log once, at offsets without a hole."""
    wrong = []
    if [event[0] for event in found.events] != list(range(1, len(found.events) + 1)):
        wrong.append("the log's offsets have holes")
    counted = Counter(event[1] for event in found.events)
    wrong += [f"the event {one} is in the log {times} times" for one, times in counted.items() if times > 1]
    wrong += [f"the event {one} was acknowledged and is lost" for one in set(acknowledged) - counted.keys()]
    return wrong


def offsets_forward(before: Mapping[str, int], found: Found) -> list[str]:
    """What was consumed stays consumed, and nothing is consumed that is not in the log."""
    wrong = [
        f"{key} had consumed {offset} and now {found.offsets.get(key, 0)}"
        for key, offset in before.items()
        if found.offsets.get(key, 0) < offset
    ]
    end = len(found.events)
    return wrong + [f"{key} consumed {at} of {end} events" for key, at in found.offsets.items() if at > end]


def publications_forward(before: Mapping[int, Mapping[str, str]], found: Found) -> list[str]:
    """A publication that was there is there, and says the same."""
    return [
        f"publication {number} changed or is gone"
        for number, snapshots in before.items()
        if found.publications.get(number) != snapshots
    ]


def no_orphans(found: Found, cutoff: float, kept: int) -> list[str]:
    """After a collection nothing is left that was written before it and that nothing pins."""
    wanted = {
        (key.partition("@")[0], snapshot)
        for snapshots in list(found.publications.values())[-kept:]
        for key, snapshot in snapshots.items()
    }
    wrong = [f"{one} was left by an unfinished write" for one, at in found.left.items() if at < cutoff]
    wrong += [
        f"the build of {place[1]} is in no publication that is kept"
        for place, at in found.written.items()
        if place not in wanted and at < cutoff - 1
    ]
    wrong += [
        f"nothing names {path}" for path, (_, at) in found.lake.items() if path not in found.named and at < cutoff
    ]
    return wrong


def values_right(
    found: Found,
    readings: Sequence[Mapping[str, Any]],
    history: Sequence[Event],
    stock: Stock,
    offsets: Mapping[str, int],
) -> list[str]:
    """Every value of every reading is what brute force makes of the rows and the events that it may see.

    Args:
        offsets: view key to the log offset that was consumed when they were read.
    """
    wrong = []
    for reading in readings:
        number = reading["publication"]
        where = f"publication {number} as of {reading['as_of']}"
        if "failed" in reading:
            wrong.append(f"{where} cannot be read: {reading['failed']}")
            continue
        if reading["read"] != number:
            wrong.append(f"{where} was answered from {reading['read']}")
            continue
        at = microseconds(datetime.fromisoformat(reading["as_of"]))
        snapshots = {key.partition("@")[0]: (key, one) for key, one in found.publications[number].items()}
        for shop, values in reading["values"].items():
            expected: dict[str, Any] = {}
            for view in snapshots.keys() - {"stocked"}:
                key, snapshot = snapshots[view]
                seen = max(offsets.get(key, 0), found.manifests[snapshot]["stream_offset"] or 0)
                orders = _orders([*history, *(one for one in found.events if one[0] <= seen)], shop, at)
                if view == "counted":
                    expected["counted.orders"] = len(orders)
                    expected["counted.lately"] = sum(at - 2 * _HOUR < ordered for ordered, _ in orders)
                elif view == "held":
                    expected["held.orders"] = len(orders)
                else:
                    expected["summed.amount"] = sum(round(100 * amount) for _, amount in orders) / 100
                    expected["summed.latest"] = max(orders)[1] if orders else None
            if "stocked" in snapshots:
                rows = stock[found.manifests[snapshots["stocked"][1]]["source_hash"]]
                lying = [n for of, n, counted, known in rows if of == shop and counted <= at and known <= at and n >= 0]
                expected["stocked.pieces"], expected["stocked.counts"] = sum(lying), len(lying)
            if not expected or expected.keys() != values.keys():
                wrong.append(f"{where}, {shop}: {sorted(values)} were read, there are {sorted(expected)}")
            for name, value in expected.items():
                read = values.get(name)
                if (read or 0) != (value or 0):
                    wrong.append(f"{where}, {shop}: {name} is {value} and was read as {read}")
    return wrong


def _orders(events: Iterable[Event], shop: str, at: int) -> list[tuple[int, float]]:
    """(ordered, amount) of a shop's orders that happened and were known by then, each id once."""
    first: dict[tuple[str, int], Event] = {}
    for event in events:
        if event[2] != shop:
            continue
        known = first.get((event[1], event[4]))
        if known is None or event[5] < known[5]:
            first[event[1], event[4]] = event
    return [(one[4], one[3]) for one in first.values() if one[4] <= at and one[5] <= at]
