"""Placement of a request among several engines: by the beginning of its prompt, then by load.

An engine computes a beginning that it has in its prefix cache only once, so requests that begin alike should meet in
one engine. Rendezvous hashing (Thaler and Ravishankar, 1998) orders the engines for a beginning; every process finds
the same order without speaking to the others, and an engine that comes or goes moves the beginnings of that engine
alone. The first engine in this order whose load is within a bound of the least is chosen, after consistent hashing with
bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018), so a beginning leaves a busy engine for always the same next.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import msgspec

from antiphon.engine.api.messages import ChatTurn, GenerationRequest

CHUNK_BYTES = 128
"""Bytes of a text that stand for an engine's prefill chunk of 32 tokens; 32 token ids have as many."""

MOST_CHUNKS = 8
"""Chunks of a prompt that decide, at most. What is shared and shorter is computed once in every engine."""

EXCESS = 0.25
"""An engine without a free slot is passed over when its load is above the least one by this share. One that has a slot
is not: to compute a long beginning again costs more than to run beside others."""


class InstanceLoad(msgspec.Struct, frozen=True):
    """An engine by its name: ``busy`` requests are in it, ``slots`` of them run at once."""

    name: str
    busy: int
    slots: int


def affinity_key(request: GenerationRequest) -> bytes:
    """Names the beginning of a prompt, by model, tenant and its first chunks.

    The number of chunks is the greatest power of two that the prompt has, up to ``MOST_CHUNKS``: a conversation that
    grows by a turn has another key three times at most, and then never again.
    """
    content = _beginning(request)
    chunks = min(MOST_CHUNKS, len(content) // CHUNK_BYTES)
    if chunks:
        content = content[: CHUNK_BYTES << (chunks.bit_length() - 1)]
    own = hashlib.blake2b(f"{request.cache_salt}\0{request.model}".encode("utf-8", "surrogatepass"), digest_size=32)
    return hashlib.blake2b(content, key=own.digest(), digest_size=16).digest()


def _beginning(request: GenerationRequest) -> bytes:
    longest = CHUNK_BYTES * MOST_CHUNKS
    if request.prompt_ids:
        return array("i", request.prompt_ids[: longest // 4]).tobytes()
    text = request.prompt[:longest] or "".join(map(_turn, request.messages))[:longest]
    return text.encode("utf-8", "surrogatepass")[:longest]


def _turn(turn: ChatTurn) -> str:
    return f"{turn.role}\0{turn.content}\0"


def preference(key: bytes, names: Sequence[str]) -> list[str]:
    """The engines in the order of a beginning's preference."""

    def weight(name: str) -> bytes:
        return hashlib.blake2b(name.encode(), key=key, digest_size=8).digest()

    return sorted(names, key=lambda name: (weight(name), name), reverse=True)


def place(key: bytes, loads: Sequence[InstanceLoad]) -> InstanceLoad:
    """The engine for a request with this key, of one or more."""
    by_name = {one.name: one for one in loads}
    bound = max(1.0, (1 + EXCESS) * min(one.busy / one.slots for one in loads))
    ordered = [by_name[name] for name in preference(key, list(by_name))]
    return next(one for one in ordered if one.busy / one.slots < bound)


def least_loaded(loads: Sequence[InstanceLoad]) -> InstanceLoad:
    """The engine with the smallest load for its slots, of one or more."""
    return min(loads, key=lambda one: ((one.busy + 1) / one.slots, one.name))
