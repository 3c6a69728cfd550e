"""Is a batch of values from one generation? Judged by the values alone; the standard library is all that is imported.

In every generation ``g`` each entity of each view has the values ``newest = g``, ``told = g + 1`` and
``total = g·(g + 1)/2``, so that each value says which generation it is of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def generations(batch: Iterable[Mapping[str, Any]], views: Iterable[str]) -> set[int | None]:
    """Every generation that a value of the batch is of; ``None`` stands for a value that is of none, or missing."""
    names = tuple(views)
    found: set[int | None] = set()
    for values in batch:
        for view in names:
            found.add(_whole(values.get(f"{view}.newest")))
            told, total = _whole(values.get(f"{view}.told")), _whole(values.get(f"{view}.total"))
            found.add(None if told is None else told - 1)
            found.add(None if total is None else _root(total))
    return found


def is_torn(found: set[int | None]) -> bool:
    """More than one generation, or a value that none has."""
    return len(found) != 1 or None in found


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and value == int(value) else None


def _root(total: int) -> int | None:
    """The g with g·(g + 1)/2 = total."""
    if total < 0:
        return None
    root = (math.isqrt(8 * total + 1) - 1) // 2
    return root if root * (root + 1) // 2 == total else None
