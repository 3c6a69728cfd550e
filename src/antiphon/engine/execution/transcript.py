"""From token bytes to text that may be shown.

Invariant: what was released never changes. A character is released when all its bytes are there; text that
could still turn out to be the beginning of a stop sequence waits until it cannot.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Transcript:
    """The growing text of one generation."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self.text = ""
        self.releasable = 0
        """Number of characters of ``text`` that may be shown."""
        self.stopped = False
        """A stop sequence was completed; ``text`` ends before it."""

    def push(self, piece: bytes, *, last: bool = False) -> None:
        """Append a token's bytes; ``last`` also gives up bytes that wait for the rest of a character."""
        if self.stopped:
            return
        self.text += self._decoder.decode(piece, last)
        cut = min((at for stop in self._stops if (at := self.text.find(stop, self.releasable)) >= 0), default=-1)
        if cut >= 0:
            self.text = self.text[:cut]
            self.stopped = True
            self.releasable = cut
        else:
            self.releasable = len(self.text) - (0 if last else self._held())

    def finish(self) -> None:
        """No more bytes will come."""
        self.push(b"", last=True)

    def _held(self) -> int:
        """Characters at the end of the text that begin a stop sequence."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self.text) - self.releasable), longest, -1):
                if self.text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
