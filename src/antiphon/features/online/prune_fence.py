"""The prune fence of a view: keeps streamed events that a rollback brings back from a collector that decided before it.

A collector reads in the catalog what every kept publication includes, and drops the events later; a rollback restores
events, and commits its publication later. Overlay and catalog share no transaction, and each process may stall or be
killed between its two steps.

Invariant: no prune drops events after the snapshot of a kept publication, the current one first.

- A rollback to become publication M restores events after an offset and writes (offset, M) in one transaction of the
  overlay; after that it commits by compare-and-swap on M − 1.
- A prune carries n, the number of the last publication it was decided from, and is held to the fence in the
  transaction that marks events as pruned: with n < M it stops at the offset.
- With n ≥ M there is a publication M: the rollback, which the decision has taken into account, or another one, to
  which the rollback has lost; then it restores again, for the number that is next.

So the clock is the publication number, as a fencing token, and no time. A pin that ends at a time leaves the window
open: a rollback that stalls commits after its end, a collector that stalls prunes after it, or after the rollback has
taken its pin away. And no reading of time is common to all: wall clocks differ between hosts and are set, a monotonic
one starts anew with each boot, Redis' ``TIME`` is not that of LMDB's hosts. The number is in the catalog, which both
decide from. A fence needs no removal: a killed rollback's ends with the next publication, and holds back until then no
more than the rollback would have.
"""

from __future__ import annotations

import msgspec

_ANY_OFFSET = 2**63 - 1


class IncludedOffsets(msgspec.Struct, frozen=True):
    """By ``view@definition_version`` the log offset up to which every kept snapshot includes the events, as of a
    publication; 0 before the first."""

    publication: int = 0
    offsets: dict[str, int] = {}


class PruneFence(msgspec.Struct, frozen=True):
    """A limit: prunes decided before ``publication`` drop no events after ``offset``. By default none is limited."""

    offset: int = _ANY_OFFSET
    publication: int = 0

    def limit(self, through: int, decided: int) -> int:
        """The offset through which a prune decided at a publication drops events, at most ``through``."""
        return through if decided >= self.publication else min(through, self.offset)

    def pruned(self, through: int, decided: int) -> PruneFence:
        """The fence after a prune: earlier decisions drop no more than a later one."""
        return PruneFence(through, decided) if decided >= self.publication else self

    def restored(self, after: int, publication: int) -> PruneFence:
        """The fence once ``publication``, current or to come, needs the events after an offset."""
        return PruneFence(min(self.offset, after), max(self.publication, publication))


def encode_fence(fence: PruneFence) -> bytes:
    """The fence as stored: offset and publication, 8 bytes each."""
    return fence.offset.to_bytes(8, "big") + fence.publication.to_bytes(8, "big")


def decode_fence(stored: bytes | None) -> PruneFence:
    """The inverse of :func:`encode_fence`; ``None`` is no fence."""
    if stored is None:
        return PruneFence()
    return PruneFence(int.from_bytes(stored[:8], "big"), int.from_bytes(stored[8:], "big"))
