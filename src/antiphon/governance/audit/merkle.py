"""The Merkle tree of RFC 6962, section 2.1, over leaves that only ever grow: hashes, roots and proofs. Pure.

Invariant: a leaf and a node never hash alike (prefixes 0x00 and 0x01), so no proof of one passes for the other.

A tree of ``n`` leaves is remembered by its *peaks*: the roots of the complete subtrees that the binary digits of
``n`` name, the largest first. Peaks are all that appending needs. Proofs need nodes inside complete subtrees; of those
every :data:`STRIDE`-th level is kept, and the levels between are hashed from at most ``2 ** (STRIDE - 1)`` kept ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import msgspec

STRIDE = 4
"""Levels of which nodes are kept: 0 (the leaves), 4, 8, …: one node to about fifteen leaves."""

EMPTY = hashlib.sha256(b"").digest()
"""The root of no leaves."""

Kept = Callable[[int, int, int], Sequence[bytes]]
"""Kept nodes of a level at positions ``[start, end)``; a level is a multiple of :data:`STRIDE`, leaves are level 0."""


class Node(msgspec.Struct, frozen=True, order=True):
    """The root of the complete subtree over leaves ``[position << level, (position + 1) << level)``."""

    level: int
    position: int
    hash: bytes


class Tree(msgspec.Struct, frozen=True):
    """A tree of ``size`` leaves by its peaks."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    @property
    def root(self) -> bytes:
        """The tree's hash, 32 bytes (RFC 6962: MTH)."""
        return fold(self.peaks)

    def extended(self, leaves: Iterable[bytes]) -> tuple[Tree, list[Node]]:
        """The tree with these leaf hashes after the present ones, and the nodes to keep that became complete."""
        size, peaks, kept = self.size, list(self.peaks), []
        for leaf in leaves:
            top, level, rest = leaf, 0, size
            while rest & 1:
                top = node_hash(peaks.pop(), top)
                level, rest = level + 1, rest >> 1
                if level % STRIDE == 0:
                    kept.append(Node(level, size >> level, top))
            peaks.append(top)
            size += 1
        return Tree(size, tuple(peaks)), kept


def leaf_hash(content: bytes) -> bytes:
    """The hash of a leaf, 32 bytes."""
    return hashlib.sha256(b"\x00" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over two subtrees, 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(peaks: Sequence[bytes]) -> bytes:
    """The root over subtrees of falling size."""
    if not peaks:
        return EMPTY
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def inclusion(kept: Kept, sequence: int, size: int) -> tuple[bytes, ...]:
    """The audit path of leaf ``sequence`` in the tree of the first ``size`` leaves, from the leaf up (section 2.1.1).

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= sequence < size:
        raise ValueError(f"no leaf {sequence} in a tree of {size}")
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if sequence < middle:
            path.append(_range_root(kept, middle, end))
            end = middle
        else:
            path.append(_range_root(kept, start, middle))
            start = middle
    return tuple(reversed(path))


def consistency(kept: Kept, before: int, after: int) -> tuple[bytes, ...]:
    """Proof that the tree of ``before`` leaves is the beginning of the tree of ``after`` leaves (section 2.1.2).

    Empty when the sizes are equal or ``before`` is 0.

    Raises:
        ValueError: ``before`` is larger.
    """
    if not 0 <= before <= after:
        raise ValueError(f"a tree of {before} is no beginning of a tree of {after}")
    if before in (0, after):
        return ()
    start, end, whole, path = 0, after, True, []
    while before != end:
        middle = start + _split(end - start)
        if before <= middle:
            path.append(_range_root(kept, middle, end))
            end = middle
        else:
            path.append(_range_root(kept, start, middle))
            start, whole = middle, False
    if not whole:
        path.append(_range_root(kept, start, end))
    return tuple(reversed(path))


def included(leaf: bytes, sequence: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Verify an inclusion proof of the leaf (RFC 9162, section 2.1.3.2)."""
    if not 0 <= sequence < size:
        return False
    index, last, top = sequence, size - 1, leaf
    for hash in path:
        if last == 0:
            return False
        if index & 1 or index == last:
            top = node_hash(hash, top)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            top = node_hash(top, hash)
        index, last = index >> 1, last >> 1
    return last == 0 and top == root


def consistent(before: int, before_root: bytes, after: int, after_root: bytes, path: Sequence[bytes]) -> bool:
    """Verify a proof that one tree is the beginning of the other (RFC 9162, section 2.1.4.2)."""
    if not 0 <= before <= after:
        return False
    if before == after:
        return not path and before_root == after_root
    if before == 0:
        return not path and before_root == EMPTY
    hashes = list(path)
    if before & (before - 1) == 0:
        hashes.insert(0, before_root)
    if not hashes:
        return False
    index, last = before - 1, after - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    first = second = hashes[0]
    for hash in hashes[1:]:
        if last == 0:
            return False
        if index & 1 or index == last:
            first, second = node_hash(hash, first), node_hash(hash, second)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            second = node_hash(second, hash)
        index, last = index >> 1, last >> 1
    return last == 0 and first == before_root and second == after_root


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1


def _range_root(kept: Kept, start: int, end: int) -> bytes:
    """The root over leaves ``[start, end)``, where ``start`` is a multiple of the range's largest subtree."""
    peaks = []
    while start < end:
        level = (end - start).bit_length() - 1
        peaks.append(_complete(kept, level, start >> level))
        start += 1 << level
    return fold(peaks)


def _complete(kept: Kept, level: int, position: int) -> bytes:
    above = level % STRIDE
    hashes = list(kept(level - above, position << above, position + 1 << above))
    while len(hashes) > 1:
        hashes = [node_hash(*pair) for pair in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]
