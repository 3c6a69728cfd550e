"""Where a model's sequences live: in slots of its runtime, or kept elsewhere while somebody else has theirs.

Invariant: sequences that decode together sit in neighbouring slots. llama.cpp cuts a call at every gap, which costs up
to 80 %; moving a sequence is a copy of its state, about 0.2 ms per 100 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence as Several

from antiphon.engine.execution.runtime import Runtime
from antiphon.engine.execution.sequence import Sequence
from antiphon.engine.execution.swap_space import KeptStates


class Slots:
    """The slots of one runtime; ``kept`` holds those that gave theirs up, and may be shared."""

    def __init__(self, runtime: Runtime, kept: KeptStates) -> None:
        self.kept = kept
        self._runtime = runtime
        self._residents: list[Sequence | None] = [None] * runtime.layout.slots

    def give(self, sequence: Sequence) -> None:
        """A free slot for a sequence, with its state if it was kept.

        Raises:
            EngineError: what was kept cannot be read again.
        """
        slot = self._residents.index(None)
        if sequence.kept:
            state = self.kept.take(sequence.ticket)
            sequence.kept = False
            self._runtime.restore(slot, state)
        self._residents[slot] = sequence
        sequence.slot = slot

    def keep(self, sequence: Sequence) -> None:
        """Move a sequence out of its slot, to go on later."""
        if sequence.slot is not None and sequence.position:
            self.kept.put(sequence.ticket, self._runtime.keep(sequence.slot))
            sequence.kept = True
        self._free(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is."""
        self._free(sequence)
        self.kept.drop(sequence.ticket)

    def side_by_side(self, sequences: Several[Sequence]) -> list[tuple[int, Sequence]]:
        """Bring the sequences into neighbouring slots; returns them by ascending slot."""
        wanted = {sequence.ticket for sequence in sequences}
        occupied = sorted(sequence.slot for sequence in sequences if sequence.slot is not None)
        count = len(occupied)
        # The window of slots that already holds most of them needs the fewest moves.
        begin = max(
            range(len(self._residents) - count + 1),
            key=lambda start: sum(1 for slot in occupied if start <= slot < start + count),
        )
        window = range(begin, begin + count)
        outside = [slot for slot in occupied if slot not in window]
        for slot in window:
            resident = self._residents[slot]
            if resident is None or resident.ticket not in wanted:
                self._swap(outside.pop(), slot)
        return [(slot, resident) for slot in window if (resident := self._residents[slot]) is not None]

    def _free(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self._runtime.drop(sequence.slot)
            self._residents[sequence.slot] = None
            sequence.slot = None

    def _swap(self, left: int, right: int) -> None:
        one, other = self._residents[left], self._residents[right]
        states = [
            self._runtime.keep(slot) if resident is not None and resident.position else None
            for slot, resident in ((left, one), (right, other))
        ]
        for slot, moved, state in ((right, one, states[0]), (left, other, states[1])):
            self._residents[slot] = moved
            if moved is not None:
                moved.slot = slot
            if state is None:
                self._runtime.drop(slot)
            else:
                self._runtime.restore(slot, state)
