"""Prefix cache: states of shared beginnings of prompts, in host memory, at chunk boundaries.

Invariant: a cached state is that of computing those tokens from position 0, bit for bit, because chunks are cut at the
same places for every sequence. A prefix is cached the second time it is seen: then it is known where the prompts part,
and prompts that never come again cost nothing. A prompt that is said to be continued is cached the first time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from antiphon.engine.execution.runtime import SequenceState

REMEMBERED = 65_536
"""Prefixes that are known to have been seen."""


@dataclass(frozen=True, slots=True)
class PrefixHashes:
    """``digests[i]`` names the first ``i + 1`` whole chunks of a prompt; its last token is never inside one."""

    digests: tuple[bytes, ...]
    chunk_tokens: int


def hash_prefixes(tokens: Sequence[int], chunk_tokens: int, salt: str = "") -> PrefixHashes:
    """Digests of every prefix of whole chunks that leaves at least one token to compute. Prompts of different salts
    share nothing."""
    hasher = hashlib.blake2b(digest_size=16, key=hashlib.blake2b(salt.encode(), digest_size=32).digest())
    content = np.asarray(tokens, dtype=np.int32)
    digests = []
    for start in range(0, len(tokens) - chunk_tokens, chunk_tokens):
        hasher.update(content[start : start + chunk_tokens].tobytes())
        digests.append(hasher.copy().digest())
    return PrefixHashes(tuple(digests), chunk_tokens)


class PrefixCache:
    """Cached prefixes of one model, at most ``capacity_bytes`` of them; the least recently used are dropped first."""

    def __init__(self, capacity_bytes: int = 256 << 20) -> None:
        self._capacity = capacity_bytes
        self._states: OrderedDict[bytes, SequenceState] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._bytes = 0

    def lookup(self, hashes: PrefixHashes) -> tuple[int, SequenceState] | None:
        """(tokens, state) of the longest cached prefix of this prompt."""
        for depth in range(len(hashes.digests), 0, -1):
            state = self._states.get(hashes.digests[depth - 1])
            if state is not None:
                self._states.move_to_end(hashes.digests[depth - 1])
                return depth * hashes.chunk_tokens, state
        return None

    def cacheable_tokens(self, hashes: PrefixHashes, *, continues: bool = False) -> tuple[int, ...]:
        """Lengths of the prefixes to cache: the one that this prompt shares with an earlier one, and the longest of a
        prompt that ``continues``; what is cached already is left out.

        Also remembers this prompt for those that follow.
        """
        shared = 0
        for depth, digest in enumerate(hashes.digests, start=1):
            if digest in self._seen:
                shared = depth
            self._seen[digest] = None
            self._seen.move_to_end(digest)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        depths = {shared, len(hashes.digests) if continues else 0} - {0}
        return tuple(
            depth * hashes.chunk_tokens for depth in sorted(depths) if hashes.digests[depth - 1] not in self._states
        )

    def insert(self, hashes: PrefixHashes, tokens: int, state: SequenceState) -> None:
        """Cache the state of the first ``tokens`` tokens (a chunk boundary) of a prompt."""
        digest = hashes.digests[tokens // hashes.chunk_tokens - 1]
        if state.nbytes > self._capacity or digest in self._states:
            return
        self._states[digest] = state
        self._bytes += state.nbytes
        while self._bytes > self._capacity:
            _, dropped = self._states.popitem(last=False)
            self._bytes -= dropped.nbytes
