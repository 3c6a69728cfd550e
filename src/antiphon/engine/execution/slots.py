"""Places a model's sequences: in slots of its runtime, or in swap space.

Invariant: sequences that decode together sit in adjacent slots. llama.cpp cuts a call at every gap, which costs up to
80 %; moving a sequence is a copy of its state, about 0.2 ms per 100 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence as Several

from antiphon.engine.execution.runtime import Runtime
from antiphon.engine.execution.sequence import Sequence
from antiphon.engine.execution.swap_space import SwapSpace


class Slots:
    """The slots of one runtime, and the swap space of sequences that gave theirs up."""

    def __init__(self, runtime: Runtime, swap_space: SwapSpace) -> None:
        self.swap_space = swap_space
        self._runtime = runtime
        self._residents: list[Sequence | None] = [None] * runtime.layout.slots

    def assign(self, sequence: Sequence) -> None:
        """Give a sequence a free slot, and its state back if it was swapped out; ``EngineError`` if disk has lost
        it."""
        slot = self._residents.index(None)
        if sequence.swapped_out:
            state = self.swap_space.take(sequence.ticket)
            sequence.swapped_out = False
            self._runtime.restore_state(slot, state)
        self._residents[slot] = sequence
        sequence.slot = slot

    def swap_out(self, sequence: Sequence) -> None:
        """Move a sequence out of its slot, to go on later."""
        if sequence.slot is not None and sequence.position:
            self.swap_space.put(sequence.ticket, self._runtime.copy_state(sequence.slot))
            sequence.swapped_out = True
        self._free(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence and its state, wherever it is."""
        self._free(sequence)
        self.swap_space.drop(sequence.ticket)

    def make_adjacent(self, sequences: Several[Sequence]) -> list[tuple[int, Sequence]]:
        """Move the sequences into adjacent slots; returns them with their slots, ascending."""
        tickets = {sequence.ticket for sequence in sequences}
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
            if resident is None or resident.ticket not in tickets:
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
            self._runtime.copy_state(slot) if resident is not None and resident.position else None
            for slot, resident in ((left, one), (right, other))
        ]
        for slot, moved, state in ((right, one, states[0]), (left, other, states[1])):
            self._residents[slot] = moved
            if moved is not None:
                moved.slot = slot
            if state is None:
                self._runtime.drop(slot)
            else:
                self._runtime.restore_state(slot, state)
