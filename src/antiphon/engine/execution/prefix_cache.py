"""Shared beginnings of prompts: states kept in host memory at chunk boundaries.

Invariant: a kept state is what computing those tokens from position 0 gives, bit for bit, because chunks are cut
at the same places for everybody. A beginning is kept the second time it is seen: then it is known where the
prompts part, and prompts that never come again cost nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from antiphon.engine.execution.runtime import Kept


@dataclass(frozen=True, slots=True)
class Chain:
    """``digests[i]`` names the first ``i + 1`` whole chunks of a prompt; its last token is never inside one."""

    digests: tuple[bytes, ...]
    chunk_tokens: int


def chain_of(tokens: Sequence[int], chunk_tokens: int, salt: str = "") -> Chain:
    """Digests of every prefix of whole chunks that leaves at least one token to compute. Prompts of different salts
    share nothing."""
    hasher = hashlib.blake2b(digest_size=16, key=hashlib.blake2b(salt.encode(), digest_size=32).digest())
    content = np.asarray(tokens, dtype=np.int32)
    digests = []
    for start in range(0, len(tokens) - chunk_tokens, chunk_tokens):
        hasher.update(content[start : start + chunk_tokens].tobytes())
        digests.append(hasher.copy().digest())
    return Chain(tuple(digests), chunk_tokens)


class Prefixes:
    """Kept beginnings of one model, at most ``capacity_bytes`` of them; the least recently used go first."""

    def __init__(self, capacity_bytes: int = 256 << 20, remembered: int = 65_536) -> None:
        self._capacity = capacity_bytes
        self._remembered = remembered
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._bytes = 0

    def longest(self, chain: Chain) -> tuple[int, Kept] | None:
        """(tokens, state) of the longest kept beginning of this prompt."""
        for depth in range(len(chain.digests), 0, -1):
            kept = self._kept.get(chain.digests[depth - 1])
            if kept is not None:
                self._kept.move_to_end(chain.digests[depth - 1])
                return depth * chain.chunk_tokens, kept
        return None

    def worth_keeping(self, chain: Chain) -> int:
        """How many of this prompt's first tokens an earlier prompt had too; 0 when that is kept already.

        Also remembers this prompt for those that follow.
        """
        shared = 0
        for depth, digest in enumerate(chain.digests, start=1):
            if digest in self._seen:
                shared = depth
            self._seen[digest] = None
            self._seen.move_to_end(digest)
        while len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        if not shared or chain.digests[shared - 1] in self._kept:
            return 0
        return shared * chain.chunk_tokens

    def keep(self, chain: Chain, tokens: int, state: Kept) -> None:
        """Keep the state of the first ``tokens`` tokens (a chunk boundary) of a prompt."""
        digest = chain.digests[tokens // chain.chunk_tokens - 1]
        if state.nbytes > self._capacity or digest in self._kept:
            return
        self._kept[digest] = state
        self._bytes += state.nbytes
        while self._bytes > self._capacity:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
