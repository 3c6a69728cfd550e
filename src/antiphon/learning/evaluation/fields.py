"""Metrics of structured outputs beside a corrected one, field by field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from antiphon.learning.evaluation.metric import Metric
from antiphon.learning.evaluation.texts import RowComparison, mean_of

_ABSENT = object()


def score_fields(said: str, corrected: str) -> dict[str, float]:
    """Every metric of one output beside the corrected one, both JSON objects, by name.

    ``field_f1``: F1 over (path, value), to the leaves; items of a list count in any order. ``field_match``: share of
    the properties of either that are the same in both. ``output_match``: 1 where all of them are.
    """
    ours, theirs = _object(said), _object(corrected)
    first, second = Counter(_leaves(ours)), Counter(_leaves(theirs))
    leaves = first.total() + second.total()
    names = {**ours, **theirs}
    same = sum(_plain(ours.get(name, _ABSENT)) == _plain(theirs.get(name, _ABSENT)) for name in names)
    return {
        "field_f1": 2 * (first & second).total() / leaves if leaves else 1.0,
        "field_match": same / len(names) if names else 1.0,
        "output_match": float(same == len(names)),
    }


def _object(text: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, (*path, "[]"))
    else:
        yield path, _plain(value)


def _plain(value: Any) -> object:
    """A value as it is compared: without white space at its ends, and true apart from 1."""
    if isinstance(value, str):
        return value.strip()
    return ("boolean", value) if isinstance(value, bool) else value


FIELDS = RowComparison(
    {
        "field_f1": Metric("field_f1", mean_of("field_f1"), True, "correction"),
        "field_match": Metric("field_match", mean_of("field_match"), True, "correction"),
        "output_match": Metric("output_match", mean_of("output_match"), True, "correction"),
    },
    score_fields,
    "field_f1",
)
