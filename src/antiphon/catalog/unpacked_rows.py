"""Unpacked rows of measurements, kept for the next look at the same span.

Invariants:
- Kept by what a row holds, byte by byte, which is read from the catalog at each look: a row that was added to, by any
  process, is another one. Nothing has to be told that it is out of date.
- What is kept is bounded by its amounts, the least recently read goes first. It is shared: nobody changes it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sized
from typing import Generic, TypeVar

Unpacked = TypeVar("Unpacked", bound=Sized)
_Measures = frozenset[str] | None
_Key = tuple[bytes, _Measures]


class UnpackedRows(Generic[Unpacked]):
    """Rows by their content and the measures that were read of them.

    Args:
        most: amounts that are kept; of rows without any, as many rows.
    """

    def __init__(self, unpack: Callable[[bytes, _Measures], Unpacked], most: int) -> None:
        self._unpack = unpack
        self._most = most
        self._rows: OrderedDict[_Key, Unpacked] = OrderedDict()
        self._amounts = 0
        self._lock = threading.Lock()

    def read(self, packed: bytes, measures: _Measures) -> Unpacked:
        """The amounts of a row, not to be changed."""
        key = packed, measures
        with self._lock:
            if (known := self._rows.get(key)) is not None:
                self._rows.move_to_end(key)
                return known
        unpacked = self._unpack(packed, measures)
        with self._lock:
            if key not in self._rows:
                self._rows[key] = unpacked
                self._amounts += len(unpacked) or 1
            while self._amounts > self._most:
                _, gone = self._rows.popitem(last=False)
                self._amounts -= len(gone) or 1
        return unpacked
