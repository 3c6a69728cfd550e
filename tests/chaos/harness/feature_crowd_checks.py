"""What must hold of a feature platform at which several processes worked at once, whichever of them were killed.

Expected values are computed by brute force from the source files and the log, of every definition version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tests.chaos.harness.feature_chaos_checks import Stock, _orders
from tests.chaos.harness.feature_chaos_evidence import Event, microseconds
from tests.chaos.harness.feature_crowd_evidence import Crowded

_HOUR = 3_600_000_000

WRITES = {
    "applied": {"counted"},  # the view that is redefined
    "orders": {"counted", "summed", "held"},
    "again": {"counted"},
    "stock": {"stocked"},
    "settle": {"counted", "summed", "held"},
}
"""Views that a publication may change, by the first word of its reason; a rollback (``back``) may change any."""


class Brute:
    """Every value, from rows and events alone.

    Args:
        history: the stream's history file.
        hours: of ``counted.lately``, by the view's key.
    """

    def __init__(self, history: Sequence[Event], hours: Mapping[str, int]) -> None:
        self._history = history
        self._hours = hours
        self._orders: dict[tuple[str, int, int], list[tuple[int, float]]] = {}

    def values(self, found: Crowded, stock: Stock, key: str, snapshot: str, shop: str, at: int, seen: int) -> Any:
        """A view's values of a shop at a moment (µs), when the log was consumed up to ``seen``."""
        view, manifest = key.partition("@")[0], found.manifests[snapshot]
        if view == "stocked":
            rows = stock[manifest["source_hash"]]
            lying = [n for of, n, counted, known in rows if of == shop and counted <= at and known <= at and n >= 0]
            return {"stocked.pieces": sum(lying), "stocked.counts": len(lying)}
        orders = self._seen(found, shop, at, max(seen, manifest["stream_offset"] or 0))
        if view == "counted":
            since = at - self._hours[key] * _HOUR
            return {"counted.orders": len(orders), "counted.lately": sum(since < one for one, _ in orders)}
        if view == "held":
            return {"held.orders": len(orders)}
        amount = sum(round(100 * one) for _, one in orders) / 100
        return {"summed.amount": amount, "summed.latest": max(orders)[1] if orders else None}

    def _seen(self, found: Crowded, shop: str, at: int, seen: int) -> list[tuple[int, float]]:
        known = self._orders.get((shop, at, seen))
        if known is None:
            known = _orders([*self._history, *found.events[:seen]], shop, at)
            self._orders[shop, at, seen] = known
        return known


def readings_right(
    found: Crowded, readings: Iterable[Mapping[str, Any]], brute: Brute, stock: Stock, offsets: Mapping[str, int]
) -> list[str]:
    """Every reading is of one publication, and of one state of each view's stream.

    A reading says between which offsets of the log its state was (``offsets``: before, after); one that does not was
    made while nobody consumed, when ``offsets`` were consumed.
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
        before, after = reading.get("offsets", (offsets, offsets))
        published = found.publications[number]
        for view, version in reading["views"].items():
            key = f"{view}@{version}"
            read = {
                shop: {name: value or 0 for name, value in values.items() if name.startswith(f"{view}.")}
                for shop, values in reading["values"].items()
            }
            states = range(before.get(key, 0), after.get(key, 0) + 1)
            expected: Any = None
            for seen in states:
                expected = {
                    shop: {
                        name: value or 0
                        for name, value in brute.values(found, stock, key, published[key], shop, at, seen).items()
                    }
                    for shop in read
                }
                if expected == read:
                    break
            else:
                differing = next(shop for shop in read if read[shop] != (expected or {}).get(shop))
                wrong.append(
                    f"{where}, {key}, {differing}: {read[differing]} was read between the offsets {states.start} and "
                    f"{states.stop - 1}, and {(expected or {}).get(differing)} is right at the last"
                )
    return wrong


def steps_right(found: Crowded) -> list[str]:
    """Each publication changes what its publisher made, and nothing else goes back with it."""
    wrong = []
    for number, snapshots in found.publications.items():
        before = found.publications.get(number - 1, {})
        reason = found.reasons[number]
        word = reason.split()[0]
        if word == "back":
            continue
        for key in sorted(before.keys() | snapshots.keys()):
            was, now = before.get(key), snapshots.get(key)
            if was == now:
                continue
            view = key.partition("@")[0]
            if view not in WRITES[word]:
                wrong.append(f"publication {number} ({reason}) changed {view}")
            elif now is None:
                wrong.append(f"publication {number} ({reason}) lost {view}")
            elif was is not None and _age(found, now) < _age(found, was):
                wrong.append(f"publication {number} ({reason}) put an older snapshot of {view} in place of a newer one")
    return wrong


def _age(found: Crowded, snapshot: str) -> tuple[str, int]:
    manifest = found.manifests[snapshot]
    return manifest["as_of"], manifest["stream_offset"] or 0


def pins_kept(found: Crowded, kept: float, answered: Iterable[str], built: Iterable[str]) -> list[str]:
    """Every acknowledged prediction has its receipt, every dataset is there, and what receipts name was there at least
    ``kept`` seconds."""
    wrong = [f"the receipt of {one} is lost" for one in answered if one not in found.receipts]
    wrong += [f"the dataset {one} is lost" for one in built if one not in found.datasets]
    for prediction, (written, snapshots) in found.receipts.items():
        wrong += [
            f"{snapshot} was pruned {found.pruned_at[snapshot] - written:.1f} s after {prediction} was made from it"
            for snapshot in snapshots
            if snapshot in found.pruned_at and 0 <= found.pruned_at[snapshot] - written < kept
        ]
        wrong += [f"{prediction} names {one}, which is unknown" for one in snapshots if one not in found.manifests]
    return wrong
